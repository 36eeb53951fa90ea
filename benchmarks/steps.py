"""Time and memory of a training step: relative to a bare loop, with each regularizer, and in half precision.

    python -m benchmarks.steps

Each variant is a separate training run; their steps are interleaved, on the same batches of four GLUE tasks (of the
quickstart corpus if there is no mirror). Ratios are between steps on the same batch.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

from benchmarks.timing import Spread, parser, peak_memory, quickstart_definitions, ratios, store, take_turns
from mtl.batch import collate
from mtl.config import command_line
from mtl.dropout import ATTENTION, QuickDropout
from mtl.model import layers
from mtl.objective import Divisors
from mtl.optimizer import learning_rate_factor
from mtl.preflight import Request, check_train
from mtl.processes import Processes
from mtl.report import table
from mtl.run_log import Log
from mtl.run_setup import set_up
from mtl.trainer import Hooks, Trainer

TASKS = {"glue.yml": ("mrpc", "stsb", "rte", "cola"), "quickstart.yml": ("intent", "paraphrase", "advice")}
# Settings of each variant; `PROMISES` has the targets.
VARIANTS: dict[str, tuple[str, ...]] = {
    "plain": ("train.smart=false", "train.proximal=false"),
    "R_s": ("train.proximal=false",),
    "R3F": ("train.proximal=false", "defaults.smart.preset=r3f"),
    "R-Drop": ("train.proximal=false", "defaults.smart.preset=rdrop"),
    "D": ("train.smart=false",),
    "R_s + D": (),
    "plain, bf16": ("train.smart=false", "train.proximal=false", "train.precision=bf16"),
    "R_s + D, bf16": ("train.precision=bf16",),
    "plain, checkpointing": ("train.smart=false", "train.proximal=false", "train.gradient_checkpointing=true"),
    "R_s + D, checkpointing": ("train.gradient_checkpointing=true",),
}
# Bare loops: whether they clip gradients, and whether they use PyTorch's own dropout.
BARE = {"bare loop": (False, True), "bare loop, clipping": (True, True), "bare loop, our dropout": (False, False)}


def compile_layers(trainer: Trainer) -> None:
    """Applies `torch.compile` to each layer, with dynamic shapes."""
    for layer in layers(trainer.student.encoder):
        layer.compile(dynamic=True)


def ascend_in_half(trainer: Trainer) -> None:
    """Runs the ascent under bf16 autocast, and everything else in float32."""
    plain: Any = trainer.unwrapped
    found = plain._perturbation

    def perturbation(*arguments: Any) -> Any:
        with torch.autocast(trainer.accelerator.device.type, torch.bfloat16):
            return found(*arguments)

    plain._perturbation = perturbation


def infer_teacher(trainer: Trainer) -> None:
    """Runs the teacher in inference mode; its outputs are cloned, because autograd cannot use inference tensors."""
    teacher: Any = trainer.teacher
    forward = teacher.forward

    def inferred(*arguments: Any) -> Any:
        with torch.inference_mode():
            outputs = forward(*arguments)
        return outputs.clone()

    teacher.forward = inferred


# Ideas that did not pay off and are not in the toolkit: the variant, and the change to its trainer.
TRIED: dict[str, tuple[str, Callable[[Trainer], None]]] = {
    "plain, compiled layers": ("plain", compile_layers),
    "R_s + D, ascent in bf16": ("R_s + D", ascend_in_half),
    "R_s + D, teacher in inference mode": ("R_s + D", infer_teacher),
}
# Variants that are timed together, always with a plain step: too many models at once would disturb each other.
GROUPS = (
    ("plain", *BARE),
    ("plain", "R_s", "R3F", "R-Drop", "D", "R_s + D"),
    ("plain", "R_s + D", "R_s + D, ascent in bf16", "R_s + D, teacher in inference mode"),
    ("plain", "plain, bf16", "R_s + D, bf16"),
    ("plain", "plain, checkpointing", "R_s + D, checkpointing"),
    ("plain", "plain, compiled layers"),
)
MEASURED = ("plain", "R_s + D", "plain, checkpointing", "R_s + D, checkpointing")  # variants whose memory is measured
WARMUP = 2
PROMISES = {"R_s": 2.75, "R3F": 2.1, "R_s + D": 3.1}
OVERHEAD, MEMORY = 1.02, 1.6


def make_trainer(
    encoder: str,
    data_root: str | None,
    settings: Sequence[str],
    tasks: Sequence[str] | None = None,
    definitions: Path | None = None,
) -> Trainer:
    """The trainer that `train` would create, except that it logs and stores nothing.

    Args:
        encoder: Hub id, directory or `pkg:PACKAGE/SUBDIR`.
        data_root: Local mirror of the hub.
        settings: Arguments of `--set`.
        tasks: Names of the tasks; by default those in `TASKS`, or all tasks of `definitions`.
        definitions: Definition file; by default that of GLUE if there is a mirror, else that of the quickstart.
    """
    if definitions is None:
        definitions = Path("task_defs/glue.yml") if data_root else generated()[1]
        tasks, settings = tasks or TASKS[definitions.name], ("train.max_steps=400", *settings)
    flags = {"encoder": ("--encoder", encoder), "leaks": ("--leaks", "ignore")}
    flags |= {"data_root": ("--data-root", data_root)} if data_root else {}
    overrides = command_line(flags, settings)
    checked = check_train(Request(Path("unused"), [str(definitions)], overrides=overrides, tasks=tasks or ()))
    return set_up(checked, Processes.current()).trainer(Log(), Hooks())


@cache
def generated() -> tuple[tempfile.TemporaryDirectory[str], Path]:
    """A temporary directory with the quickstart corpus, which lasts as long as this process, and its definitions."""
    folder = tempfile.TemporaryDirectory()
    return folder, quickstart_definitions(Path(folder.name))


class BareLoop:
    """A minimal training loop with the same encoder, heads, batches, objective and optimizer.

    Batches are prepared in advance.
    """

    def __init__(self, trainer: Trainer, steps: int, *, clip: bool) -> None:
        self.trainer, self.clip, self.batches = trainer, clip, []
        for step in range(steps):
            index = int(trainer.plan.sequence[step, 0])
            name = trainer.names[index]
            stream = trainer.streams[name]
            chosen = stream[int(trainer.plan.turns[step, 0])]
            batch = collate(stream.examples, chosen, trainer.pad_id, trainer.run.tasks[name].type)
            self.batches.append((name, batch.to(trainer.accelerator.device)))

    def step(self, step: int) -> None:
        trainer, (name, batch) = self.trainer, self.batches[step]
        optimizer, task = trainer.optimizer.optimizer, trainer.run.tasks[name]
        rate = task.learning_rate * learning_rate_factor(step, trainer.plan.steps, trainer.run.config.schedule)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        loss, _ = trainer.unwrapped(name, batch, 0, Divisors.whole(batch))
        loss.backward()
        if self.clip:
            clip_grad_norm_(trainer.student.parameters(), trainer.run.config.train.clip_norm)
        optimizer.step()
        optimizer.zero_grad()


def undo_dropout(trainer: Trainer) -> None:
    """Restores PyTorch's own dropout and attention, as a hand-written loop would have them."""
    for module in trainer.student.modules():
        if isinstance(module, QuickDropout):
            object.__setattr__(module, "__class__", nn.Dropout)
    if trainer.student.encoder.config._attn_implementation == ATTENTION:
        trainer.student.encoder.set_attn_implementation("sdpa")


