"""Experiment trackers beside TensorBoard, by way of Accelerate: which there are, and what they are told of a run."""

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
    """One that Accelerate knows.

    Attributes:
        packages: Distributions that bring it, any of which will do; the first is what to install.
        options: The run's directory, and whether the run is continued, to what its `init` takes.
        forbidden: Characters that it takes in no name.
    """

    packages: tuple[str, ...]
    options: Callable[[Path, bool], dict[str, Any]]
    forbidden: str = ""


def telemetry_problems(config: RunConfig) -> list[Problem]:
    """What of the section `telemetry` cannot be done here."""
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
    try:  # a directory of that name, which a tracker may have left here, is no package
        version(package)
    except PackageNotFoundError:
        return False
    return True


class Trackers:
    """The trackers of a run, in the process that writes.

    Args:
        accelerator: An `Accelerator` that was made with `log_with`.
        run: Configuration and tasks.
        folder: The run directory.
        resumed: Whether the run is continued.
    """

    def __init__(self, accelerator: Any, run: Run, folder: Path, *, resumed: bool) -> None:
        settings, self._started = run.config.telemetry, accelerator.trackers
        options = {name: TRACKERS[name].options(folder, resumed) for name in settings.trackers}
        with contextlib.ExitStack() as failed:
            failed.callback(self.finish)  # one that began does not stay open because the next one cannot begin
            accelerator.init_trackers(settings.project, hyperparameters(run), options)
            failed.pop_all()

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Logs values by their TensorBoard tags."""
        for tracker in self._started:
            known = TRACKERS.get(tracker.name)
            pattern = f"[{re.escape(known.forbidden)}]" if known and known.forbidden else r"(?!)"
            tracker.log({re.sub(pattern, "-", tag): value for tag, value in values.items()}, step=step)

    def finish(self) -> None:
        """Ends all of them, also where one cannot be ended.

        Accelerate's own `end_training` would also take the run's processes apart, which go on: they save the model, and
        with `--baselines` train again.
        """
        with contextlib.ExitStack() as ending:
            for tracker in self._started:
                ending.callback(tracker.finish)
            self._started.clear()


def hyperparameters(run: Run) -> dict[str, Scalar]:
    """What decides a run, by the keys of `--set` (`optimizer.name`, `tasks.rte.smart.weight`): as resolved.

    Tasks are described as they are trained; what is unset or off and what no result depends on is left out.
    """
    config = run.config
    sections = config.model_dump(include={"encoder", "phase", "head", "leaks", *DECIDING})
    for key in (*PER_TASK, "log_every"):  # what tasks hold, and what decides nothing
        sections["train"].pop(key)
    if config.train.max_steps is not None:
        sections["train"].pop("epochs")
    for name in run.tasks:
        task = run.regularized(name).model_dump(include=set(OF_TASKS))
        for term in ("smart", "proximal"):
            if not task[term]["weight"]:
                task[term] = {"weight": 0.0}
        sections.setdefault("tasks", {})[name] = task
    return {key: value for key, value in leaves(sections) if isinstance(value, Scalar)}


DECIDING = ("train", "optimizer", "schedule", "sampling")
OF_TASKS = (
    "loss",
    "weight",
    "dropout",
    "batch_size",
    "batch_tokens",
    "max_length",
    "learning_rate",
    "smart",
    "proximal",
)


def _named(key: str) -> Callable[[Path, bool], dict[str, Any]]:
    """Options of a tracker that only needs the run's name, which is its directory as it was typed."""
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
