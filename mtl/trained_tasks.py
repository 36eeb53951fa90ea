"""Finds trained tasks on disk, and checks the arguments of `evaluate`, `predict` and `export` before loading models."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from mtl.config import Run
from mtl.errors import Problem, UserError, listed, nearest
from mtl.files import entries, refuse_links
from mtl.push import check_push
from mtl.reading import Data, check_data
from mtl.run_files import (
    BEST_DIR,
    MODEL_DIR,
    RESULTS_FILE,
    RUN_FILE,
    TASK_FILE,
    TEACHER_DIR,
    no_run,
    read_run,
    read_task,
)
from mtl.run_record import file_problems, output_problems
from mtl.source import Source, is_missing, locate, type_fault
from mtl.taskdef import NAME, TaskDef

HOLDOUT = "holdout"  # split, in results, of the rows that a run held out of its training data
WEIGHTS = {"final": MODEL_DIR, "teacher": TEACHER_DIR}  # directories of a run that hold a shared encoder and heads


@dataclass(frozen=True)
class TrainedTasks:
    """Trained tasks on disk.

    Attributes:
        path: Directory of the run or export, or of several exports.
        run: The run; None for exports.
        weights: `best`, `final` or `teacher`.
        tasks: Task name → definition.
        folders: Task name → directory of its standalone model; empty if `shared` is set.
        shared: Directory of a shared encoder and all heads, for `final` and `teacher` weights.
    """

    path: Path
    run: Run | None
    weights: str
    tasks: dict[str, TaskDef]
    folders: dict[str, Path]
    shared: Path | None = None


def find_tasks(path: Path, names: list[str], weights: str) -> TrainedTasks:
    """Finds the tasks of a run or of exports.

    Args:
        path: Directory of a run, of an export, or of several exports, as `export` writes it.
        names: Tasks; all if empty.
        weights: For a run, `best` (each task's best step), `final` (the shared model after the last step) or `teacher`
            (the proximal term's moving average of the weights, after the last step).

    Raises:
        UserError: The directory holds neither a run nor exports, or a task or the weights are missing.
    """
    if exports := _exports(path):
        if weights != "best":
            raise UserError.of(str(path), f"is an export: it has only the exported weights, not the {weights} ones")
        _require(names, list(exports), path)
        tasks = {name: exports[name][0] for name in names or exports}
        return TrainedTasks(path, None, weights, tasks, {name: exports[name][1] for name in tasks})
    run = run_of(path)
    if run is None:
        raise UserError.of(str(path), no_run(path))
    _require(names, list(run.tasks), path)
    tasks = {name: run.tasks[name] for name in names or run.tasks}
    if weights == "best":
        folders = {name: path / BEST_DIR / name for name in tasks}
        if missing := [name for name, folder in folders.items() if not (folder / TASK_FILE).is_file()]:
            raise UserError.of(str(path), f"has no best step of {listed(missing)} yet: continue the run with --resume")
        return TrainedTasks(path, run, weights, tasks, folders)
    shared = path / WEIGHTS[weights]
    if not shared.is_dir():
        reason = ", or ran without the proximal term" if weights == "teacher" else "; continue it with --resume"
        raise UserError.of(str(path), f"has no {weights} weights: the run is not finished{reason}")
    return TrainedTasks(path, run, weights, tasks, {}, shared)


def _exports(path: Path) -> dict[str, tuple[TaskDef, Path]]:
    """Task name → (definition, directory) of the export in `path`, or of the exports in its subdirectories.

    Empty if `path` is a run directory or there are none.

    Raises:
        UserError: A `task.yml` is damaged, or two exports have the same task name.
    """
    if (path / RUN_FILE).is_file():
        return {}
    files = [path / TASK_FILE] if (path / TASK_FILE).is_file() else sorted(path.glob(f"[!.]*/{TASK_FILE}"))
    found: dict[str, tuple[TaskDef, Path]] = {}
    for file in files:
        for name, task in read_task(file).items():
            if name in found:
                raise UserError.of(str(path), f"holds {name!r} twice, in {found[name][1]} and {file.parent}: name one")
            found[name] = task, file.parent
    return found


def run_of(path: Path) -> Run | None:
    """The run in a directory, or None if there is none."""
    return read_run(path) if (path / RUN_FILE).is_file() else None


def _require(names: list[str], present: list[str], path: Path) -> None:
    problems = [
        Problem("--task", f"{path} has no task {name!r}; it has: {listed(present, 40)}{nearest(name, present)}")
        for name in names
        if name not in present
    ]
    if problems:
        raise UserError(problems)


def check_evaluation(
    path: Path, names: list[str], split: str, *, data_root: str | None, weights: str, output: Path | None
) -> tuple[TrainedTasks, Data]:
    """Checks the arguments of `evaluate`.

    Args:
        path: Directory of a run, of an export, or of several exports.
        names: Tasks; if empty, all that have the split.
        split: A split of the tasks, or a split of their data set that the definition does not name.
        data_root: Local mirror of the hub; by default the run's.
        weights: As for `find_tasks`.
        output: File for the metrics, as JSON.

    Returns:
        The tasks and their data of that split.

    Raises:
        UserError: There is no such run, export, task or split, or rows are invalid.
    """
    if not NAME.fullmatch(split):
        raise UserError.of("--split", f"{split!r} may hold letters, digits, '-' and '_' only (it names a file)")
    trained = find_tasks(path, names, weights)
    if trained.run is not None:
        refuse_links(path)
    root = data_root or (trained.run.config.data_root if trained.run else None)
    absent = [] if names else [name for name, task in trained.tasks.items() if _lacks(task, split, root)]
    if len(absent) < len(trained.tasks):  # else there is an error for each, which says what splits there are
        trained = replace(trained, tasks={name: task for name, task in trained.tasks.items() if name not in absent})
    held_out = split == HOLDOUT and trained.run is not None and trained.run.config.train.holdout is not None
    if held_out and all(_lacks(task, split, root) for task in trained.tasks.values()):
        told = f"held-out rows are no split of the data; {path / RESULTS_FILE} has their metrics"
        raise UserError.of("--split", told)
    data = check_data(trained.tasks, root, [split])
    data.warnings += [
        f"{name}/{split} is the training data itself, not held out; the model may have been trained on these rows"
        for name, sources in data.sources.items()
        if split in sources and split != "train" and _is_training_data(trained.tasks[name], sources[split], root)
    ]
    data.notes = [f"{name}: no {split} split here; it is not evaluated" for name in absent if name not in trained.tasks]
    inputs = [source.path for sources in data.sources.values() for source in sources.values() if source.path]
    if problems := data.problems + ([] if output is None else file_problems(output, inputs)):
        raise UserError(problems)
    return trained, data


def _is_training_data(task: TaskDef, source: Source, data_root: str | None) -> bool:
    training = locate(task, "train", data_root)
    if not isinstance(training, Source) or training.path is None or source.path is None:
        return training == source
    return training.fingerprint() == source.fingerprint()


def _lacks(task: TaskDef, split: str, data_root: str | None) -> bool:
    """Whether it is known without reading rows that a task has no such split."""
    if task.data.files is not None:
        return task.data.splits.get(split, split) not in task.data.files
    return is_missing(locate(task, split, data_root))


def check_prediction(path: Path, names: list[str], file: Path, output: Path, *, weights: str) -> TrainedTasks:
    """Checks the arguments of `predict`; the rows are read later.

    Args:
        path: Directory of a run, of an export, or of several exports.
        names: Tasks; may be empty if there is only one.
        file: Rows to predict.
        output: File for the predictions.
        weights: As for `find_tasks`.

    Raises:
        UserError: There is no such run, export or task; or a file is missing, of an unknown type, or would be
            overwritten.
    """
    problems = []
    if fault := type_fault(file):
        problems.append(Problem("--input", f"{file} {fault}"))
    elif not file.is_file():
        problems.append(Problem("--input", f"there is no file {file}"))
    if output.suffix not in (".jsonl", ".json", "") and not output.is_dir():
        problems.append(
            Problem("--output", f"predictions are JSON lines: name the file {output.with_suffix('.jsonl')}")
        )
    problems += file_problems(output, [file])
    try:
        trained = find_tasks(path, names, weights)
    except UserError as error:
        raise UserError([*error.problems, *problems]) from error
    if len(trained.tasks) > 1 and not names:
        told = f"name one of the tasks, or several with commas: {', '.join(trained.tasks)}"
        problems.append(Problem("--task", told))
    if problems:
        raise UserError(problems)
    return trained


def check_export(
    path: Path, names: list[str], output: Path, *, weights: str, overwrite: bool, push_to_hub: str | None
) -> tuple[TrainedTasks, dict[str, str]]:
    """Checks the arguments of `export`.

    Args:
        path: A run directory.
        names: Tasks; all if empty.
        output: Directory in which each task gets a subdirectory.
        weights: As for `find_tasks`.
        overwrite: Whether to replace earlier exports.
        push_to_hub: Repository on the hub to upload to; several tasks go to one each, `REPO-TASK`.

    Returns:
        The tasks, and task → repository, empty without `push_to_hub`.

    Raises:
        UserError: There is no such run or task, `path` is an export, a directory is in use, or nobody is logged in to
            the hub.
    """
    trained = find_tasks(path, names, weights)
    if trained.run is None:  # the model card needs information that only a run has
        raise UserError.of(str(path), "is already an export: copy the directory, which is self-contained")
    repositories = {} if push_to_hub is None else check_push(push_to_hub, list(trained.tasks))
    used = [name for name in trained.tasks if (output / name).exists()]
    if output.exists() and not output.is_dir():
        raise UserError.of("--output", f"{output} is a file; name a directory")
    if used and not overwrite:
        raise UserError(Problem("--output", f"{output / name} exists; --overwrite replaces it") for name in used)
    problems = [problem for name in trained.tasks for problem in output_problems(output / name)]
    problems += [
        Problem("--output", f"{output / name} is no export, and is not replaced; name another directory")
        for name in used
        if not _is_replaceable(output / name)
    ]
    if problems:
        raise UserError(problems)
    return trained, repositories


def _is_replaceable(folder: Path) -> bool:
    """Whether an export may replace what is there: another export, an empty directory, or a link."""
    return folder.is_symlink() or (folder / TASK_FILE).is_file() or (folder.is_dir() and not entries(folder))
