"""Time of a training step by kind of operation, measured with `torch.profiler`.

    python -m benchmarks.profiles

Steps of four GLUE tasks (of the quickstart corpus if there is no mirror), plain and with both regularizers. The figures
are each kind's share of the CPU time spent in operators.
"""

from __future__ import annotations

import re
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

from benchmarks.steps import VARIANTS, make_trainer
from benchmarks.timing import parser, store
from mtl.report import table

# Kind of operation to a pattern of its operators' names; the first that fits counts.
KINDS = {
    "matrix products": r"mm$|matmul|linear|_convolution",
    "attention's softmax": r"softmax",
    "dropout": r"random_|bernoulli_|dropout|aten::ge$",
    "activations": r"gelu|tanh|relu",
    "layer norms": r"layer_norm",
    "embeddings": r"embedding|index_select",
    "optimizer and teacher": r"_fused_adamw|lerp|_foreach",
    "gradient norm": r"linalg_vector_norm",
    "copies and fills": r"copy_|fill_|zero_|clone|empty|to_copy|cat$",
    "element by element": r"aten::(mul|add|div|sub|sum|where|masked_fill|all|neg|exp|clamp|abs|amax)",
}
VARIANTS_SHOWN = ("plain", "R_s + D", "plain, bf16")


def measure(encoder: str, data_root: str | None, variant: str, steps: int) -> dict[str, float]:
    """Kind of operation → its share of the CPU time spent in operators."""
    trainer = make_trainer(encoder, data_root, VARIANTS[variant])
    for step in range(4):
        trainer.step(step)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for step in range(4, 4 + steps):
            trainer.step(step)
    seconds = dict.fromkeys([*KINDS, "other"], 0.0)
    for event in profiled.key_averages():
        kind = next((kind for kind, pattern in KINDS.items() if re.search(pattern, event.key)), "other")
        seconds[kind] += event.self_cpu_time_total
    total = sum(seconds.values())
    return {kind: value / total for kind, value in seconds.items()}


def main() -> None:
    """Command line."""
    made = parser("profiles", __doc__)
    made.set_defaults(repetitions=12)
    made.add_argument("--data-root", default="../shared/data", metavar="DIR", help="mirror of the hub")
    options = made.parse_args()
    data_root = options.data_root if Path(options.data_root).is_dir() else None
    found = {name: measure(options.encoder, data_root, name, options.repetitions) for name in VARIANTS_SHOWN}
    rows = [(kind, *(f"{found[name][kind]:.1%}" for name in VARIANTS_SHOWN)) for kind in found["plain"]]
    print(table(("operations", *VARIANTS_SHOWN), rows))
    store(options.output, {"shares": found})


if __name__ == "__main__":
    main()
