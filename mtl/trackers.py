"""Experiment trackers other than TensorBoard, used through Accelerate, and the hyperparameters they record."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mtl.config import Run, RunConfig
from mtl.errors import Problem
from mtl.launch import SHARDED
from mtl.precedence import PER_TASK, leaves

Scalar = str | bool | int | float


@dataclass(frozen=True)
class Tracker:
    """A tracker that Accelerate supports.

    Attributes:
        packages: Distributions that provide it, any of which suffices; the first is the one to install.
        options: Maps the run directory, and whether the run is resumed, to the tracker's `init` options.
        forbidden: Characters that it does not accept in names.
    """

    packages: tuple[str, ...]
    options: Callable[[Path, bool], dict[str, Any]]
    forbidden: str = ""


def telemetry_problems(config: RunConfig) -> list[Problem]:
    """Settings of the section `telemetry` that this environment does not support."""
    problems = []
    for name in config.telemetry.trackers:
        packages = TRACKERS[name].packages
        if not any(map(_is_installed, packages)):
            message = f"{name} is not installed: pip install {packages[0]}"
            problems.append(Problem("telemetry.trackers", message))
    if config.telemetry.gradient_cosine_every is not None and SHARDED:
        message = "does not work with FSDP: no process holds a whole gradient"
        problems.append(Problem("telemetry.gradient_cosine_every", message))
    return problems


def _is_installed(package: str) -> bool:
    try:  # unlike an import, not misled by a directory of that name that a tracker left in the working directory
        version(package)
    except PackageNotFoundError:
        return False
    return True


class Trackers:
    """The trackers of a run, in the main process.

    Args:
        accelerator: An `Accelerator` created with `log_with`.
        run: Configuration and tasks.
        folder: The run directory.
        resumed: Whether the run is resumed.
    """

    def __init__(self, accelerator: Any, run: Run, folder: Path, *, resumed: bool) -> None:
        settings, self._started = run.config.telemetry, accelerator.trackers
        options = {name: TRACKERS[name].options(folder, resumed) for name in settings.trackers}
        with contextlib.ExitStack() as failed:
            failed.callback(self.finish)  # close the trackers already started if a later one fails to start
            accelerator.init_trackers(settings.project, hyperparameters(run), options)
            failed.pop_all()

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log values under their TensorBoard tags, with forbidden characters replaced by dashes."""
        for tracker in self._started:
            known = TRACKERS.get(tracker.name)
            pattern = f"[{re.escape(known.forbidden)}]" if known and known.forbidden else r"(?!)"
            tracker.log({re.sub(pattern, "-", tag): value for tag, value in values.items()}, step=step)

    def finish(self) -> None:
        """Finish all trackers, even if one of them fails to finish.

        Accelerate's own `end_training` would also shut down the process group, which is still needed: to save the
        model and, with `--baselines`, to train again.
        """
        with contextlib.ExitStack() as ending:
            for tracker in self._started:
                ending.callback(tracker.finish)
            self._started.clear()


def hyperparameters(run: Run) -> dict[str, Scalar]:
    """Resolved settings that affect results, by the keys of `--set` (`optimizer.name`, `tasks.rte.smart.weight`).

    Tasks are described as they are trained. Settings that are unset or disabled are left out.
    """
    config = run.config
    sections = config.model_dump(include={"encoder", "phase", "head", "leaks", *DECIDING})
    for key in (*PER_TASK, "log_every"):  # listed per task, or without effect on results
        sections["train"].pop(key)
    if config.train.max_steps is not None:
        sections["train"].pop("epochs")
    for name in run.tasks:
        task = run.as_trained(name).training_settings()
        for term in ("smart", "proximal"):
            if not task[term]["weight"]:
                task[term] = {"weight": 0.0}
        sections.setdefault("tasks", {})[name] = task
    return {key: value for key, value in leaves(sections) if isinstance(value, Scalar)}


DECIDING = ("train", "optimizer", "schedule", "sampling")


def _named(key: str) -> Callable[[Path, bool], dict[str, Any]]:
    """Options of a tracker that needs only the run's name: the run directory as the user gave it."""
    return lambda folder, resumed: {key: folder.as_posix()}


TRACKERS: dict[str, Tracker] = {
    "aim": Tracker(("aim",), lambda folder, resumed: {}),
    "clearml": Tracker(("clearml",), _named("task_name")),
    "comet_ml": Tracker(("comet_ml",), lambda folder, resumed: {}),
    "dvclive": Tracker(("dvclive",), lambda folder, resumed: {"dir": str(folder / "dvclive"), "resume": resumed}),
    "mlflow": Tracker(("mlflow", "mlflow-skinny"), _named("run_name"), forbidden="@"),
    "swanlab": Tracker(("swanlab",), _named("experiment_name"), forbidden="@."),
    "trackio": Tracker(("trackio",), _named("name")),
    "wandb": Tracker(("wandb",), _named("name")),
}
