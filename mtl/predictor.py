"""Predictions and embeddings from Python: `mtl.load` and the `Model` it returns.

Legend: N texts, D hidden size of the encoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from mtl.checks import Row, text_fault
from mtl.errors import Problem, UserError, listed, nearest
from mtl.taskdef import TaskDef
from mtl.trained_tasks import WEIGHTS, find_tasks, run_of
from mtl.wording import Folder, words_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from mtl.batch import Batch
    from mtl.data import Examples
    from mtl.export import Loaded

Texts: TypeAlias = "Sequence[str] | Sequence[tuple[str, str]] | Sequence[tuple[str, Sequence[str]]]"

SHOWN = 5  # invalid texts that an error lists individually


def load(
    path: Folder, weights: str = "best", tasks: Sequence[str] | None = None, *, trust_remote_code: bool = False
) -> Model:
    """Loads trained tasks for prediction and embedding.

    Args:
        path: Directory of a run, of an export, or of several exports.
        weights: For a run, `best` (each task's best step), `final` (the shared model after the last step) or `teacher`
            (the proximal term's moving average of the weights).
        tasks: Tasks to load; all by default.
        trust_remote_code: Whether the models may run their own code.

    Raises:
        UserError: There is no such run, export or task.
    """
    with words_of(None):
        if weights not in (allowed := ("best", *WEIGHTS)):
            raise UserError.of("weights", f"is {weights!r}; allowed: {listed(allowed)}{nearest(weights, allowed)}")
        trained = find_tasks(Path(path), names_of(tasks), weights)
        from mtl.export import load_tasks

        loaded = load_tasks(trained, trust_remote_code=trust_remote_code)
        return Model(Path(path), weights, loaded, trust_remote_code=trust_remote_code)


class Model:
    """Trained tasks, ready to use; returned by `load`.

    Attributes:
        path: Directory of the run or of the exports.
        weights: `best`, `final` or `teacher`; see `load`.
        tasks: Task name → definition.
    """

    def __init__(
        self, path: Path, weights: str, loaded: Mapping[str, Loaded], *, trust_remote_code: bool = False
    ) -> None:
        self.path, self.weights, self._loaded = path, weights, dict(loaded)
        self._trust_remote_code = trust_remote_code
        self._shared: tuple[Any, Any] | None = None

    @property
    def tasks(self) -> dict[str, TaskDef]:
        return {name: item.task for name, item in self._loaded.items()}

    def __repr__(self) -> str:
        return f"<mtl.Model {self.path} ({self.weights}): {listed(list(self._loaded))}>"

    def predict(self, task: str, texts: Texts) -> list[dict[str, Any]]:
        """Predicts texts with one task's model.

        Args:
            task: Name of the task.
            texts: For single-text tasks, texts; for pair tasks, (text, text). For rankings, (query, candidate), where
                pairs with the same query are ranked together, or (query, [candidate, …]), where the list may be empty;
                rankings of single texts take texts, which are ranked together.

        Returns:
            One record per text or pair, in input order: `row` (its position from 0) and, for classification, `label`
            and `probabilities`; for regression, `value`; for ranking, `score` and `rank`.

        Raises:
            UserError: There is no such task, or the texts do not have the shape that the task needs.
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
            texts: N texts; those longer than the encoder's maximum length are truncated, or with `task`, and of single
                exports, those longer than the task's.
            task: The task whose encoder is used. By default the encoder that all tasks share; for a run loaded with
                `best` weights, whose tasks have encoders of different steps, the shared encoder after the last step.

        Returns:
            (N, D), in input order.

        Raises:
            UserError: There is no such task, no shared encoder, or an item is not text.
        """
        from mtl.data import encode
        from mtl.tokenizer import usable_length

        encoder, tokenizer = self._encoder(task)
        texts = _in_order(texts)
        wrong = [
            Problem(f"texts[{i}]", text_fault(text) if isinstance(text, str) else f"is {text!r:.60}; expected text")
            for i, text in enumerate(texts)
            if not isinstance(text, str) or text_fault(text)
        ]
        if wrong:
            raise UserError(_first(wrong))
        if not texts:
            return self.embed(["."], task)[:0]  # only a forward pass tells the width of every architecture
        rows = (Row(position, text, None, None, None) for position, text in enumerate(texts))
        examples = encode(rows, tokenizer, usable_length(tokenizer, encoder.config))
        return _embeddings(encoder, examples, tokenizer, next(iter(self.tasks.values())))

    def _item(self, task: str) -> Loaded:
        if not isinstance(task, str) or task not in self._loaded:
            message = (
                f"there is no task {task!r}; loaded are: {listed(list(self._loaded))}{nearest(task, self._loaded)}"
            )
            raise UserError.of("task", message)
        return self._loaded[task]

    def _encoder(self, task: str | None) -> tuple[Any, Any]:
        """The encoder that `embed` uses, and its tokenizer."""
        from mtl.export import load_encoder
        from mtl.tokenizer import load_tokenizer

        if task is None and self.weights != "best" and self._shared is None:
            folder = str(self.path / WEIGHTS[self.weights])  # whose tokenizer has no task's limit
            tokenizer = load_tokenizer(folder, trust_remote_code=self._trust_remote_code)
            self._shared = next(iter(self._loaded.values())).model.base_model, tokenizer
        if task is None:
            if self._shared is None and run_of(self.path) is not None:
                self._shared = load_encoder(self.path, trust_remote_code=self._trust_remote_code)
            if self._shared is not None:
                return self._shared
            if len(self._loaded) > 1:
                told = f"exports have an encoder each: name the task; loaded are: {listed(list(self._loaded))}"
                raise UserError.of("task", told)
        item = next(iter(self._loaded.values())) if task is None else self._item(task)
        return item.model.base_model, item.tokenizer


def names_of(tasks: Sequence[str] | None) -> list[str]:
    """Task names from Python as a list.

    Raises:
        UserError: A single string was given, whose characters would be taken for names.
    """
    if isinstance(tasks, str):
        raise UserError.of("tasks", f"is {tasks!r}; expected a list of names, such as [{tasks!r}]")
    return [] if tasks is None else list(tasks)


def _embeddings(encoder: Any, examples: Examples, tokenizer: Any, task: TaskDef) -> npt.NDArray[np.float32]:
    """Mean-pooled embeddings, (N, D); texts of similar length are batched together."""
    import torch

    from mtl.batch import collate
    from mtl.evaluate import split_outputs
    from mtl.precision import best_device

    def mean(batch: Batch) -> Tensor:
        states = encoder(**batch.inputs).last_hidden_state.float()  # (B, T, D)
        real = batch.attention_mask[:, :, None].float()
        pooled: Tensor = (states * real).sum(dim=1) / real.sum(dim=1)
        return pooled

    encoder = encoder.get_encoder() if encoder.config.is_encoder_decoder else encoder
    encoder, pad_id = encoder.to(best_device()), tokenizer.pad_token_id
    shortest = collate(examples, examples.lengths.argsort()[:1], pad_id, task.type).to(best_device())
    with torch.no_grad():
        width = mean(shortest).shape[1]  # may differ from config.hidden_size
    return split_outputs(encoder, mean, examples, task, pad_id, width=width)


def _in_order(texts: Any) -> list[Any]:
    """Texts as a list.

    Raises:
        UserError: It is a single string, a table, an unordered set, or not iterable.
    """
    if isinstance(texts, str):
        raise UserError.of("texts", "is one text; expected a list of texts")
    if isinstance(texts, Mapping) or hasattr(texts, "columns"):  # iterating would yield column names
        raise UserError.of("texts", "is a table; expected a list of texts, such as one of its columns")
    if isinstance(texts, Set):
        raise UserError.of("texts", "is a set, which has no order; expected a list of texts")
    try:
        return list(texts)
    except TypeError:
        raise UserError.of("texts", f"is {texts!r:.60}; expected a list of texts") from None


def _rows(task: TaskDef, texts: Texts) -> list[Row]:
    """Texts as rows.

    Raises:
        UserError: An item does not have the shape that the task needs.
    """
    rows: list[Row] = []
    problems: list[Problem] = []
    for index, item in enumerate(_in_order(texts)):
        found = _parts(task, item, index)
        parts = [text for *texts, _ in found or () for text in texts[: 1 + task.is_pair]]
        if found is not None and all(isinstance(text, str) for text in parts):
            problems += [Problem(f"texts[{index}]", fault) for fault in map(text_fault, parts) if fault]
            rows += [Row(len(rows) + place, a, b, None, group) for place, (a, b, group) in enumerate(found)]
        else:
            problems.append(Problem(f"texts[{index}]", f"is {item!r:.60}; expected {_shape(task)}"))
    if problems:
        raise UserError(_first(problems))
    return rows


def _parts(task: TaskDef, item: Any, index: int) -> list[tuple[Any, Any, str | None]] | None:
    """(first text, second text, group) of each row in one item of `texts`; None if its shape is wrong."""
    parts = item if isinstance(item, (tuple, list)) else (item,)
    if len(parts) != 1 + task.is_pair:
        return None
    if not task.is_pair:
        return [(item, None, None)]
    first, second = parts
    if task.type != "ranking":
        return [(first, second, None)]
    if isinstance(first, str) and isinstance(second, (tuple, list)):
        return [(first, candidate, f"list {index}") for candidate in second]
    return [(first, second, f"query {first}")]


def _shape(task: TaskDef) -> str:
    if task.is_cross_encoder:
        return "(query, candidate) or (query, [candidate, …])"
    return "(text, text)" if task.is_pair else "text"


def _first(problems: list[Problem]) -> list[Problem]:
    more = len(problems) - SHOWN
    return problems[:SHOWN] + ([Problem("texts", f"{more:,} more like these")] if more > 0 else [])
