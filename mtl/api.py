"""The toolkit from Python: `import mtl`, then `mtl.train`, `mtl.adapt` and `mtl.load`.

The command line is a thin layer on this. Nothing is printed unless it is asked for, and what is wrong with a request is
one `UserError` with all its problems.

Legend: N texts, D width of the encoder.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from mtl.checks import Row
from mtl.config import from_mapping
from mtl.display import Display
from mtl.errors import Problem, UserError, listed, nearest
from mtl.launch import PROCESSES
from mtl.preflight import Checked, Request, check_adapt, check_train
from mtl.settings import Sourced
from mtl.taskdef import TaskDef, TaskDefs

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from mtl.batch import Batch
    from mtl.data import Examples
    from mtl.export import Loaded

Folder: TypeAlias = "str | os.PathLike[str]"
Definitions: TypeAlias = "TaskDefs | Sequence[TaskDefs]"
Texts: TypeAlias = "Sequence[str] | Sequence[tuple[str, str]] | Sequence[tuple[str, Sequence[str]]]"

SHOWN = 5  # wrong texts that are told one by one


@dataclass(frozen=True)
class Trained:
    """A finished run.

    Attributes:
        path: Its directory.
        results: What its `results.json` holds.
        warnings: What a user should look at, such as training rows that stand in evaluation rows.
    """

    path: Path
    results: dict[str, Any] = field(repr=False)
    warnings: tuple[str, ...] = ()

    def load(self, weights: str = "best") -> Model:
        """The run's models; see `load`."""
        return load(self.path, weights)


def train(
    task_defs: Definitions = (),
    *,
    output: Folder,
    encoder: str | None = None,
    tasks: Sequence[str] | None = None,
    data_root: Folder | None = None,
    config: Folder | None = None,
    settings: Mapping[str, Any] | Sourced | None = None,
    resume: bool = False,
    overwrite: bool = False,
    baselines: bool = False,
    verbose: bool = False,
    display: Display | None = None,
    command: Sequence[str] | None = None,
) -> Trained:
    """Trains one shared encoder on several tasks.

    Args:
        task_defs: Task definitions: a YAML file, a mapping of the same shape (task name to definition; file paths in it
            are relative to the working directory), or several of these. A run that is resumed has its own.
        output: Directory of the run.
        encoder: Hub id, directory, or `pkg:PACKAGE/SUBDIR`.
        tasks: Tasks to take, in order; all by default.
        data_root: Local mirror of the hub.
        config: Run configuration file, such as another run's `run.yml`.
        settings: Any key of the configuration, dotted or nested, such as
            `{"train.max_steps": 100, "tasks.rte.smart.weight": 3}`.
        resume: Whether to continue the run in `output`.
        overwrite: Whether to replace it.
        baselines: Whether to train each task alone afterwards, for the steps it got, and compare.
        verbose: Whether to print what the command line prints; by default nothing is.
        display: What shows the run instead.
        command: The command line that asked, if one did: it is recorded, and messages are in its words.

    Returns:
        The finished run.

    Raises:
        UserError: The request is wrong; nothing was started.
        Interrupted: A signal came; what was trained is in the newest checkpoint.
        NonFiniteError: A loss or gradient became NaN or infinite, and may not be skipped.
        StorageError: Something could not be written.
    """
    with _words_of(command):
        typed = _typed(settings, encoder=encoder, data_root=data_root)
        request = _request(task_defs, output, typed, config, resume=resume, overwrite=overwrite, tasks=tasks or ())
        shown = display or _display(verbose)
        return _run(lambda: check_train(request), request, shown, command, baselines=baselines)


