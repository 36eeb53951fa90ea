"""Scaling: bytes and seconds of a step measured with two processes, and predicted efficiency on many GPUs.

    python -m benchmarks.growth

Measured on this machine: the bytes sent in a step of two processes (from the kernel's counter of the loopback device,
and DDP's buckets), compared with 4·P·2(W−1)/W bytes per process, the minimum for an all-reduce of P float32 gradients
among W processes; and the time of a step of one process and of two, each with one thread and the same number of rows.

Predicted from the flags below (every process computes the same number of tokens for all W):

    compute  = FLOPs / (--flops · --share),   FLOPs = 2 · weights of the layers · tokens · forward passes
    exchange = bytes / (bandwidth · --link-share) + buckets · 2 log₂W · --latency
    exposed  = exchange, or with overlap the larger of (exchange − last backward pass) and one bucket's exchange
    efficiency = compute / (compute + exposed)

A plain step costs as much as 3 forward passes and a full step as much as 9 (`cost.forward_passes`), with the same
exchange. A gradient is complete only in the last backward pass, that of the clean branch; so in both, the exchange can
overlap with 2 forward-pass equivalents.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.timing import Spread, parser, store
from mtl.cost import forward_passes
from mtl.report import table

SIZES = {"110 M": (12, 768), "1 B": (24, 1792)}  # layers and width of an encoder with BERT's vocabulary
VOCABULARY = 30_522
WORLDS = (8, 64, 512)
VARIANTS = {"plain": ("train.smart=false", "train.proximal=false"), "full": ()}
FORWARDS = {
    "plain": forward_passes(1, smart=False, perturbed=False, proximal=False),
    "full": forward_passes(1, smart=True, perturbed=True, proximal=True),
}
BACKWARD = 2  # cost of the last backward pass, in forward passes
BUCKET = 25 * 2**20  # size of DDP's buckets in bytes
WARMUP = 2
# Name, default, and meaning with source.
ASSUMPTIONS: tuple[tuple[str, float, str], ...] = (
    ("flops", 989e12, "FLOPs a second of a GPU: NVIDIA H100 SXM data sheet, bf16 without sparsity"),
    ("share", 0.30, "share of them that is achieved: assumed, below the 0.46 of PaLM (arXiv 2204.02311, table 3)"),
    (
        "inside",
        450e9,
        "bytes a second between GPUs of a machine, one way: NVLink 4 of the H100 data sheet, half of 900",
    ),
    ("outside", 50e9, "bytes a second of a GPU between machines: DGX H100 data sheet, one 400 Gb/s adapter a GPU"),
    ("link-share", 0.8, "share of a link's bandwidth that is achieved: assumed"),
    ("latency", 10e-6, "seconds of a message between GPUs: assumed"),
    ("machine", 8, "GPUs of a machine: DGX H100 data sheet"),
    ("tokens", 4096, "tokens that a GPU computes in a step, padding included: 32 rows of 128"),
)


def parameters(layers: int, width: int) -> tuple[float, float]:
    """Number of weights in the layers (4 attention matrices; 2 feed-forward matrices, 4 times as wide), and in all."""
    inside = 12.0 * layers * width**2
    return inside, inside + VOCABULARY * width


def ring_bytes(weights: float, world: int) -> float:
    """4·P·2(W−1)/W: bytes that a process sends in an all-reduce of P float32 gradients."""
    return 4 * weights * 2 * (world - 1) / world


def efficiency(
    layers: int, width: int, world: int, forwards: int, given: Mapping[str, float], *, overlap: bool
) -> float:
    """Share of a step's time that is spent on arithmetic; see the formulas in the module's docstring."""
    inside, weights = parameters(layers, width)
    forward = 2 * inside * given["tokens"] / (given["flops"] * given["share"])
    bandwidth = given["link-share"] * (given["inside"] if world <= given["machine"] else given["outside"])
    buckets = math.ceil(4 * weights / BUCKET)
    exchange = ring_bytes(weights, world) / bandwidth + buckets * 2 * math.log2(world) * given["latency"]
    exposed = max(exchange - BACKWARD * forward, exchange / buckets) if overlap else exchange
    return forwards * forward / (forwards * forward + exposed)


def predictions(given: Mapping[str, float]) -> list[dict[str, Any]]:
    """Efficiency for every encoder, step and number of GPUs, without and with overlap."""
    return [
        {
            "encoder": encoder,
            "step": step,
            "gpus": world,
            "apart": efficiency(*shape, world, forwards, given, overlap=False),
            "overlapped": efficiency(*shape, world, forwards, given, overlap=True),
        }
        for encoder, shape in SIZES.items()
        for step, forwards in FORWARDS.items()
        for world in WORLDS
    ]


def loopback() -> int:
    """Bytes sent through the loopback device since the machine was started."""
    lines = Path("/proc/net/dev").read_text(encoding="utf-8").splitlines()
    return int(next(line.split(":")[1].split()[8] for line in lines if line.strip().startswith("lo:")))


def work(encoder: str, data_root: str | None, settings: Sequence[str], repetitions: int) -> dict[str, Any]:
    """Seconds of the steps in this process, the number of weights P, and the bytes sent by all processes together."""
    import torch
    import torch.distributed as dist
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

    from benchmarks.steps import make_trainer

    torch.set_num_threads(1)
    trainer = make_trainer(encoder, data_root, settings)
    world, buckets = trainer.processes.count, [0]

    def counted(group: Any, bucket: Any) -> Any:
        buckets[0] += bucket.buffer().nbytes
        return allreduce_hook(group, bucket)

    if world > 1:
        # A lambda has no annotations: DDP checks a hook's annotations, which are strings in this module.
        trainer.objective.register_comm_hook(None, lambda state, bucket: counted(state, bucket))
    seconds, sent = [], []
    for step in range(WARMUP + repetitions):
        if world > 1:
            dist.barrier()
        before, start, buckets[0] = loopback(), time.perf_counter(), 0
        trainer.step(step)
        trainer.processes.agreed(0)
        took = time.perf_counter() - start
        if world > 1:
            dist.barrier()
        if step >= WARMUP:
            seconds.append(took)
            sent.append(loopback() - before)
    weights = sum(p.numel() for p in trainer.student.parameters())
    return {"seconds": seconds, "sent": sent, "buckets": buckets[0], "weights": weights}


def launch(options: argparse.Namespace, variant: str, world: int) -> dict[str, Any]:
    """Measurements of the first of `world` processes, each of which computes the same number of rows."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "benchmarks.growth", "--work", variant, "--encoder", options.encoder]
    words += ["--data-root", options.data_root, "--repetitions", str(options.repetitions), "--rows", str(world * 16)]
    shared = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "ACCELERATE_USE_CPU": "true"}
    if world > 1:
        shared |= {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        shared |= {"GLOO_SOCKET_IFNAME": "lo"}
    ranks: list[dict[str, str]] = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world)]
    running = [
        subprocess.Popen(
            words,
            env=os.environ | shared | (rank if world > 1 else {}),
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in ranks
    ]
    said = [process.communicate()[0] for process in running]
    assert all(process.returncode == 0 for process in running), "a process failed; see its message above"
    found: dict[str, Any] = json.loads(said[0].splitlines()[-1])
    return found


def measured(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """For each kind of step: bytes sent per process, relative to the formula, and time relative to one process."""
    found = {}
    for variant in (options.only,) if options.only else VARIANTS:
        one, two = (launch(options, variant, world) for world in (1, 2))
        sent = Spread.of([sent / 2 for sent in two["sent"]])
        formula = ring_bytes(two["weights"], 2)
        found[variant] = {
            "weights": two["weights"],
            "bytes": sent,
            "formula": formula,
            "over_formula": sent.median / formula,
            "buckets": two["buckets"],
            "one": Spread.of(one["seconds"]),
            "two": Spread.of(two["seconds"]),
            "two_over_one": Spread.of(two["seconds"]).median / Spread.of(one["seconds"]).median,
        }
    return found


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The predictions as a Markdown table, for README.md."""
    head = "| encoder | step | " + " | ".join(f"{world} GPUs" for world in WORLDS) + " |"
    lines = [head, "|---" * (2 + len(WORLDS)) + "|"]
    for encoder in SIZES:
        for step in FORWARDS:
            mine = [row for row in rows if (row["encoder"], row["step"]) == (encoder, step)]
            cells = " | ".join(f"{row['apart']:.0%} / {row['overlapped']:.0%}" for row in mine)
            lines.append(f"| {encoder} | {step} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    made = parser("growth", __doc__)
    made.add_argument("--data-root", default="../shared/data", metavar="DIR", help="mirror of the hub")
    made.add_argument("--only", choices=VARIANTS, help="measure this kind of step only")
    made.add_argument("--work", choices=VARIANTS, help=argparse.SUPPRESS)
    made.add_argument("--rows", type=int, default=16, help=argparse.SUPPRESS)
    for name, default, source in ASSUMPTIONS:
        made.add_argument(f"--{name}", type=float, default=default, metavar="X", help=f"{source} ({default:g})")
    options = made.parse_args()
    if options.work:
        data_root = options.data_root if Path(options.data_root).is_dir() else None
        settings = (*VARIANTS[options.work], f"defaults.batch_size={options.rows}")
        print(json.dumps(work(options.encoder, data_root, settings, options.repetitions)))
        return
    given = {name: getattr(options, name.replace("-", "_")) for name, _, _ in ASSUMPTIONS}
    rows, found = predictions(given), measured(options)
    heads = ("step", "MB sent per process", "/ formula (target: 1.00 to 1.05)", "time of two processes / one")
    print(
        table(
            heads,
            [
                (name, f"{f['bytes'].median / 1e6:.2f}", f"{f['over_formula']:.3f}", f"{f['two_over_one']:.2f}")
                for name, f in found.items()
            ],
        )
    )
    print("predicted efficiency, without / with overlap of exchange and backward pass:")
    print(markdown(rows))
    for name, _, source in ASSUMPTIONS:
        print(f"  --{name} {given[name]:g}: {source}")
    store(options.output, {"measured": found, "assumed": given, "predicted": rows})


if __name__ == "__main__":
    main()
