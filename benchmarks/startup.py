"""Response time of the command line, and time of a cached run up to its first step.

python -m benchmarks.startup
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.timing import ROOT, Spread, parser, quickstart_definitions, store, take_turns
from mtl.encoder import find_encoder
from mtl.report import table

RUN = [sys.executable, str(ROOT / "run_mtl.py")]
MIX = "cola,sst2,mrpc,stsb,qqp,mnli,rte,wnli,scitail,snli"
FILES = ["glue.yml", "scitail.yml", "snli.yml"]
# What any program must do before a first step: import torch and load the encoder.
FLOOR = """\
import sys, torch
from transformers import AutoModelForSequenceClassification
AutoModelForSequenceClassification.from_pretrained(sys.argv[1], num_labels=2)
"""
# Exits when the first step begins; the cost of steps is measured by `benchmarks.steps`.
TO_FIRST_STEP = """\
import os, sys
from mtl import cli, trainer
trainer.Trainer.step = lambda self, step: os._exit(0)
cli.main(sys.argv[1:])
os._exit(1)
"""


def main() -> None:
    """Command line."""
    made = parser("startup", __doc__)
    made.add_argument("--data-root", default="../shared/data", metavar="DIR", help="mirror of the hub")
    options = made.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if Path(options.data_root).is_dir():
            definitions = [f"task_defs/{file}" for file in FILES]
            more = ["--tasks", MIX, "--data-root", options.data_root]
        else:
            definitions, more = [str(quickstart_definitions(Path(folder)))], []
        broken = Path(folder) / "broken.yml"
        broken.write_text("a: [1\n")
        output = ["--encoder", options.encoder, "--output", f"{folder}/run", "--overwrite"]
        words = {
            "--help": ([*RUN, "--help"], 0),
            "wrong usage": ([*RUN, "trian"], 2),
            "a broken YAML": ([*RUN, "train", str(broken), *output], 2),
            "validate, cached": ([*RUN, "validate", *definitions, *more], 0),
            "torch and encoder": ([sys.executable, "-c", FLOOR, find_encoder(options.encoder)], 0),
            "train, to the first step": (
                [sys.executable, "-c", TO_FIRST_STEP, "train", *definitions, *more, *output],
                0,
            ),
        }
        environment = {**os.environ, "MTL_CACHE": f"{folder}/cache", "PYTHONPATH": str(ROOT)}

        def runner(command: list[str], status: int) -> Callable[[], None]:
            def run() -> None:
                done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=ROOT)
                assert done.returncode == status, done.stderr

            return run

        seconds = take_turns({name: runner(*what) for name, what in words.items()}, options.repetitions)
    floor = seconds["torch and encoder"]
    over = [a - b for a, b in zip(seconds["train, to the first step"], floor, strict=True)]
    promised = {"--help": 0.3, "wrong usage": 0.3, "a broken YAML": 0.3, "validate, cached": 2.0}
    rows = [(name, Spread.of(values), promised.get(name, "")) for name, values in seconds.items()]
    rows.append(("train over torch and encoder", Spread.of(over), 1.5))
    print(table(("what", "seconds", "target"), rows))
    store(options.output, {"seconds": seconds, "over": over})


if __name__ == "__main__":
    main()
