"""Checks before a run: all problems are found and reported together, before torch or an encoder is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mtl.config import Run, RunConfig, resolve
from mtl.definitions import TaskDefs, read_task_defs
from mtl.encoder import ENCODERS, find_encoder, lasting
from mtl.errors import Problem, UserError, listed, nearest
from mtl.files import TEMPORARY, entries
from mtl.heads import FRESH, REUSE, head_note, head_problem
from mtl.reading import Data, Earlier, check_data
from mtl.run_files import (
    FOLDED,
    MODEL_DIR,
    PROVENANCE_FILE,
    RUN_FILE,
    TASK_FILE,
    TASKS_FILE,
    earlier_runs,
    read_config,
    run_needed,
)
from mtl.settings import Sourced
from mtl.source import Source, locate
from mtl.taskdef import TaskDef
from mtl.trackers import telemetry_problems

BEGINNING = (PROVENANCE_FILE, TASKS_FILE)  # files that a run killed during its start may leave


@dataclass(frozen=True)
class Request:
    """The user's request, unresolved.

    Attributes:
        output: Directory of the run.
        task_defs: Definition files, or definitions as plain data.
        config: Run configuration file.
        overrides: Settings of flags and `--set`.
        tasks: Tasks to select, in order; all when empty.
        resume: Whether to continue the run in `output`.
        overwrite: Whether the run in `output` may be replaced.
        run_dir: In adaptation, the run to start from.
    """

    output: Path
    task_defs: Sequence[TaskDefs] = ()
    config: str | None = None
    overrides: Sourced = field(default_factory=Sourced)
    tasks: Sequence[str] = ()
    resume: bool = False
    overwrite: bool = False
    run_dir: Path | None = None


@dataclass(frozen=True)
class Checked:
    """A run that passed all checks.

    Attributes:
        run: Its resolved configuration and tasks.
        encoder: The encoder's name for `from_pretrained`.
        data: The tasks' data, without problems.
    """

    run: Run
    encoder: str
    data: Data


def check_train(request: Request) -> Checked:
    """Check a multi-task run: definitions, configuration, data, encoder and output together.

    Raises:
        UserError: With all problems found.
    """
    request = _resumed(request)
    file, problems = read_config(request.config)
    named = list(request.task_defs) or file.data.get("task_defs") or []
    if not problems and not (isinstance(named, list) and named):
        message = "no task definition file is given; `run_mtl.py init DATA_FILE` proposes one for your data"
        problems.append(Problem("TASK_DEFS", message))
    definitions, found = read_task_defs(named if isinstance(named, list) else [])
    return _finish(request, definitions, file, problems + found, _settled(request, file))


def check_adapt(request: Request, task: str) -> Checked:
    """Check an adaptation: the run to start from, the task, and everything that `check_train` checks.

    Raises:
        UserError: With all problems found.
    """
    request = _resumed(request)
    run_dir = request.run_dir
    assert run_dir is not None
    own, tasks_file = run_dir / RUN_FILE, run_dir / TASKS_FILE
    if not own.is_file():
        raise UserError.of(
            str(run_dir), run_needed(run_dir, "adapt", ", but an export can be the --encoder of `train`")
        )
    if not (run_dir / MODEL_DIR).is_dir():
        raise UserError.of(str(run_dir), "is an unfinished run; continue it with --resume first")
    first, problems = read_config(str(own))
    definitions, found = read_task_defs([tasks_file])
    problems += found
    known = {name: definition.data for name, definition in definitions.items()}
    file, found = read_config(request.config)
    if file.data.get("phase") == "train":  # its `head` is for `train`, where all heads are new
        file = Sourced({key: value for key, value in file.data.items() if key != "head"}, file.places)
    extra, wrong = read_task_defs(list(request.task_defs) or file.data.get("task_defs") or [])
    settled = _settled(request, file) if task in extra else first.child("inherited")
    definitions |= extra
    problems += found + wrong
    if task not in definitions:
        message = f"there is no task {task!r}; the run has: {listed(list(known))}; define others with --task-defs FILE"
        problems.append(Problem("--task", message + nearest(task, definitions)))
        definitions = {}
    head = str(request.overrides.data.get("head") or file.data.get("head") or (REUSE if task in known else FRESH))
    fixed = {"phase": "adapt", "encoder": str((run_dir / MODEL_DIR).resolve()), "head": head}
    inherited = {key: first.data[key] for key in ("data_root", "leaks") if key in first.data}
    file = Sourced(fixed, {(): "adapt"}).over(file).over(Sourced(inherited, {(): str(own)}))
    wanted = [task] if task in definitions else []
    _, resolved, _ = resolve(definitions, file, request.overrides, wanted, settled) if wanted else (None, {}, [])
    definition = resolved[task].model_dump() if task in resolved else {}
    wrong_head = head_problem(head, task, definition, known) if definition else None
    problems += [Problem("--head", wrong_head)] if wrong_head else []
    checked = _finish(replace(request, tasks=wanted), definitions if wanted else {}, file, problems, settled)
    if note := head_note(head, task, definition, known):
        checked.data.notes.append(note)
    checked.data.notes += _switched_on(first, file.over(request.overrides), checked.run)
    if checked.run.config.leaks == "ignore" == first.data.get("leaks") and "leaks" not in request.overrides.data:
        checked.data.notes.append(f"leaks are not searched for, as in {run_dir}: --leaks warn searches for them")
    return checked


def read_data(
    config: RunConfig | None, tasks: Mapping[str, TaskDef], data_root: str | None, encoder: str | None
) -> Data:
    """Read every split of every task, and search for leaks as the configuration says.

    Args:
        config: The run's configuration; None if it is invalid.
        tasks: The tasks.
        data_root: Local mirror of the hub.
        encoder: The encoder's directory or hub id; None if it is unknown.
    """
    search = config is None or config.leaks != "ignore"
    held_out = config is not None and config.train.holdout is not None
    if config is None or encoder is None or not search:
        return check_data(tasks, data_root, search=search, held_out=held_out)
    before = _trained_before(encoder, tasks, data_root, config.leaks)
    data = check_data(tasks, data_root, search=True, held_out=held_out, before=before)
    if (Path(encoder) / TASK_FILE).is_file() and next(earlier_runs(encoder), None) is None:
        data.notes.append(f"{encoder} is an export: the rows that it was trained on are not searched for leaks")
    return data


def _trained_before(
    encoder: str, tasks: Mapping[str, TaskDef], data_root: str | None, leaks: str
) -> dict[str, Earlier]:
    """Tasks of the runs that trained an encoder whose training rows must be searched for evaluation rows.

    Where this run does not leave leaks out (`leaks: drop`), tasks with the same data as the task of the same name here
    are excluded, because their training rows are searched anyway. A run that left leaks out has none if it has every
    task here, with the same data.
    """
    found: dict[str, Earlier] = {}
    for run in earlier_runs(encoder):
        roots = {name: _mirror(task, run.config.data_root, data_root) for name, task in run.tasks.items()}
        same = frozenset(
            name
            for name, task in run.tasks.items()
            if name in tasks and task.data == tasks[name].data and roots[name] in (None, data_root)
        )
        clean = same if run.config.leaks == "drop" else frozenset()
        if clean == tasks.keys():
            continue
        for name, task in run.tasks.items():
            key, root = name, roots[name]
            while key in tasks or (key in found and (found[key].task.data, found[key].data_root) != (task.data, root)):
                key += " before"
            if name not in same or leaks == "drop":
                known = found.get(key)
                found[key] = Earlier(task, root, clean if known is None else clean & known.clean)
    return found


def _mirror(task: TaskDef, then: str | None, now: str | None) -> str | None:
    """The mirror that has an earlier task's training rows: of its time, or else of this run; None for files."""
    if task.data.hub is None:
        return None
    return then if then is not None and isinstance(locate(task, "train", then), Source) else now


