"""Generates the tables in README.md from the JSON files of the benchmarks and studies.

    python -m benchmarks.summary            # prints the tables
    python -m benchmarks.summary --write    # writes them to README.md

The files in `benchmarks/figures/` are written by `python -m benchmarks.NAME --output benchmarks/figures/NAME.json`,
those in `benchmarks/studies/` by `run-mtl compare` with `--summary benchmarks/studies/NAME.json`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.growth import markdown as predicted
from mtl.errors import listed
from mtl.paired import FEWEST
from mtl.summary import size_words

FOLDERS = (Path(__file__).parent / "figures", Path(__file__).parent / "studies")
README = Path(__file__).parent.parent / "README.md"
END = "<!-- end of figures -->\n"
WITH_TYPOS = " with typos"
# Rows of the table of speed and memory: description, file, path of the value in the file, unit, target.
ROWS: tuple[tuple[str, str, tuple[str, ...], str, str], ...] = (
    ("time of a plain step / bare PyTorch loop", "steps", ("over_bare", "bare loop"), "×", "≤ 1.02"),
    ("… / bare loop with the toolkit's dropout", "steps", ("over_bare", "bare loop, our dropout"), "×", "≤ 1.02"),
    ("share of tokens that are not padding, GLUE mix", "batches", ("figures", "32 rows/all", "real"), "%", "≥ 95 %"),
    ("time of a step / plain step: R_s", "steps", ("over_plain", "R_s"), "×", "≤ 2.75"),
    ("… R3F", "steps", ("over_plain", "R3F"), "×", "≤ 2.1"),
    ("… R-Drop", "steps", ("over_plain", "R-Drop"), "×", ""),
    ("… R_s and D", "steps", ("over_plain", "R_s + D"), "×", "≤ 3.1"),
    ("… R_s and D, `smart.every: 4`, on average", "steps", ("lazily", "4"), "×", ""),
    ("… R_s and D, `--precision bf16`", "steps", ("over_plain", "R_s + D, bf16"), "×", ""),
    ("… plain, `--precision bf16`", "steps", ("over_plain", "plain, bf16"), "×", ""),
    ("… plain, activation checkpointing", "steps", ("over_plain", "plain, checkpointing"), "×", ""),
    ("peak memory with R_s and D, minus one copy of the weights / plain", "steps", ("memory_ratio",), "×", "≤ 1.6"),
    ("`--help`", "startup", ("seconds", "--help"), "s", "< 0.3 s"),
    ("errors of a broken YAML", "startup", ("seconds", "a broken YAML"), "s", "< 0.3 s"),
    ("`validate`, ten tasks, cached", "startup", ("seconds", "validate, cached"), "s", "< 2 s"),
    ("cached run up to its first step, minus loading torch and encoder", "startup", ("over",), "s", "< 1.5 s"),
    (
        "tokens in a pipeline's batches of 32 / tokens without padding, SST-2",
        "batches",
        ("figures", "as they come/sst2", "computed_over_real"),
        "×",
        "",
    ),
    ("… MRPC", "batches", ("figures", "as they come/mrpc", "computed_over_real"), "×", ""),
    (
        "rate of `predict` / rate of the pipeline, SST-2",
        "prediction",
        ("figures", "sst2", "rate", "fp32 over pipeline"),
        "×",
        "≥ 2.5",
    ),
    ("… with `--precision bf16`", "prediction", ("figures", "sst2", "rate", "bf16 over pipeline"), "×", "≥ 2.5"),
    (
        "rate of `predict` / rate of the pipeline, MRPC",
        "prediction",
        ("figures", "mrpc", "rate", "fp32 over pipeline"),
        "×",
        "≥ 2.5",
    ),
    ("… with `--precision bf16`", "prediction", ("figures", "mrpc", "rate", "bf16 over pipeline"), "×", "≥ 2.5"),
    ("time of a second head / encoder and first head", "prediction", ("figures", "sst2", "second_head"), "%", "< 3 %"),
    (
        "training rate / rate of `Trainer`, defaults",
        "peers",
        ("figures", "classification", "over", "Trainer, defaults"),
        "×",
        "≥ 1.3",
    ),
    (
        "… / rate of `Trainer`, grouped by length",
        "peers",
        ("figures", "classification", "over", "Trainer, group_by_length"),
        "×",
        "≥ 1.0",
    ),
    (
        "… / rate of `CrossEncoderTrainer`, ListNet, defaults",
        "peers",
        ("figures", "ranking", "over", "CrossEncoderTrainer, ListNet, defaults"),
        "×",
        "≥ 1.3",
    ),
    (
        "… / rate of `CrossEncoderTrainer`, ListNet, all lists at once",
        "peers",
        ("figures", "ranking", "over", "CrossEncoderTrainer, ListNet, all at once"),
        "×",
        "≥ 1.0",
    ),
    (
        "… / rate of `CrossEncoderTrainer`, binary cross-entropy",
        "peers",
        ("figures", "ranking", "over", "CrossEncoderTrainer, binary cross-entropy"),
        "×",
        "≥ 1.0",
    ),
)


def figure(found: Any, unit: str) -> str:
    """A number with its unit, or the median of several with their minimum and maximum."""
    if isinstance(found, list):
        found = sorted(found)
        found = {"minimum": found[0], "median": found[len(found) // 2], "maximum": found[-1]}
    if isinstance(found, dict):
        return f"{found['median']:.2f} {unit} ({found['minimum']:.2f} – {found['maximum']:.2f})"
    return f"{found:.2%}" if unit == "%" else f"{found:.2f} {unit}"


def read() -> dict[str, Any]:
    """The contents of the JSON files of benchmarks and studies, by file name without suffix."""
    paths = [path for folder in FOLDERS for path in sorted(folder.glob("*.json"))]
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths}


def speed(files: Mapping[str, Any]) -> str:
    """The table of speed and memory, and the machine on which it was measured."""
    lines = ["| measurement | median (minimum – maximum) | target | `benchmarks.` |", "|---|---|---|---|"]
    for words, name, path, unit, aim in ROWS:
        if name in files:
            found = files[name]
            for key in path:
                found = found[key]
            lines.append(f"| {words} | {figure(found, unit)} | {aim} | `{name}` |")
    if "profiles" in files:
        shares = files["profiles"]["shares"]["R_s + D"]
        parts = ", ".join(f"{kind} {share:.0%}" for kind, share in shares.items() if share >= 0.03)
        lines += ["", f"Time of a step with R_s and D by operation: {parts} (`benchmarks.profiles`)."]
    machine = files["steps"]["machine"]
    versions = ", ".join(f"{package} {number}" for package, number in machine["versions"].items())
    lines += ["", f"Measured on {machine['cores']} cores ({machine['processor']}), {versions}.", ""]
    return "\n".join(lines)


def growth(files: Mapping[str, Any]) -> str:
    """Bytes exchanged by two processes, and the predicted efficiency on many GPUs."""
    found = files["growth"]
    sent = ", ".join(
        f"{facts['bytes']['median'] / 1e6:.1f} MB in a {step} step ({facts['over_formula']:.3f} × the formula)"
        for step, facts in found["measured"].items()
    )
    given = ", ".join(f"--{name} {value:g}" for name, value in found["assumed"].items())
    measured = (
        f"Each of two processes sent {sent}, measured with gloo and the quickstart's encoder. The formula is the "
        "minimum for an all-reduce of all gradients."
    )
    return "\n".join([measured, "", predicted(found["predicted"]), "", f"Assumed: `{given}`.", ""])


STARTS = {  # arms of the studies of few examples, in words
    "single": "the pretrained encoder",
    "smart": "the pretrained encoder, SMART in adaptation",
    "mt-dnn": "the five-task run",
    "smart-adapt": "the five-task run, SMART in adaptation",
    "mt-dnn-smart": "the five-task run, SMART in both phases",
    "mt-dnn-1e-4": "the five-task run, learning rate 1e-4",
    "smart-adapt-1e-4": "the five-task run, learning rate 1e-4, SMART in adaptation",
}


def few_examples(files: Mapping[str, Any]) -> str:
    """Adaptation to SciTail with few rows."""
    names = ("c_scitail_23", "c_scitail_235", "c_scitail_2359", "c_scitail_all")
    studies = [files[name] for name in names if name in files]
    groups = [group for study in studies for group in study["groups"] if group["first"]]
    told = "Accuracy in percent on SciTail's validation rows"
    return _arms("adapted from", STARTS, {size_words(group): group for group in groups}, told, files["chance"]["tasks"])


WAYS = {  # arms of the study of multi-task training, in words
    "single": "alone",
    "mt-dnn": "with six other tasks, then adapted",
    "smart": "alone, with SMART",
    "smart-adapt": "with six other tasks, then adapted with SMART",
    "mt-dnn-proximal": "with six other tasks, then adapted, D alone in both phases",
    "mt-dnn-smart": "with six other tasks, then adapted, SMART in both phases",
}


def together(files: Mapping[str, Any]) -> str:
    """Training each task alone, compared with pre-fine-tuning on seven tasks and then adapting."""
    study = files["b_multitask_1000"]
    groups = {f"{group['task']}, {group['metric']}": group for group in study["groups"] if group["first"]}
    (mean,) = study["across"]
    told = f"{mean['size']:,} training rows of each task shown; its first metric, in percent, on validation rows"
    return _arms("trained", WAYS, {**groups, "mean": mean}, told, files["chance"]["tasks"])


def _arms(
    what: str,
    arms: Mapping[str, str],
    groups: Mapping[str, Mapping[str, Any]],
    told: str,
    chance: Mapping[str, Mapping[str, Any]] = {},
) -> str:
    """Table of means over seeds and paired differences to the first arm.

    It has a row for each arm that in some group has at least `FEWEST` seeds, also in common with the first arm; and, of
    the tasks in `chance`, the number of rows and the metric of an answer that ignores the text.
    """
    lines = [f"| {what} | {' | '.join(groups)} |", "|---" * (1 + len(groups)) + "|"]
    counts: set[int] = set()
    for arm, words in arms.items():
        found = [group["arms"].get(arm, {"n": 0}) for group in groups.values()]
        if any(map(_has_enough_seeds, found)):
            lines.append(f"| {words} | " + " | ".join(_mean(f) if _has_enough_seeds(f) else "" for f in found) + " |")
            counts |= {facts["n"] for facts in found if _has_enough_seeds(facts)}
    of_tasks = [chance.get(group.get("task", ""), {"metrics": {}}) for group in groups.values()]
    guesses = [
        found["metrics"].get(group.get("metric", "").removesuffix(WITH_TYPOS))
        for found, group in zip(of_tasks, groups.values(), strict=True)
    ]
    if any(guess is not None for guess in guesses):
        cells = ("" if guess is None else f"{100 * guess:.1f}" for guess in guesses)
        lines.append(f"| always the majority class or mean label | {' | '.join(cells)} |")
        tasks = dict(zip((group.get("task", "") for group in groups.values()), of_tasks, strict=True))
        rows = {task: f"{found['counts']['n']:,}" for task, found in tasks.items() if "counts" in found}
        counted = listed([f"{task} {number}" if len(rows) > 1 else number for task, number in rows.items()])
        told = f"{told}, of which there are {counted}"
    seeds = " to ".join(map(str, sorted({min(counts), max(counts)}))) if counts else "no"
    more = "In parentheses: the difference from the first line, paired by seed, and its 95 % t interval over seeds."
    return "\n".join([*lines, "", f"{told}; mean of {seeds} seeds. {more}", ""])


def _has_enough_seeds(facts: Mapping[str, Any]) -> bool:
    """Whether an arm has enough seeds, also in common with the first arm."""
    return min(facts["n"], facts.get("difference", facts)["n"]) >= FEWEST


def _mean(facts: Mapping[str, Any]) -> str:
    text, difference = f"{100 * facts['mean']:.1f}", facts.get("difference")
    if difference is None:
        return text
    low, high = (100 * bound for bound in difference["t"])
    return f"{text} ({100 * difference['mean']:+.1f}: {low:+.1f} to {high:+.1f})"


REGULARIZERS = {  # arms of the ablation: description, and path of the cost of a step in `steps`
    "plain": ("neither", None),
    "smart": ("both (default)", ("over_plain", "R_s + D")),
    "smoothness": ("R_s alone", ("over_plain", "R_s")),
    "proximal": ("D alone", ("over_plain", "D")),
    "every-4": ("both, R_s in every fourth step", ("lazily", "4")),
    "r3f": ("R3F", ("over_plain", "R3F")),
    "rdrop": ("R-Drop", ("over_plain", "R-Drop")),
}


def effects(files: Mapping[str, Any]) -> str:
    """Cost and effect of each regularizer: mean over tasks, and paired differences to plain training."""
    (group,) = files["a_ablation_1000"]["across"]
    lines = ["| regularizers | cost of a step | mean of tasks (difference: 95 %) | spread ratio |", "|---" * 4 + "|"]
    for arm, (words, path) in REGULARIZERS.items():
        facts = group["arms"][arm]
        if _has_enough_seeds(facts):
            cost = files["steps"][path[0]][path[1]] if path else 1.0
            cost = cost["median"] if isinstance(cost, dict) else cost
            ratio = facts.get("spread_ratio")
            cells = [words, f"{cost:.1f} ×", _mean(facts), "" if ratio is None else f"{ratio:.2f}"]
            lines.append("| " + " | ".join(cells) + " |")
    seeds = max(facts["n"] for facts in group["arms"].values())
    told = (
        f"Mean of the first metrics of {' and '.join(group['tasks'])} with {group['size']:,} training rows each, in "
        f"percent; mean of {seeds} seeds. In parentheses: the difference from the first line, paired by seed, and its "
        "95 % t interval. Spread ratio: root of the tasks' summed variances over seeds, divided by the first line's."
    )
    return "\n".join([*lines, "", told, ""])


def robustness(files: Mapping[str, Any]) -> str:
    """The same arms on misspelt texts, and their calibration error."""
    found = {
        f"{group['task']}, {group['metric']}": group
        for group in files["a_ablation_1000.robustness"]["robustness"]
        if group["metric"].endswith(WITH_TYPOS) or group["metric"] == "calibration error"
    }
    arms = {arm: words for arm, (words, _) in REGULARIZERS.items()}
    one_in = f"{1 / files['a_ablation_1000.robustness']['share']:.0f}"
    told = f"The same models, in percent; one word in {one_in} misspelt in the validation rows"
    return _arms("regularizers", arms, found, told, files["chance"]["tasks"])


# Marker in README.md → function that generates the text between the marker and END.
SECTIONS = {
    "<!-- figures: python -m benchmarks.summary --write -->\n": speed,
    "<!-- growth: python -m benchmarks.summary --write -->\n": growth,
    "<!-- regularizers: python -m benchmarks.summary --write -->\n": effects,
    "<!-- robustness: python -m benchmarks.summary --write -->\n": robustness,
    "<!-- together: python -m benchmarks.summary --write -->\n": together,
    "<!-- few examples: python -m benchmarks.summary --write -->\n": few_examples,
}


def between(text: str, begin: str) -> str:
    """The part of a text between the marker `begin` and the next `END`."""
    return text.partition(begin)[2].partition(END)[0]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.summary")
    parser.add_argument("--write", action="store_true", help="write the tables to README.md")
    write, files = parser.parse_args().write, read()
    text = README.read_text(encoding="utf-8")
    for begin, section in SECTIONS.items():
        made = section(files)
        if not write:
            print(made)
        text = text.replace(f"{begin}{between(text, begin)}{END}", f"{begin}{made}{END}")
    if write:
        README.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