def adapt(
    run_dir: Folder,
    *,
    task: str,
    output: Folder,
    task_defs: Definitions = (),
    head: str | None = None,
    data_root: Folder | None = None,
    config: Folder | None = None,
    settings: Mapping[str, Any] | Sourced | None = None,
    resume: bool = False,
    overwrite: bool = False,
    verbose: bool = False,
    display: Display | None = None,
    command: Sequence[str] | None = None,
) -> Trained:
    """Fine-tunes a trained run on one task, known or new.

    Args:
        run_dir: A run that `train` finished.
        task: The task's name.
        output: Directory of the new run.
        task_defs: Definitions of new tasks; see `train`.
        head: `reuse` (by default, where the run has a head of the task), `fresh`, or the name of another task of the
            run with the same type and number of outputs, whose head it starts from.
        data_root: Local mirror of the hub; by default the run's.
        config: Run configuration file.
        settings: Any key of the configuration; see `train`.
        resume: Whether to continue the run in `output`.
        overwrite: Whether to replace it.
        verbose: Whether to print what the command line prints.
        display: What shows the run instead.
        command: The command line that asked, if one did.

    Returns:
        The finished run.

    Raises:
        UserError: The request is wrong; nothing was started. Others are those of `train`.
    """
    with _words_of(command):
        typed = _typed(settings, head=head, data_root=data_root)
        request = _request(task_defs, output, typed, config, resume=resume, overwrite=overwrite, run_dir=Path(run_dir))
        return _run(lambda: check_adapt(request, task), request, display or _display(verbose), command)


def load(path: Folder, weights: str = "best", tasks: Sequence[str] | None = None) -> Model:
    """Loads what was trained, for use.

    Args:
        path: Directory of a run or an export.
        weights: Of a run, `best` (each task's best step), `final` (the shared model after the last step) or `teacher`
            (the proximal term's slow average).
        tasks: Tasks to load; all by default.

    Raises:
        UserError: There is no such run, export or task.
    """
    from mtl.export import WEIGHTS, load_tasks

    with _words_of(None):
        if weights not in (allowed := ("best", *WEIGHTS)):
            raise UserError.of("weights", f"is {weights!r}; allowed: {listed(allowed)}{nearest(weights, allowed)}")
        return Model(Path(path), weights, load_tasks(Path(path), list(tasks or ()), weights))


class Model:
    """Trained tasks, ready to use; made by `load`.

    Attributes:
        path: The run or export.
        weights: Which weights of a run these are.
        tasks: Task name to definition.
    """

    def __init__(self, path: Path, weights: str, loaded: Mapping[str, Loaded]) -> None:
        self.path, self.weights, self._loaded = path, weights, dict(loaded)
        self._shared: tuple[Any, Any] | None = None

    @property
    def tasks(self) -> dict[str, TaskDef]:
        return {name: item.task for name, item in self._loaded.items()}

    def __repr__(self) -> str:
        return f"<mtl.Model {self.path} ({self.weights}): {listed(list(self._loaded))}>"

    def predict(self, task: str, texts: Texts) -> list[dict[str, Any]]:
        """Predicts texts with one task's model.

        Args:
            task: The task's name.
            texts: Texts, for pairs (text, text). In ranking (query, candidate), where pairs with the same query are
                ranked together, or (query, [candidate, …]).

        Returns:
            One record per text, in their order: `row` (its position) and, in classification, `label` and
            `probabilities`, in regression `value`, in ranking `score` and `rank`.

        Raises:
            UserError: No such task, or texts of another shape.
        """
        from mtl.data import encode
        from mtl.evaluate import prediction_records
        from mtl.inference import outputs_of

        item = self._item(task)
        rows = _rows(item.task, texts)
        if not rows:
            return []
        examples = encode(rows, item.tokenizer, item.limit)
        (outputs,) = outputs_of([item], examples)
        return list(prediction_records(item.task, outputs, examples))

    def embed(self, texts: Sequence[str], task: str | None = None) -> npt.NDArray[np.float32]:
        """Sentence embeddings: the mean of the encoder's last hidden states over the real tokens of each text.

        Args:
            texts: N texts; longer ones than the encoder takes are truncated.
            task: Whose encoder it is. By default the one that all tasks share: of a run's `best` weights, which are of
                another step for each task, that is the shared encoder after the last step.

        Returns:
            (N, D), in the order of the texts.

        Raises:
            UserError: No such task, no shared encoder, or something that is no text.
        """
        import numpy as np

        from mtl.data import encode, usable_length

        encoder, tokenizer = self._encoder(task)
        wrong = [
            Problem(f"texts[{i}]", f"is {text!r:.60}; expected text")
            for i, text in enumerate(texts)
            if not isinstance(text, str)
        ]
        if isinstance(texts, str) or wrong:
            raise UserError(_first(wrong) or [Problem("texts", "is one text; expected a list of texts")])
        if not texts:
            return np.zeros((0, encoder.config.hidden_size), dtype=np.float32)
        rows = (Row(position, text, None, None, None) for position, text in enumerate(texts))
        examples = encode(rows, tokenizer, usable_length(tokenizer, encoder.config))
        return _embeddings(encoder, examples, tokenizer, next(iter(self.tasks.values())))

    def _item(self, task: str) -> Loaded:
        if task not in self._loaded:
            message = (
                f"there is no task {task!r}; loaded are: {listed(list(self._loaded))}{nearest(task, self._loaded)}"
            )
            raise UserError.of("task", message)
        return self._loaded[task]

    def _encoder(self, task: str | None) -> tuple[Any, Any]:
        """An encoder and its tokenizer."""
        from mtl.export import load_encoder

        items = list(self._loaded.values()) if task is None else [self._item(task)]
        if len({id(item.model.base_model) for item in items}) == 1:
            return items[0].model.base_model, items[0].tokenizer
        if self._shared is None:
            self._shared = load_encoder(self.path)
        return self._shared