def _switched_on(first: Sourced, given: Sourced, run: Run) -> list[str]:
    """Notes on regularizers that are on by default, although the run to start from was trained without them."""
    return [
        f"{term} is on, as by default, although the run to start from was trained with --no-{name}; the same setting "
        "here switches it off"
        for name, term in (("smart", "R_s"), ("proximal", "D"))
        if first.child("train", name).data is False
        and given.child("train", name).data == {}  # `child` of an absent key
        and any(getattr(task, name).weight > 0 for task in run.tasks.values())
    ]


def _resumed(request: Request) -> Request:
    """Let a resumed run use its own configuration file if no files are given.

    Raises:
        UserError: There is no run to resume, or `overwrite` is set too.
    """
    if request.resume and request.overwrite:
        raise UserError.of("--overwrite", "cannot be combined with --resume; remove one of them")
    if request.resume and (problems := check_output(request.output, resume=True, overwrite=False)):
        raise UserError(problems)
    if request.resume and not request.task_defs and request.config is None:
        return replace(request, config=str(request.output / RUN_FILE))
    return request


def _settled(request: Request, file: Sourced) -> Sourced:
    """Inherited values by task, from a `run.yml`, unless the definitions come from elsewhere."""
    return Sourced() if request.task_defs else file.child("inherited")


