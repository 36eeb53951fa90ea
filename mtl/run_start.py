"""Start of a run directory: the files that describe the run, with which a resumed run has to agree."""

from __future__ import annotations

import hashlib
import json
import platform
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtl.config import Run, dump_run, dump_tasks
from mtl.data import Examples
from mtl.errors import Problem, UserError, listed
from mtl.files import empty_directory, refuse_links, write_file
from mtl.launch import PROCESSES
from mtl.machine import RECORDED_PACKAGES, git_revision, installed_version
from mtl.origin import Origin, Phase, find_origin
from mtl.plain_data import parse_yaml
from mtl.precedence import leaves
from mtl.preflight import Checked, check_output
from mtl.run_files import MODEL_DIR, PROVENANCE_FILE, RUN_FILE, TASKS_FILE, TEACHER_DIR, read_results, read_run
from mtl.run_record import read_provenance

INDIFFERENT = ("num_proc", "telemetry", "inherited")  # settings and sections that a resumed run may change
PLACES = ("encoder", "data_root")


Splits = Mapping[str, Mapping[str, Examples]]


def start_directory(
    checked: Checked,
    splits: Splits,
    output: Path,
    *,
    resume: bool,
    overwrite: bool,
    command: Sequence[str] | None,
    hardware: Mapping[str, Any],
) -> None:
    """Write the files that describe the run, or check that a resumed run agrees with them.

    Args:
        checked: The run.
        splits: Tokenised data by task and split.
        output: The run directory.
        resume: Whether the run in it is continued.
        overwrite: Whether a run in it is replaced.
        command: The command line, None for a run from Python.
        hardware: The fields `device` and `processes` of the provenance.

    Raises:
        UserError: The directory is in use or contains links, or its run has another configuration or other data.
    """
    if problems := check_output(output, resume=resume, overwrite=overwrite):  # again: others may have come first
        raise UserError(problems)
    data = fingerprints(splits)
    if resume:
        refuse_links(output)
        _require_same(checked.run, data, output)
        return
    empty_directory(output)
    texts = {RUN_FILE: dump_run(checked.run), TASKS_FILE: dump_tasks(checked.run.tasks)}
    provenance = {
        "command": None if command is None else list(command),
        **hardware,
        **_provenance(checked),
        "data": data,
        "settings": _settings_digest(*texts.values()),
    }
    write_file(output / PROVENANCE_FILE, json.dumps(provenance, indent=1))
    write_file(output / TASKS_FILE, texts[TASKS_FILE])
    write_file(output / RUN_FILE, texts[RUN_FILE])


def _require_same(run: Run, data: Mapping[str, str], output: Path) -> None:
    """Check that a run to be resumed has the configuration, tasks and data with which it began."""
    before = read_run(output)
    problems = setting_changes(run, before, output)
    begun = _begun(output / PROVENANCE_FILE)
    settings = _settings_digest(*((output / file).read_text("utf-8") for file in (RUN_FILE, TASKS_FILE)))
    if begun.get("settings", settings) != settings:  # earlier versions did not record it
        message = f"{RUN_FILE} or {TASKS_FILE} was edited since the run began; undo that, or start a new run with it"
        problems.append(Problem("--resume", message))
    stored = begun["data"]
    for key in () if problems else sorted(stored.keys() | data.keys()):  # other settings choose or encode other rows
        if stored.get(key) != data.get(key):
            problems.append(Problem("--resume", f"the data of {key} has changed since the run began"))
    if problems:
        message = (
            f"{output} can only be resumed unchanged: leave out what differs, or name another --output without --resume"
        )
        raise UserError([*problems, Problem("--resume", message)])


