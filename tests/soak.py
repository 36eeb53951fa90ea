"""Kills a real training process again and again, resumes it, and compares the end with an undisturbed run.

    python tests/soak.py --kills 20

Two thirds of the kills come at random moments of training and start-up, one third while a checkpoint, a best step or
another file is being written. Everything has to be the same to the bit: final checkpoint, model, teacher, best steps,
predictions, log and results.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from conftest import make_corpus, make_encoder
from forked import Forked

from mtl.checkpoint import checkpoint_directories
from mtl.files import TEMPORARY

STEPS_PER_KILL = 40
MOMENTS = ("writing", "training", "start-up", "training", "writing", "training")
PATIENCE = 60.0  # seconds to wait for a moment
COMPARED = ("results.json", "metrics.jsonl", "predictions/*", "model/*", "teacher/*", "best/*/*")


def command(folder: Path, output: Path, steps: int, options: Sequence[str]) -> list[str]:
    """Words that start a run of `steps` steps, or continue it if it has begun."""
    if (output / "run.yml").is_file():
        return ["train", "--output", str(output), "--resume"]
    definitions, encoder = str(folder / "corpus" / "tasks.yml"), str(folder / "encoder")
    words = ["train", definitions, "--encoder", encoder, "--output", str(output)]
    settings = ["evaluation.every=7", "checkpoint.every=3", "train.accumulation=2", "train.log_every=5"]
    return [
        *words, "--batch-size", "8", "--learning-rate", "1e-3", "--max-steps", str(steps),
        *(word for setting in settings for word in ("--set", setting)), *options,
    ]  # fmt: skip


def wait_and_kill(process: Forked, output: Path, moment: str, chance: random.Random) -> bool:
    """Sends SIGKILL at a moment of a kind; False if the process had ended by itself before."""
    log, until = output / "metrics.jsonl", time.monotonic() + PATIENCE
    before = log.stat().st_size if log.is_file() else 0

    def is_training() -> bool:
        return log.is_file() and log.stat().st_size != before

    def is_writing() -> bool:
        return is_training() and any(output.rglob(f"{TEMPORARY}*"))

    arrived = {"start-up": lambda: True, "training": is_training, "writing": is_writing}[moment]
    while process.poll() is None and time.monotonic() < until and not arrived():
        time.sleep(0.0005)
    time.sleep(chance.uniform(0.0, {"start-up": 2.0, "training": 1.5, "writing": 0.01}[moment]))
    if process.poll() is not None:
        return False
    process.send_signal(signal.SIGKILL)
    process.wait()
    return True


def soak(folder: Path, kills: int, seed: int, options: Sequence[str] = ()) -> list[str]:
    """Runs once undisturbed and once with kills.

    Args:
        folder: An empty directory to work in.
        kills: How many; a run that ends before has fewer.
        seed: Of the moments.
        options: Further words of the command line.

    Returns:
        What was done, a line each.

    Raises:
        AssertionError: Something differs in the end, or nothing was killed.
    """
    (folder / "corpus").mkdir()
    (folder / "encoder").mkdir()
    make_corpus(folder / "corpus")
    make_encoder(folder / "encoder")
    whole, parted, steps, chance = folder / "whole", folder / "parted", STEPS_PER_KILL * kills, random.Random(seed)
    log = folder / "log.txt"
    assert Forked(command(folder, whole, steps, options), os.environ, log=log).wait() == 0, log.read_text()
    done: list[str] = []
    for kill in range(kills):
        process = Forked(command(folder, parted, steps, options), os.environ, log=log)
        moment = MOMENTS[kill % len(MOMENTS)]
        if not wait_and_kill(process, parted, moment, chance):
            assert process.returncode == 0, log.read_text()
            break
        newest = checkpoint_directories(parted / "checkpoints")[:1]
        left = sorted(str(path.relative_to(parted)) for path in parted.rglob(f"{TEMPORARY}*") if path.parent != parted)
        done.append(f"killed in {moment}; newest checkpoint {newest[0].name if newest else '–'}; half-written {left}")
    assert done, "the run ended before it was killed"
    assert Forked(command(folder, parted, steps, options), os.environ, log=log).wait() == 0, log.read_text()
    compare(whole, parted)
    return done


def compare(whole: Path, parted: Path) -> None:
    """Raises AssertionError where two runs differ."""
    newest = checkpoint_directories(whole / "checkpoints")[0].name
    for pattern in (*COMPARED, f"checkpoints/{newest}/*"):
        names = [{path.relative_to(run) for path in run.glob(pattern)} for run in (whole, parted)]
        assert names[0] == names[1] and (names[0] or pattern == "teacher/*"), pattern  # a plain run has no teacher
        for name in sorted(names[0]):
            assert (whole / name).read_bytes() == (parted / name).read_bytes(), f"{name} differs"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options, more = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        for line in soak(Path(folder), options.kills, options.seed, more):
            print(line)
    print("identical to the bit")


if __name__ == "__main__":
    main()