def _finish(
    request: Request,
    definitions: Mapping[str, Sourced],
    file: Sourced,
    problems: list[Problem],
    settled: Sourced,
) -> Checked:
    config, tasks, found = resolve(definitions, file, request.overrides, request.tasks, settled)
    problems += found + check_output(request.output, resume=request.resume, overwrite=request.overwrite)
    spec = request.overrides.over(file).data.get("encoder")
    encoder = spec
    if spec is None:
        problems = [problem for problem in problems if problem.message != "the key 'encoder' is missing"]
        if request.config is None or file.data:  # otherwise an unreadable file is the actual problem
            problems.append(Problem("--encoder", f"is missing; {ENCODERS}"))
    if isinstance(spec, str):
        try:
            encoder = find_encoder(spec, on_hub=not problems)  # which may take long
        except UserError as error:
            problems += error.problems
    if config is not None:
        problems += run_problems(Run(config, tasks), file, request.overrides, resume=request.resume)
    data_root = directory(request.overrides.over(file).data.get("data_root"))
    data = read_data(config, tasks, data_root, encoder if isinstance(encoder, str) and not problems else None)
    problems += data.problems
    data.warnings += [problem.message for problem in training_data_itself(tasks, data)]
    if not request.resume:
        files = [source.path for parts in data.sources.values() for source in parts.values()]
        problems += _in_output(request.output, [encoder, *files])
    if problems or config is None:
        raise UserError(problems)
    places = {"task_defs": [TASKS_FILE], "data_root": data_root, "encoder": lasting(config.encoder)}
    return Checked(Run(config.model_copy(update={**places, **FOLDED}), tasks), str(encoder), data)


def training_data_itself(tasks: Mapping[str, TaskDef], data: Data) -> list[Problem]:
    """Report evaluation splits that are the training data itself."""
    told = "is the training data itself, so metrics there say nothing about new texts"
    return [
        Problem(
            tasks[name].place("data", "files", split),
            f"{name}/{split} {told}; hold rows out with --set train.holdout=0.1, or name other rows there",
        )
        for name, _, split in (place.partition("/") for place in data.itself)
    ]


def _in_output(output: Path, needed: Sequence[Any]) -> list[Problem]:
    """Report an encoder or data files within the output directory, which `overwrite` would delete."""
    local = [path for path in needed if isinstance(path, (str, Path)) and Path(path).is_absolute()]
    inside = [path for path in local if output.resolve() in Path(path).resolve().parents]
    told = "which is needed; name another directory"
    return [Problem("--output", f"{output} holds {path}, {told}") for path in inside[:1]]


def run_problems(run: Run, file: Sourced, overrides: Sourced, *, resume: bool = False) -> list[Problem]:
    """Settings that are valid individually, but not in this run or environment."""
    problems = _trust_problems(run.config, file, overrides) + telemetry_problems(run.config)
    if run.config.phase == "train" and run.config.head != FRESH:
        message = f"head is for `adapt`: in `train` every head is new, so only {FRESH!r} is allowed"
        problems.append(Problem(overrides.over(file).place(("head",)), message))
    return problems if resume else problems + idle_problems(run)


def idle_problems(run: Run) -> list[Problem]:
    """Tasks whose R_s would be 0 in every step, at the cost of the passes that compute it."""
    problems = []
    for name, task in run.tasks.items():
        smart = run.as_trained(name).smart
        if smart.weight == 0 or smart.dropout == "independent" or smart.epsilon * smart.noise_std > 0:
            continue
        key = "epsilon" if smart.epsilon == 0 else "noise_std"  # without noise, the ascent starts where g = 0
        message = f"{name}.smart.{key}: 0 makes R_s always 0; smart.weight: 0 or --no-smart switches it off"
        problems.append(Problem(task.place("smart", key), message))
    return problems


def _trust_problems(config: RunConfig, file: Sourced, overrides: Sourced) -> list[Problem]:
    """Report a file that enables `trust_remote_code`, which is allowed only on the command line."""
    if not config.trust_remote_code or overrides.data.get("trust_remote_code"):
        return []
    message = "trust_remote_code works only on the command line (--trust-remote-code): a file may be a stranger's"
    return [Problem(file.place(("trust_remote_code",)), message)]


def directory(data_root: Any) -> str | None:
    """Return the absolute path of `data_root`, or None if it is not a path."""
    return str(Path(data_root).expanduser().resolve()) if isinstance(data_root, str) else None


def check_output(output: Path, *, resume: bool, overwrite: bool) -> list[Problem]:
    """Check that the output directory may be written: it is new, empty, resumed, or a run that may be replaced."""
    if resume:
        if (output / RUN_FILE).is_file():
            return []
        return [Problem("--resume", f"there is no run in {output} to continue; leave --resume out to start one")]
    if not output.exists():
        return []
    if not output.is_dir():
        return [Problem("--output", f"{output} is a file; name a directory")]
    if all(path.name in BEGINNING or path.name.startswith(TEMPORARY) for path in entries(output)):
        return []
    if not (output / RUN_FILE).is_file():
        return [Problem("--output", f"{output} contains files but no run; name another directory")]
    if overwrite:
        return []
    return [Problem("--output", f"{output} holds a run; --resume continues it, --overwrite replaces it")]
