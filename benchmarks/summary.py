"""README's tables of figures, from the JSON files that the benchmarks wrote.

    python -m benchmarks.summary            # prints them
    python -m benchmarks.summary --write    # puts them into README.md

Each file in `benchmarks/figures/` is what `python -m benchmarks.NAME --output benchmarks/figures/NAME.json` wrote, and
each in `benchmarks/studies/` what `run-mtl compare` did with `--summary benchmarks/studies/NAME.json`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.growth import markdown as predicted

FOLDERS = (Path(__file__).parent / "figures", Path(__file__).parent / "studies")
README = Path(__file__).parent.parent / "README.md"
END = "<!-- end of figures -->\n"
# What is told of each file: words, place of the figure, unit, and what was promised of it.
ROWS: tuple[tuple[str, str, tuple[str, ...], str, str], ...] = (
    ("plain step over a bare PyTorch loop", "steps", ("over_bare", "bare loop"), "×", "≤ 1.02"),
    ("… that draws dropout as we do", "steps", ("over_bare", "bare loop, our dropout"), "×", "≤ 1.02"),
    ("real tokens among those computed, GLUE mix", "batches", ("figures", "32 rows/all", "real"), "%", "≥ 95 %"),
    ("step with R_s, over a plain one", "steps", ("over_plain", "R_s"), "×", "≤ 2.75"),
    ("step with R3F", "steps", ("over_plain", "R3F"), "×", "≤ 2.1"),
    ("step with R_s and D", "steps", ("over_plain", "R_s + D"), "×", "≤ 3.1"),
    ("… with `smart.every: 4`, on average", "steps", ("lazily", "4"), "×", ""),
    ("… with `--precision bf16`", "steps", ("over_plain", "R_s + D, bf16"), "×", ""),
    ("plain step with `--precision bf16`", "steps", ("over_plain", "plain, bf16"), "×", ""),
    ("plain step with activation checkpointing", "steps", ("over_plain", "plain, checkpointing"), "×", ""),
    ("memory with R_s and D less one copy of the weights, over plain", "steps", ("memory_ratio",), "×", "≤ 1.6"),
    ("`--help`", "startup", ("seconds", "--help"), "s", "< 0.3 s"),
    ("errors of a broken YAML", "startup", ("seconds", "a broken YAML"), "s", "< 0.3 s"),
    ("`validate`, ten tasks, cached", "startup", ("seconds", "validate, cached"), "s", "< 2 s"),
    ("first step of a cached run, after torch and encoder", "startup", ("over",), "s", "< 1.5 s"),
    (
        "tokens that a pipeline's batches of 32 compute per real one, SST-2",
        "batches",
        ("figures", "as they come/sst2", "computed_over_real"),
        "×",
        "",
    ),
    ("… MRPC", "batches", ("figures", "as they come/mrpc", "computed_over_real"), "×", ""),
    (
        "`predict` over the pipeline, SST-2",
        "prediction",
        ("figures", "sst2", "rate", "fp32 over pipeline"),
        "×",
        "≥ 2.5",
    ),
    ("… with `--precision bf16`", "prediction", ("figures", "sst2", "rate", "bf16 over pipeline"), "×", "≥ 2.5"),
    (
        "`predict` over the pipeline, MRPC",
        "prediction",
        ("figures", "mrpc", "rate", "fp32 over pipeline"),
        "×",
        "≥ 2.5",
    ),
    ("… with `--precision bf16`", "prediction", ("figures", "mrpc", "rate", "bf16 over pipeline"), "×", "≥ 2.5"),
    ("second task's head over encoder and first", "prediction", ("figures", "sst2", "second_head"), "%", "< 3 %"),
    (
        "rate over `Trainer`, defaults",
        "peers",
        ("figures", "classification", "over", "Trainer, defaults"),
        "×",
        "≥ 1.3",
    ),
    (
        "rate over `Trainer`, grouped by length",
        "peers",
        ("figures", "classification", "over", "Trainer, group_by_length"),
        "×",
        "≥ 1.0",
    ),
    (
        "rate over `CrossEncoderTrainer`, ListNet",
        "peers",
        ("figures", "ranking", "over", "CrossEncoderTrainer, ListNet, defaults"),
        "×",
        "≥ 1.3",
    ),
    (
        "… its lists all at once",
        "peers",
        ("figures", "ranking", "over", "CrossEncoderTrainer, ListNet, all at once"),
        "×",
        "≥ 1.0",
    ),
    (
        "… binary cross-entropy",
        "peers",
        ("figures", "ranking", "over", "CrossEncoderTrainer, binary cross-entropy"),
        "×",
        "≥ 1.0",
    ),
)


def figure(found: Any, unit: str) -> str:
    """A number, or the median of some with the least and the greatest."""
    if isinstance(found, list):
        found = sorted(found)
        found = {"minimum": found[0], "median": found[len(found) // 2], "maximum": found[-1]}
    if isinstance(found, dict):
        return f"{found['median']:.2f} {unit} ({found['minimum']:.2f} – {found['maximum']:.2f})"
    return f"{found:.2%}" if unit == "%" else f"{found:.2f} {unit}"


def read() -> dict[str, Any]:
    """What the benchmarks and the studies wrote, by name."""
    paths = [path for folder in FOLDERS for path in sorted(folder.glob("*.json"))]
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths}


def speed(files: Mapping[str, Any]) -> str:
    """The table of all figures, and the machine that they are of."""
    lines = ["| what | median (least – greatest) | aim | `benchmarks.` |", "|---|---|---|---|"]
    for words, name, path, unit, aim in ROWS:
        if name in files:
            found = files[name]
            for key in path:
                found = found[key]
            lines.append(f"| {words} | {figure(found, unit)} | {aim} | `{name}` |")
    if "profiles" in files:
        shares = files["profiles"]["shares"]["R_s + D"]
        parts = ", ".join(f"{kind} {share:.0%}" for kind, share in shares.items() if share >= 0.03)
        lines += ["", f"A step with R_s and D spends its time in {parts} (`benchmarks.profiles`)."]
    machine = files["steps"]["machine"]
    versions = ", ".join(f"{package} {number}" for package, number in machine["versions"].items())
    lines += ["", f"Measured on {machine['cores']} cores ({machine['processor']}), {versions}.", ""]
    return "\n".join(lines)


def growth(files: Mapping[str, Any]) -> str:
    """What two processes exchanged, and the efficiency predicted for many."""
    found = files["growth"]
    sent = ", ".join(
        f"{facts['bytes']['median'] / 1e6:.1f} MB in a {step} step ({facts['over_formula']:.3f} of the formula)"
        for step, facts in found["measured"].items()
    )
    given = ", ".join(f"--{name} {value:g}" for name, value in found["assumed"].items())
    measured = f"Each of two processes sent {sent}, with gloo on this encoder's weights."
    return "\n".join([measured, "", predicted(found["predicted"]), "", f"Assumed: `{given}`.", ""])


STARTS = {  # arms of the studies of few examples, in words
    "single": "the encoder alone",
    "smart": "the encoder alone, with SMART",
    "mt-dnn": "the run of five tasks",
    "smart-adapt": "the run of five tasks, SMART in adaptation",
    "mt-dnn-smart": "the run of five tasks, SMART in both phases",
    "mt-dnn-1e-4": "the run of five tasks, at a rate of 1e-4",
    "smart-adapt-1e-4": "… with SMART",
}


def few_examples(files: Mapping[str, Any]) -> str:
    """Adaptation to SciTail with few rows."""
    studies = files["c_scitail_23"], files["c_scitail_235"]
    groups = [group for study in studies for group in study["groups"] if group["first"]]
    told = "Accuracy on SciTail's validation rows in percent"
    return _arms("adapted from", STARTS, {f"{group['size']} rows": group for group in groups}, told)


WAYS = {  # arms of the study of multi-task training, in words
    "single": "alone",
    "mt-dnn": "with six other tasks, then adapted",
    "smart": "alone, with SMART",
    "smart-adapt": "with six other tasks, then adapted, with SMART in the latter",
    "mt-dnn-smart": "with six other tasks, then adapted, with SMART in both",
    "mt-dnn-smart-every-4": "with six other tasks, then adapted, with SMART in both, R_s in every fourth step",
}


def together(files: Mapping[str, Any]) -> str:
    """Training each task alone, and after training it together with others."""
    study = files["b_multitask_1000"]
    groups = {f"{group['task']}, {group['metric']}": group for group in study["groups"] if group["first"]}
    (mean,) = study["across"]
    told = f"First metrics on validation rows in percent, after {mean['size']:,} training rows of each of these tasks"
    return _arms("trained", WAYS, {**groups, "mean": mean}, told)


def _arms(what: str, arms: Mapping[str, str], groups: Mapping[str, Mapping[str, Any]], told: str) -> str:
    """Means over seeds, a line for each arm that every group has seeds of, and paired differences to the first one."""
    lines = [f"| {what} | {' | '.join(groups)} |", "|---" * (1 + len(groups)) + "|"]
    counts: set[int] = set()
    for arm, words in arms.items():
        found = [group["arms"].get(arm, {"n": 0}) for group in groups.values()]
        if all(_is_told(facts) for facts in found):
            lines.append(f"| {words} | " + " | ".join(map(_mean, found)) + " |")
            counts |= {facts["n"] for facts in found}
    seeds = " to ".join(map(str, sorted({min(counts), max(counts)}))) if counts else "no"
    more = "in brackets the difference to the first line, paired by seed, with its 95 % t interval."
    return "\n".join([*lines, "", f"{told}, mean of {seeds} seeds; {more}", ""])


def _is_told(facts: Mapping[str, Any]) -> bool:
    """Whether an arm has two seeds or more, and as many in common with the first arm."""
    return facts["n"] > 1 and facts.get("difference", {"n": facts["n"]})["n"] > 1


def _mean(facts: Mapping[str, Any]) -> str:
    text, difference = f"{100 * facts['mean']:.1f}", facts.get("difference")
    if difference is None:
        return text
    low, high = (100 * bound for bound in difference["t"])
    return f"{text} ({100 * difference['mean']:+.1f}: {low:+.1f} to {high:+.1f})"


REGULARIZERS = {  # arms of the ablation, in words, and where `steps` has the cost of a step
    "plain": ("neither", None),
    "smart": ("both, as by default", ("over_plain", "R_s + D")),
    "smoothness": ("R_s alone", ("over_plain", "R_s")),
    "proximal": ("D alone", ("over_plain", "D")),
    "every-4": ("both, R_s in every fourth step", ("lazily", "4")),
    "r3f": ("R3F", ("over_plain", "R3F")),
}


def effects(files: Mapping[str, Any]) -> str:
    """What each regularizer costs and comes to: mean over tasks, and paired differences to plain training."""
    (group,) = files["a_ablation_1000"]["across"]
    lines = ["| regularizers | cost of a step | mean of tasks (difference: 95 %) | spread |", "|---" * 4 + "|"]
    for arm, (words, path) in REGULARIZERS.items():
        facts = group["arms"][arm]
        if _is_told(facts):
            cost = files["steps"][path[0]][path[1]] if path else 1.0
            cost = cost["median"] if isinstance(cost, dict) else cost
            ratio = facts.get("spread_ratio")
            cells = [words, f"{cost:.1f} ×", _mean(facts), "" if ratio is None else f"{ratio:.2f}"]
            lines.append("| " + " | ".join(cells) + " |")
    seeds = max(facts["n"] for facts in group["arms"].values())
    told = (
        f"First metrics of {', '.join(group['tasks'])} after {group['size']:,} training rows, mean of {seeds} seeds, "
        "in percent; in brackets the difference to the first line, paired by seed, with its 95 % t interval; spread "
        "over seeds relative to the first line's."
    )
    return "\n".join([*lines, "", told, ""])


def robustness(files: Mapping[str, Any]) -> str:
    """The same arms on misspelt texts, and how far their confidence is from their accuracy."""
    found = {
        f"{group['task']}, {group['metric']}": group
        for group in files["a_ablation_1000.robustness"]["robustness"]
        if group["metric"].endswith("with typos") or group["metric"] == "calibration error"
    }
    arms = {arm: words for arm, (words, _) in REGULARIZERS.items()}
    told = f"The same models; one word in {1 / files['a_ablation_1000.robustness']['share']:.0f} misspelt; in percent"
    return _arms("regularizers", arms, found, told)


# Mark in README to what stands between it and END.
SECTIONS = {
    "<!-- figures: python -m benchmarks.summary --write -->\n": speed,
    "<!-- growth: python -m benchmarks.summary --write -->\n": growth,
    "<!-- regularizers: python -m benchmarks.summary --write -->\n": effects,
    "<!-- robustness: python -m benchmarks.summary --write -->\n": robustness,
    "<!-- together: python -m benchmarks.summary --write -->\n": together,
    "<!-- few examples: python -m benchmarks.summary --write -->\n": few_examples,
}


def between(text: str, begin: str) -> str:
    """What stands in a text behind a mark, up to the next end."""
    return text.partition(begin)[2].partition(END)[0]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.summary")
    parser.add_argument("--write", action="store_true", help="put them into README.md")
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