def _provenance(checked: Checked) -> dict[str, Any]:
    """Where a run comes from, apart from command, hardware and tokenised data."""
    import torch

    origin = origin_of(checked)
    sources = {f"{n}/{split}": source for n, parts in checked.data.sources.items() for split, source in parts.items()}
    versions = {package: installed_version(package) for package in RECORDED_PACKAGES}
    return {
        "seed": checked.run.config.train.seed,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions | {"torch": torch.__version__},  # with the CUDA build, which the package's version lacks
        "git_revision": git_revision(),
        "origin": None if origin is None else origin.model_dump(),
        "contents": {place: source.fingerprint() for place, source in sources.items()},
        "sources": {place: str(source) for place, source in sources.items()},
        "leaks": [leak.as_json() for leak in checked.data.leaks.leaks()],
    }


def origin_of(checked: Checked) -> Origin | None:
    """Origin of the run's encoder; if another run has trained it, the origin that run recorded, if any."""
    folder = Path(checked.encoder)
    adapts = checked.run.config.phase == "adapt"
    known = _known_to(folder.parent) if adapts or folder.name in (MODEL_DIR, TEACHER_DIR) else None
    return known if adapts or known else find_origin(checked.run.config.encoder, checked.encoder)


def _known_to(before: Path) -> Origin | None:
    """Origin of the encoder that a run has trained, with that run as its last phase."""
    try:
        provenance, results = read_provenance(before), read_results(before)
    except UserError:
        return None
    if provenance is None or provenance.origin is None:
        return None
    phases = [*provenance.origin.phases, Phase(tasks=list(results["tasks"]), steps=results["steps"])]
    return provenance.origin.model_copy(update={"phases": phases})


def fingerprints(splits: Splits) -> dict[str, str]:
    """`TASK/SPLIT` to the fingerprint of its rows and their encoding."""
    return {f"{name}/{split}": part.fingerprint for name, parts in splits.items() for split, part in parts.items()}


def _settings_digest(run_text: str, tasks_text: str) -> str:
    """Digest of a run's settings, except those that may change and the places of encoder and data, which may move."""
    settings, tasks = (
        parse_yaml(text, file)[0].data for text, file in ((run_text, RUN_FILE), (tasks_text, TASKS_FILE))
    )
    said = [
        {key: value for key, value in settings.items() if key not in (*INDIFFERENT, *PLACES)},
        {name: {key: value for key, value in task.items() if key != "data"} for name, task in tasks.items()},
    ]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _begun(path: Path) -> dict[str, Any]:
    try:
        provenance = dict(json.loads(path.read_text(encoding="utf-8")))
        return {**provenance, "data": dict(provenance["data"])}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise UserError.of(str(path), "is missing or damaged, so it is unknown whether the data is the same") from None


def setting_changes(new: Run, old: Run, output: Path) -> list[Problem]:
    """Settings and tasks that a resumed run would change."""
    problems, both = list[Problem](), new.tasks.keys() & old.tasks.keys()
    if list(new.tasks) != list(old.tasks):  # the order matters: tasks take turns in it
        named, had = listed(list(new.tasks), 40), listed(list(old.tasks), 40)
        problems.append(Problem("--resume", f"the tasks are {named}, but the run has the tasks {had}"))
    before, after = (
        dict(leaves({**run.config.model_dump(), "tasks": {name: run.tasks[name].model_dump() for name in both}}))
        for run in (old, new)
    )
    return problems + [
        Problem("--resume", f"{key} is {after.get(key)!r}, but {output / _file_of(key)} says {before.get(key)!r}")
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and key.split(".")[0] not in INDIFFERENT
    ]


def _file_of(key: str) -> str:
    return TASKS_FILE if key.startswith("tasks.") else RUN_FILE


def resume_command(command: Sequence[str] | None) -> str:
    """How to resume a run, as the end of a message: after "continue with"."""
    if command is None:
        return " resume=True"
    flags = ("--overwrite", "--resume")  # or an abbreviation
    words = [word for word in command if len(word) <= 2 or not any(flag.startswith(word) for flag in flags)]
    if PROCESSES > 1:
        return " the same launcher and:\n  " + shlex.join([*words, "--resume"])
    python = ["python"] if words[0].endswith(".py") else []
    return ":\n  " + shlex.join([*python, *words, "--resume"])
