"""Validation rows of the studied tasks, and the metrics of answers that ignore the text.

    python -m benchmarks.chance --output benchmarks/figures/chance.json

The answer is the majority class or the mean label of all training rows; for rankings, a random order.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mtl.data import prepare
from mtl.encoder import find_encoder
from mtl.evaluate import counts, score_baseline
from mtl.reading import check_data
from mtl.report import number, table
from mtl.study import read_study
from mtl.tokenizer import load_tokenizer

STUDIES = Path(__file__).resolve().parent / "studies"
MAX_LENGTH = 128


def measure(paths: Iterable[Path], data_root: str | None) -> dict[str, dict[str, Any]]:
    """Task → `counts` of its validation split, and `metrics`: metric → value; for tasks judged by that split."""
    found: dict[str, dict[str, Any]] = {}
    for path in paths:
        study = read_study(path, data_root)
        for name in study.config.tasks if study.config.select == "validation" else ():
            if name in found:
                continue
            task, tokenizer = study.tasks[name], load_tokenizer(find_encoder(study.config.encoder))
            sources = check_data({name: task}, study.config.data_root, ["train", "validation"]).sources[name]
            train, rows = (
                prepare(name, task, sources[split], tokenizer, MAX_LENGTH, bar=False)
                for split in ("train", "validation")
            )
            found[name] = {"counts": counts(task, rows), "metrics": score_baseline(task, train, rows)}
    return found


def main() -> None:
    """Command line."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.chance",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--data-root", metavar="DIR", help="local mirror of the hub (default: the studies')")
    made.add_argument("--output", type=Path, metavar="FILE", help="also write the figures as JSON")
    words = made.parse_args()
    tasks = measure(sorted(STUDIES.glob("*.yml")), words.data_root)
    rows = [
        (name, found["counts"]["n"], metric, number(value))
        for name, found in tasks.items()
        for metric, value in found["metrics"].items()
    ]
    print(table(("task", "rows", "metric", "value"), rows))
    if words.output is not None:
        words.output.write_text(json.dumps({"tasks": tasks}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
