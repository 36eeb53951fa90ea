"""Share of computed tokens that are not padding, and correlation of batch order with length. Nothing is timed.

python -m benchmarks.batches
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.prediction import BATCH, find_sets
from benchmarks.steps import make_trainer
from benchmarks.timing import parser, store
from mtl.encoder import find_encoder
from mtl.report import table
from mtl.tokenizer import load_tokenizer

REAL = 0.95
MIX = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "rte", "wnli")  # GLUE tasks with training rows in the mirror
SETTINGS = {"32 rows": (), "2,048 tokens": ("defaults.batch_tokens=2048",)}


def as_they_come(encoder: str, data_root: str) -> dict[str, float]:
    """Ratio of computed to real tokens for validation rows in batches of 32 in file order, as a pipeline batches them.

    This is the largest possible speed-up of prediction by avoiding padding alone.
    """
    tokenizer, found = load_tokenizer(find_encoder(encoder)), {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (file, (first, second)) in find_sets(Path(data_root), Path(folder)).items():
            rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
            pairs = [[row[column] for row in rows] for column in (first, second) if column]
            lengths = [len(ids) for ids in tokenizer(*pairs, truncation=True, max_length=128)["input_ids"]]
            parts = [lengths[start : start + BATCH] for start in range(0, len(lengths), BATCH)]
            found[name] = sum(len(part) * max(part) for part in parts) / sum(lengths)
    return found


def main() -> None:
    """Command line."""
    made = parser("batches", __doc__)
    made.add_argument("--data-root", default="../shared/data", metavar="DIR", help="mirror of the hub")
    options = made.parse_args()
    data_root = options.data_root if Path(options.data_root).is_dir() else None
    rows, figures = [], {}
    for name, settings in SETTINGS.items():
        plain = ("train.smart=false", "train.proximal=false", *settings)
        trainer = make_trainer(options.encoder, data_root, plain, MIX if data_root else None)
        real = computed = 0
        for task, stream in trainer.streams.items():
            lengths = [stream.examples.lengths[stream[turn]] for turn in range(stream.per_pass)]
            own_real, own = sum(map(np.sum, lengths)), sum(len(part) * part.max() for part in lengths)
            order = np.corrcoef(np.arange(len(lengths)), [part.mean() for part in lengths])[0, 1]
            following = [part.mean() for part in lengths]
            next_one = np.corrcoef(following[:-1], following[1:])[0, 1]
            rows.append((name, task, f"{own_real / own:.1%}", f"{order:+.2f}", f"{next_one:+.2f}"))
            real, computed = real + own_real, computed + own
            figures[f"{name}/{task}"] = {"real": own_real / own, "order": order, "next": next_one}
        rows.append((name, "all", f"{real / computed:.1%}", "", ""))
        figures[f"{name}/all"] = {"real": real / computed}
    for task, computed_over_real in as_they_come(options.encoder, options.data_root).items():
        rows.append(("32 as they come", task, f"{1 / computed_over_real:.1%}", "", ""))
        figures[f"as they come/{task}"] = {"computed_over_real": computed_over_real}
    header = ("batches of", "task", "real tokens", "correlation with the turn", "with the next batch")
    print(table(header, rows))
    print(f"target: at least {REAL:.0%} real; correlations about 0")
    store(options.output, {"figures": figures})


if __name__ == "__main__":
    main()