def _embeddings(encoder: Any, examples: Examples, tokenizer: Any, task: TaskDef) -> npt.NDArray[np.float32]:
    """(N, D); rows of like length are computed together."""
    from mtl.evaluate import split_outputs
    from mtl.inference import best_device

    def mean(batch: Batch) -> Tensor:
        states = encoder(**batch.inputs).last_hidden_state.float()  # (B, T, D)
        real = batch.attention_mask[:, :, None].float()
        pooled: Tensor = (states * real).sum(dim=1) / real.sum(dim=1)
        return pooled

    encoder = encoder.to(best_device())
    return split_outputs(encoder, mean, examples, task, tokenizer.pad_token_id, width=encoder.config.hidden_size)


def _rows(task: TaskDef, texts: Texts) -> list[Row]:
    """Texts as rows.

    Raises:
        UserError: One has not the shape that the task reads.
    """
    if isinstance(texts, str):
        raise UserError.of("texts", "is one text; expected a list of them")
    rows: list[Row] = []
    problems: list[Problem] = []
    for index, item in enumerate(texts):
        found = list(_parts(task, item, index))
        if found and all(isinstance(text, str) for *texts, _ in found for text in texts[: 1 + task.is_pair]):
            rows += [Row(len(rows) + place, a, b, None, group) for place, (a, b, group) in enumerate(found)]
        else:
            problems.append(Problem(f"texts[{index}]", f"is {item!r:.60}; expected {_shape(task)}"))
    if problems:
        raise UserError(_first(problems))
    return rows


def _parts(task: TaskDef, item: Any, index: int) -> Iterator[tuple[Any, Any, str | None]]:
    """First text, second text and group of each row that an item stands for; none where its shape is wrong."""
    parts = item if isinstance(item, (tuple, list)) else (item,)
    if not task.is_pair and len(parts) == 1:
        yield item, None, None
    elif task.is_pair and len(parts) == 2:
        ranking, (first, second) = task.type == "ranking", parts
        if ranking and isinstance(second, (tuple, list)):
            yield from ((first, candidate, f"list {index}") for candidate in second)
        else:
            yield first, second, f"query {first}" if ranking else None