def times(encoder: str, data_root: str | None, group: Sequence[str], repetitions: int) -> dict[str, list[float]]:
    """Seconds of the steps of some variants, interleaved, on the same batches."""
    steps: dict[str, Callable[[int], Any]] = {}
    for name in group:
        variant, change = TRIED.get(name, (name, None))
        trainer = make_trainer(encoder, data_root, VARIANTS.get(variant, VARIANTS["plain"]))
        trainer.unwrapped.train()
        if change is not None:
            change(trainer)
        if name in BARE:
            clip, own_dropout = BARE[name]
            if own_dropout:
                undo_dropout(trainer)
            steps[name] = BareLoop(trainer, repetitions + WARMUP, clip=clip).step
        else:
            steps[name] = trainer.step
    number = dict.fromkeys(group, -1)

    def next_step(name: str) -> Callable[[], None]:
        def run() -> None:
            number[name] += 1
            steps[name](number[name])

        return run

    return take_turns({name: next_step(name) for name in group}, repetitions, warmup=WARMUP)


def peak(encoder: str, data_root: str | None, variant: str) -> dict[str, float]:
    """Peak memory of this process after eight steps, and the size of the weights, in bytes."""
    trainer = make_trainer(encoder, data_root, VARIANTS[variant])
    weights = sum(p.numel() * p.element_size() for p in trainer.student.parameters())
    for step in range(8):
        trainer.step(step)
    return {"weights": weights, "peak": peak_memory()}


