"""Smoothness, robustness to typos and calibration of the models of a study, for each arm and seed.

    run-mtl compare benchmarks/studies/a_ablation_1000.yml
    python -m benchmarks.robustness benchmarks/studies/a_ablation_1000.yml \\
        --output benchmarks/studies/a_ablation_1000.robustness.json

Measured on the validation rows, for every finished cell whose best model was kept (`keep: best` in the study):

- R_s with the same radius for all arms and without dropout (not for rankings);
- the task's first metric, for classification all metrics (always the same class can have a high F1), and the same with
  one word in ten misspelt, with the same typos for all arms;
- for classification, the expected calibration error with 15 bins of equal width.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.timing import machine
from mtl.batch import collate, evaluation_batches
from mtl.data import Examples, prepare
from mtl.encoder import find_encoder
from mtl.evaluate import score
from mtl.export import Loaded, load_tasks
from mtl.inference import outputs_of
from mtl.ledger import Ledger
from mtl.metrics import METRICS
from mtl.model import build_model
from mtl.objective import Divisors, Objective
from mtl.paired import compare_pairs, describe, spread_ratio
from mtl.reading import check_data
from mtl.report import number, table
from mtl.sampling import derive_seed
from mtl.source import Source, read_rows
from mtl.study import Cell, Study, read_study
from mtl.summary import interval, signed
from mtl.taskdef import TaskDef
from mtl.trained_tasks import find_tasks

BINS = 15
SHARE = 0.1  # fraction of the words that is misspelt
RADIUS = 0.01  # radius relative to the RMS of the word embeddings
BATCH = 4096  # tokens
WITH_TYPOS = " with typos"
LOWER_IS_BETTER = ("lost to typos", "calibration error", "R_s")
Floats = npt.NDArray[np.float64]
# (task, size, figure) → arm → seed → value.
Figures = dict[tuple[str, int | None, str], dict[str, dict[int, float]]]


def with_typos(text: str, seed: int, share: float = SHARE) -> str:
    """A text with some of its words misspelt: two neighbouring letters swapped, one omitted, or one doubled.

    Args:
        text: Any text; words with fewer than three characters or with non-letters stay unchanged.
        seed: Determines the typos, together with the text.
        share: Fraction of the eligible words to misspell, rounded up.
    """
    words = text.split(" ")
    able = [index for index, word in enumerate(words) if len(word) > 2 and word.isalpha()]
    draw = random.Random(derive_seed(seed, "typos", text))
    for index in sorted(draw.sample(able, math.ceil(share * len(able)))):
        words[index] = _misspelt(words[index], draw)
    return " ".join(words)


def _misspelt(word: str, draw: random.Random) -> str:
    """A word with one typo after the first letter; instead of swapping two equal letters, one is omitted."""
    at = draw.randrange(1, len(word) - 1)
    kind = draw.choice(("swap", "omit", "double"))
    if kind == "double":
        return word[:at] + word[at] + word[at:]
    if kind == "omit" or word[at] == word[at + 1]:
        return word[:at] + word[at + 1 :]
    return word[:at] + word[at + 1] + word[at] + word[at + 2 :]


def calibration_error(probabilities: Floats, labels: npt.NDArray[np.int64], bins: int = BINS) -> float:
    """Expected calibration error (arXiv 1706.04599).

    Σ_b n_b/N |accuracy_b − confidence_b| over bins (b/K, (b + 1)/K] of the highest class probability.

    Args:
        probabilities: (N, C).
        labels: (N,).
        bins: Number of bins, K.
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(index, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def misspelt_rows(task: TaskDef, source: Source, seed: int) -> Iterator[dict[str, Any]]:
    """Rows of a split with misspelt texts."""
    columns = [column for column in (task.data.columns.text_a, task.data.columns.text_b) if column is not None]
    for _, cells in read_rows(source):
        yield {**cells, **{column: with_typos(cells[column], seed) for column in columns}}


def smoothness(loaded: Loaded, encoder: str, examples: Examples, seed: int) -> float:
    """Mean R_s over a split, with one ascent step, without dropout, and with a radius that is the same for all arms.

    The radius is relative to the word embeddings of the pretrained encoder.
    """
    smart = {"unit": "embedding_rms", "epsilon": RADIUS, "noise_std": RADIUS, "step_size": 10 * RADIUS, "weight": 1.0}
    changed = {
        "smart": loaded.task.smart.model_copy(update={**smart, "steps": 1, "every": 1, "dropout": "shared"}),
        "proximal": loaded.task.proximal.model_copy(update={"weight": 0.0}),
    }
    task = loaded.task.model_copy(update=changed)
    model = build_model(encoder, {"task": task}, seed=seed)
    objective = Objective(model, {"task": task}, seed)  # measures the pretrained embeddings, before loading the arm's
    model.task_model("task").load_state_dict(loaded.model.state_dict())
    objective.eval()
    total = 0.0
    for chosen in evaluation_batches(examples.lengths, BATCH):
        batch = collate(examples, chosen, loaded.tokenizer.pad_token_id, task.type)
        total += float(objective("task", batch, 0, Divisors.whole(batch))[1]["smart"]) * len(chosen)
    return total / len(examples)


def measure(study: Study, ledger: Ledger, cell: Cell) -> dict[str, float]:
    """The figures of one cell; empty if its model was not kept."""
    folder = ledger.run_dir(cell.node)
    if ledger.results(cell.node) is None or not (folder / "best" / cell.task).is_dir():
        return {}
    loaded = load_tasks(find_tasks(folder, [cell.task], "best"))[cell.task]
    task, seed = loaded.task, study.config.seeds[0]
    names = task.metrics if task.type == "classification" else task.metrics[:1]
    data = check_data({cell.task: task}, cell.node.run.config.data_root, ["validation"])
    source = data.sources[cell.task]["validation"]
    examples = prepare(cell.task, task, source, loaded.tokenizer, loaded.limit)
    (outputs,) = outputs_of([loaded], examples)
    clean = score(task, outputs, examples)
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "misspelt.jsonl"
        rows = misspelt_rows(task, source, seed)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        misspelt = prepare(cell.task, task, Source(path=path), loaded.tokenizer, loaded.limit)
        (of_typos,) = outputs_of([loaded], misspelt)
    noisy = score(task, of_typos, misspelt)
    found = {name: clean[name] for name in names} | {name + WITH_TYPOS: noisy[name] for name in names}
    found["lost to typos"] = clean[names[0]] - noisy[names[0]]
    if task.type == "classification":
        shares = torch.from_numpy(outputs).double().softmax(dim=-1).numpy()
        found["calibration error"] = calibration_error(shares, examples.labels.astype(np.int64))
    if task.type != "ranking":
        encoder = find_encoder(cell.node.chain()[0].run.config.encoder)
        found["R_s"] = smoothness(loaded, encoder, examples, seed)
    return found


def earlier(path: Path | None, study: Study) -> Figures:
    """The figures in an earlier output file of this study, because the models behind them may have been deleted.

    Raises:
        ValueError: The file is from another study, radius or share of words.
    """
    if path is None or not path.is_file():
        return {}
    held = json.loads(path.read_text(encoding="utf-8"))
    for key, value in {"study": study.name, "radius": RADIUS, "share": SHARE}.items():
        if held[key] != value:
            raise ValueError(f"{path} holds figures of {key} {held[key]}, not {value}")
    return {
        (group["task"], group["size"], group["metric"]): {
            arm: {int(seed): value for seed, value in facts["values"].items()} for arm, facts in group["arms"].items()
        }
        for group in held["robustness"]
    }


def gather(study: Study, ledger: Ledger, known: Figures) -> Figures:
    """The known figures, updated with those of all cells whose models were kept."""
    values = {key: {arm: dict(seeds) for arm, seeds in arms.items()} for key, arms in known.items()}
    for cell in study.cells:
        for name, value in measure(study, ledger, cell).items():
            values.setdefault((cell.task, cell.size, name), {}).setdefault(cell.arm, {})[cell.seed] = value
    return values


def grouped(values: Figures, names: Sequence[str]) -> list[dict[str, Any]]:
    """One group for each task, size and figure, with every arm's values by seed, as in a study's summary.

    Args:
        values: Figures of all cells.
        names: The study's arms; the others are compared with the first one.
    """
    first = names[0]
    groups = []
    for (task, size, name), arms in values.items():
        metric = METRICS.get(name.removesuffix(WITH_TYPOS))
        upwards = metric.higher_is_better if metric else name not in LOWER_IS_BETTER
        drawn: dict[str, Any] = {}
        for arm in (arm for arm in names if arm in arms):
            own = dict(sorted(arms[arm].items()))
            drawn[arm] = {"values": {str(seed): value for seed, value in own.items()}, **describe(list(own.values()))}
            seeds = [seed for seed in own if seed in arms.get(first, {})]
            if arm != first:
                pairs = [own[s] for s in seeds], [arms[first][s] for s in seeds]
                drawn[arm]["difference"] = compare_pairs(*pairs, higher_is_better=upwards)
                drawn[arm]["spread_ratio"] = spread_ratio([pairs[0]], [pairs[1]])
        groups.append({"task": task, "size": size, "metric": name, "higher_is_better": upwards, "arms": drawn})
    return groups


def as_text(groups: Sequence[Mapping[str, Any]]) -> str:
    """The figures as a printable table."""
    rows = []
    for group in groups:
        for arm, facts in group["arms"].items():
            difference = facts.get("difference", {"mean": None, "t": None})
            lead = (group["task"], group["size"] or "all", group["metric"], arm, facts["n"], number(facts["mean"]))
            rows.append((*lead, number(facts["std"]), signed(difference["mean"]), interval(difference["t"])))
    return table(("task", "size", "figure", "arm", "n", "mean", "std", "difference", "t"), rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.robustness",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("study", type=Path, metavar="STUDY.yml")
    made.add_argument("--runs", type=Path, metavar="DIR", help="directory of the study (default: runs/STUDY)")
    made.add_argument("--data-root", metavar="DIR", help="local mirror of the hub (default: the study's)")
    made.add_argument(
        "--output", type=Path, metavar="FILE", help="also write the figures as JSON, keeping what the file has"
    )
    words = made.parse_args(argv)
    study = read_study(words.study, words.data_root)
    known = earlier(words.output, study)
    values = gather(study, Ledger((words.runs or Path("runs") / study.name).resolve()), known)
    groups = grouped(values, list(study.config.arms))
    print(as_text(groups))
    if words.output is not None:
        figures = {"study": study.name, "robustness": groups, "radius": RADIUS, "share": SHARE, "machine": machine()}
        words.output.write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