def _shape(task: TaskDef) -> str:
    if task.type == "ranking":
        return "(query, candidate) or (query, [candidate, …])"
    return "(text, text)" if task.is_pair else "text"


def _first(problems: list[Problem]) -> list[Problem]:
    more = len(problems) - SHOWN
    return problems[:SHOWN] + ([Problem("texts", f"{more:,} more like these")] if more > 0 else [])


def _typed(settings: Mapping[str, Any] | Sourced | None, **named: Any) -> Sourced:
    """Settings, with what has an argument of its own over them."""
    base = settings if isinstance(settings, Sourced) else from_mapping(settings or {})
    own = {key: os.fspath(value) for key, value in named.items() if value is not None}
    return Sourced(own, {(key,): key for key in own}).over(base)


def _request(task_defs: Definitions, output: Folder, typed: Sourced, config: Folder | None, **more: Any) -> Request:
    named = [task_defs] if isinstance(task_defs, (str, os.PathLike, Mapping)) else list(task_defs)
    return Request(Path(output), named, None if config is None else os.fspath(config), typed, **more)


def _run(
    check: Callable[[], Checked],
    request: Request,
    display: Display,
    command: Sequence[str] | None,
    *,
    baselines: bool = False,
) -> Trained:
    checked = _checked(check)
    from mtl.baselines import require_several, train_baselines
    from mtl.phases import run_phase

    if baselines:
        require_several(checked)
    flags = {"resume": request.resume, "overwrite": request.overwrite}
    results = run_phase(checked, request.output, **flags, command=command, display=display)
    if baselines:
        results = train_baselines(checked, request.output, results, command=command, display=display)
    return Trained(request.output, results, tuple(display.warnings))


def _checked(check: Callable[[], Checked]) -> Checked:
    """What a check gives, in all processes or in none; nothing heavy is imported for a single one."""
    if PROCESSES == 1:
        return check()
    from mtl.processes import Processes

    return Processes.current().together(check)


def _display(verbose: bool) -> Display:
    return Display("normal" if verbose else "silent")


# Flag to the key it sets; `--set KEY=VALUE` reaches every other key.
FLAGS = {
    "encoder": "encoder",
    "data_root": "data_root",
    "head": "head",
    "leaks": "leaks",
    "num_proc": "num_proc",
    "epochs": "train.epochs",
    "max_steps": "train.max_steps",
    "learning_rate": "train.learning_rate",
    "batch_size": "train.batch_size",
    "max_length": "train.max_length",
    "precision": "train.precision",
    "seed": "train.seed",
    "train_size": "train.train_size",
    "train_fraction": "train.train_fraction",
    "smart": "train.smart",
    "proximal": "train.proximal",
    "sampler": "sampling.strategy",
    "trust_remote_code": "trust_remote_code",
}
ARGUMENTS = ("encoder", "data_root", "head", "output", "task", "tasks", "task_defs", "config", "resume", "overwrite")
SWITCHES = ("--resume", "--overwrite")


@contextlib.contextmanager
def _words_of(command: Sequence[str] | None) -> Iterator[None]:
    """Tells what is wrong in the words of the caller: arguments and settings for a program, flags for a command."""
    try:
        yield
    except UserError as error:
        if command is not None:
            raise
        problems = [Problem(_spoken(p.where, ""), _spoken(p.message, "=True")) for p in error.problems]
        raise UserError(problems) from error.__cause__


def _spoken(text: str, value: str) -> str:
    def word(match: re.Match[str]) -> str:
        name = match[1].replace("-", "_")
        if name in ARGUMENTS:
            return name + (value if match[0] in SWITCHES else "")
        return f"settings[{FLAGS[name]!r}]" if name in FLAGS else match[0]

    return re.sub(r"--([a-z]+(?:-[a-z]+)*)", word, text)