def measure_memory(encoder: str, data_root: str | None, variants: Sequence[str]) -> dict[str, dict[str, float]]:
    """Peak memory of some variants, each in a separate process."""
    found = {}
    for variant in variants:
        words = [sys.executable, "-m", "benchmarks.steps", "--encoder", encoder, "--peak", variant]
        words += ["--data-root", data_root] if data_root else []
        done = subprocess.run(words, stdout=subprocess.PIPE, check=True)
        found[variant] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Command line."""
    made = parser("steps", __doc__)
    made.set_defaults(repetitions=12)
    made.add_argument("--data-root", default="../shared/data", metavar="DIR", help="mirror of the hub")
    made.add_argument("--peak", choices=VARIANTS, help="measure this variant's memory only")
    made.add_argument("--no-checkpointing", action="store_true", help="measure no memory of activation checkpointing")
    options = made.parse_args()
    data_root = options.data_root if Path(options.data_root).is_dir() else None
    if options.peak:
        print(json.dumps(peak(options.encoder, data_root, options.peak)))
        return
    seconds: dict[str, list[float]] = {}
    over_plain: dict[str, Spread] = {}
    over_bare: dict[str, Spread] = {}
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    for group in GROUPS:
        if compiler is None and "plain, compiled layers" in group:
            print("compiled layers are skipped: there is no C++ compiler")
            continue
        found = times(options.encoder, data_root, group, options.repetitions)
        for name in group[1:]:
            over_plain[name], seconds[name] = ratios(found, name, "plain"), found[name]
            if name in BARE:
                over_bare[name] = ratios(found, "plain", name)
    rows = [(name, Spread.of(seconds[name]), over_plain[name], PROMISES.get(name, "")) for name in over_plain]
    print(table(("variant", "step in s", "/ plain step", "target"), rows))
    for name, spread in over_bare.items():
        print(f"plain step / step of a {name}: {spread} (target: at most {OVERHEAD})")
    without, both = over_plain["D"].median, over_plain["R_s + D"].median
    lazily = {every: without + (both - without) / every for every in (2, 4)}
    for every, cost in lazily.items():
        print(f"by these medians, a step of R_s + D with smart.every={every} costs {cost:.2f} plain steps on average")
    variants = MEASURED[:2] if options.no_checkpointing else MEASURED
    memory = measure_memory(options.encoder, data_root, variants)
    plain, full = memory["plain"], memory["R_s + D"]
    ratio = (full["peak"] - plain["weights"]) / plain["peak"]
    print(
        table(("variant", "peak in MiB"), [(name, f"{found['peak'] / 2**20:,.0f}") for name, found in memory.items()])
    )
    print(f"peak of a full step, minus one copy of the weights / plain step: {ratio:.2f} (target: at most {MEMORY})")
    figures = {"seconds": seconds, "over_plain": over_plain, "over_bare": over_bare, "memory": memory, "lazily": lazily}
    store(options.output, figures | {"memory_ratio": ratio})


if __name__ == "__main__":
    main()
