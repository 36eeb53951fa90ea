"""What `evaluate`, `predict` and `export` are asked of a run or an export, checked before anything of it is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mtl.config import Run
from mtl.errors import Problem, UserError, listed, nearest
from mtl.files import refuse_links
from mtl.preflight import RUN_FILE, TASK_FILE, no_run, read_run, read_task
from mtl.push import check_push
from mtl.reading import Data, check_data
from mtl.runrecord import output_problems
from mtl.source import SUFFIXES
from mtl.taskdef import NAME, TaskDef

WEIGHTS = {"final": "model", "teacher": "teacher"}  # directories of a run that hold a shared encoder and heads


@dataclass(frozen=True)
class Stored:
    """Trained tasks as they lie on disk.

    Attributes:
        path: Directory of the run or export, or of several exports.
        run: The run; None of exports.
        weights: Which weights of a run these are.
        tasks: Task name to definition.
        folders: Task name to its standalone model; empty where one directory holds them all.
        shared: That directory, of a shared encoder and all heads.
    """

    path: Path
    run: Run | None
    weights: str
    tasks: dict[str, TaskDef]
    folders: dict[str, Path]
    shared: Path | None = None


def find_tasks(path: Path, names: list[str], weights: str) -> Stored:
    """Finds tasks of a run or of exports.

    Args:
        path: A run directory, an export's, or one that holds exports, as `export` writes it.
        names: Tasks; all when empty.
        weights: Of a run, `best` (each task's best step), `final` (the shared model after the last step) or `teacher`
            (the slow average that the proximal term pulls towards, after the last step).

    Raises:
        UserError: The directory is neither, or a task is not in it.
    """
    if exports := _exports(path):
        if weights != "best":
            raise UserError.of(str(path), f"is an export: it has the weights that were exported, and no {weights} ones")
        _require(names, list(exports), path)
        tasks = {name: exports[name][0] for name in names or exports}
        return Stored(path, None, weights, tasks, {name: exports[name][1] for name in tasks})
    run = run_of(path)
    if run is None:
        raise UserError.of(str(path), no_run(path))
    _require(names, list(run.tasks), path)
    tasks = {name: run.tasks[name] for name in names or run.tasks}
    if weights == "best":
        folders = {name: path / "best" / name for name in tasks}
        if missing := [name for name, folder in folders.items() if not (folder / TASK_FILE).is_file()]:
            raise UserError.of(str(path), f"has no best step of {listed(missing)} yet: continue the run with --resume")
        return Stored(path, run, weights, tasks, folders)
    shared = path / WEIGHTS[weights]
    if not shared.is_dir():
        reason = ", or ran without the proximal term" if weights == "teacher" else "; continue it with --resume"
        raise UserError.of(str(path), f"has no {weights} weights: the run is not finished{reason}")
    return Stored(path, run, weights, tasks, {}, shared)


def _exports(path: Path) -> dict[str, tuple[TaskDef, Path]]:
    """Task name to definition and folder of the export that a directory is, or of those in it unless it is a run.

    Raises:
        UserError: A damaged `task.yml`, or several exports of one name.
    """
    if (path / RUN_FILE).is_file():
        return {}
    files = [path / TASK_FILE] if (path / TASK_FILE).is_file() else sorted(path.glob(f"*/{TASK_FILE}"))
    found: dict[str, tuple[TaskDef, Path]] = {}
    for file in files:
        for name, task in read_task(file).items():
            if name in found:
                raise UserError.of(str(path), f"holds {name!r} twice, in {found[name][1]} and {file.parent}: name one")
            found[name] = task, file.parent
    return found


def run_of(path: Path) -> Run | None:
    """The run that a directory holds, or None where it holds none."""
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
) -> tuple[Stored, Data]:
    """Checks what `evaluate` is asked.

    Args:
        path: A run directory or an export's.
        names: Tasks; all when empty.
        split: A split of the tasks, or a split of their data set that the definition does not name.
        data_root: Local mirror of the hub; by default the run's.
        weights: As for `find_tasks`.
        output: File for the metrics as JSON.

    Returns:
        The tasks and their data of that split.

    Raises:
        UserError: No such run, export, task or split, or rows that are wrong.
    """
    if not NAME.fullmatch(split):
        raise UserError.of("--split", f"{split!r} may hold letters, digits, '-' and '_' only (it names a file)")
    stored = find_tasks(path, names, weights)
    if stored.run is not None:
        refuse_links(path)
    root = data_root or (stored.run.config.data_root if stored.run else None)
    data = check_data(stored.tasks, root, [split])
    inputs = [source.path for sources in data.sources.values() for source in sources.values() if source.path]
    if problems := data.problems + ([] if output is None else output_problems(output, inputs)):
        raise UserError(problems)
    return stored, data


def check_prediction(path: Path, names: list[str], file: Path, output: Path, *, weights: str) -> Stored:
    """Checks what `predict` is asked; the rows are read later.

    Args:
        path: A run directory or an export's.
        names: Tasks; may be left out where there is one.
        file: Rows to predict.
        output: File for the predictions.
        weights: As for `find_tasks`.

    Raises:
        UserError: No such run, export or task, or a file that is missing, of another type or in the way.
    """
    problems = []
    if file.suffix not in SUFFIXES:
        problems.append(Problem("--input", f"{file} is of an unknown type; allowed: {', '.join(SUFFIXES)}"))
    elif not file.is_file():
        problems.append(Problem("--input", f"there is no file {file}"))
    if output.suffix not in (".jsonl", ".json"):
        problems.append(
            Problem("--output", f"predictions are JSON lines: name the file {output.with_suffix('.jsonl')}")
        )
    problems += output_problems(output, [file])
    try:
        stored = find_tasks(path, names, weights)
    except UserError as error:
        raise UserError([*error.problems, *problems]) from error
    if len(stored.tasks) > 1 and not names:
        told = f"name one of the tasks, or several with commas: {', '.join(stored.tasks)}"
        problems.append(Problem("--task", told))
    if problems:
        raise UserError(problems)
    return stored


def check_export(
    path: Path, names: list[str], output: Path, *, weights: str, overwrite: bool, push_to_hub: str | None
) -> tuple[Stored, dict[str, str]]:
    """Checks what `export` is asked.

    Args:
        path: A run directory.
        names: Tasks; all when empty.
        output: Where to; each task gets a directory there.
        weights: As for `find_tasks`.
        overwrite: Whether earlier exports are replaced.
        push_to_hub: Repository on the hub that is written too; with several tasks one for each, `REPO-TASK`.

    Returns:
        The tasks, and each one's repository if they are to be pushed.

    Raises:
        UserError: No such run or task, an export in place of a run, a directory in use, or no access to the hub.
    """
    stored = find_tasks(path, names, weights)
    if stored.run is None:  # its card tells what only the run knows
        raise UserError.of(str(path), "is exported already: copy the directory, which needs nothing beside it")
    repositories = {} if push_to_hub is None else check_push(push_to_hub, list(stored.tasks))
    used = [name for name in stored.tasks if (output / name).exists()]
    if output.exists() and not output.is_dir():
        raise UserError.of("--output", f"{output} is a file; name a directory")
    if used and not overwrite:
        raise UserError(Problem("--output", f"{output / name} exists; --overwrite replaces it") for name in used)
    problems = [problem for name in stored.tasks for problem in output_problems(output / name)]
    problems += [
        Problem("--output", f"{output / name} is a run; name another")
        for name in used
        if (output / name / RUN_FILE).is_file()
    ]
    if problems:
        raise UserError(problems)
    return stored, repositories
