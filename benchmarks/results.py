"""Generates RESULTS.md and its charts from the summaries of the studies.

    run-mtl compare benchmarks/studies/c_scitail_23.yml --summary benchmarks/studies/c_scitail_23.json
    python -m benchmarks.results

The first command continues where it was interrupted, on this machine or another. A study without a JSON file beside its
YAML file is listed as not run. Nothing is written unless at least one study was run.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mtl.card import code_span
from mtl.errors import listed
from mtl.metrics import ANSWERABLE, METRICS
from mtl.paired import compare_pairs, spread_ratio
from mtl.summary import chart, counted_rows, difference_cells, mean_words, size_words, task_means

ROOT = Path(__file__).resolve().parent.parent
STUDIES = ROOT / "benchmarks" / "studies"
PICTURES = "benchmarks/studies"  # path of the charts, relative to RESULTS.md
# Published accuracies with BERT-base, in percent, by task, size and arm.
TABLE_5 = "Table 5 of arXiv 1911.03437, with BERT-base, in percent"
PAPER: dict[tuple[str, int | None], dict[str, float]] = {
    ("scitail", 23): {"single": 51.2, "mt-dnn": 81.9, "mt-dnn-smart": 82.3},
    ("scitail", 235): {"single": 82.2, "mt-dnn": 88.3, "mt-dnn-smart": 88.6},
    ("scitail", 2359): {"single": 90.5, "mt-dnn": 91.1, "mt-dnn-smart": 91.3},
}


class Aim(NamedTuple):
    """A target that was set before any study was run.

    Attributes:
        words: Its name in the table.
        study: The study that tests it.
        size: Number of training rows.
        arm: The arm that is compared.
        what: `difference`, for which `bound` is a minimum, or `spread_ratio`, for which it is a maximum.
        bound: The target, as a fraction.
        why: Evidence on why it was missed, if it was.
        base: The arm that it is compared with; the study's first if None.
        tasks: The tasks whose mean is compared; all of the study if empty.
    """

    words: str
    study: str
    size: int
    arm: str
    what: str
    bound: float
    why: str
    base: str | None = None
    tasks: tuple[str, ...] = ()


LITTLE_MNLI = (
    "the published encoder had been pre-fine-tuned on 392,702 rows of MNLI, this one on 5,000; training on all 20,299 "
    "available rows, in batches of 16 instead of 32, made no clear difference at a learning rate of 1e-4 "
    "(c_scitail_large over c_scitail_23 and c_scitail_235, see In short), and smaller learning rates then gained at "
    "most two points on held-out rows (c_large_rates, two seeds)"
)
PUBLISHED = {arm: value - PAPER["scitail", 235]["single"] for arm, value in PAPER["scitail", 235].items()}
PUBLISHED_SMALLER = (
    f"the published gain with 235 rows is {PUBLISHED['mt-dnn']:.1f} points, {PUBLISHED['mt-dnn-smart']:.1f} with SMART "
    f"in both phases; and {LITTLE_MNLI}"
)
NOTHING_TO_KEEP = (
    "without pre-fine-tuning, this encoder stays near chance on RTE with 1,000 rows, so a regularizer has little to "
    "preserve; on STS-B, D alone scores like both terms, and R_s alone like neither (a_ablation_1000); larger "
    "radii did harm (d_sensitivity); in adaptation of a pre-fine-tuned encoder to 235 rows SMART improves accuracy at "
    "a learning rate of 1e-4, but a smaller learning rate gains about as much without it (c_scitail_235), and after "
    "pre-fine-tuning on more rows it made no measurable difference (c_scitail_large)"
)
BOTH_PHASES = (
    "SMART gains where it is on in every step of both phases; in adaptation alone it makes no measurable difference "
    "(b_multitask_1000)"
)
FEW_SEEDS = "a ratio of standard deviations over so few seeds is uncertain"
TARGETED = ("rte", "mrpc", "stsb")
AIMS = (
    Aim("MT-DNN over single-task, 23 rows", "c_scitail_23", 23, "mt-dnn", "difference", 0.20, LITTLE_MNLI),
    Aim("… and SMART in adaptation", "c_scitail_23", 23, "smart-adapt", "difference", 0.20, LITTLE_MNLI),
    Aim("… and SMART in both phases", "c_scitail_23", 23, "mt-dnn-smart", "difference", 0.20, LITTLE_MNLI),
    Aim("MT-DNN over single-task, 235 rows", "c_scitail_235", 235, "mt-dnn", "difference", 0.10, PUBLISHED_SMALLER),
    Aim("… and SMART in adaptation", "c_scitail_235", 235, "smart-adapt", "difference", 0.10, PUBLISHED_SMALLER),
    Aim("… and SMART in both phases", "c_scitail_235", 235, "mt-dnn-smart", "difference", 0.10, PUBLISHED_SMALLER),
    Aim("SMART over plain, interval above 0", "a_smart_1000", 1000, "smart", "difference", 0.01, NOTHING_TO_KEEP),
    Aim(
        "spread ratio, SMART / plain",
        "a_smart_1000",
        1000,
        "smart",
        "spread_ratio",
        2 / 3,
        NOTHING_TO_KEEP,
    ),
    Aim(
        "SMART in both phases over MT-DNN, interval above 0",
        "b_multitask_1000",
        1000,
        "mt-dnn-smart",
        "difference",
        0.01,
        BOTH_PHASES,
        base="mt-dnn",
        tasks=TARGETED,
    ),
    Aim(
        "spread ratio, SMART in both phases / MT-DNN",
        "b_multitask_1000",
        1000,
        "mt-dnn-smart",
        "spread_ratio",
        2 / 3,
        FEW_SEEDS,
        base="mt-dnn",
        tasks=TARGETED,
    ),
)
# Comparisons between studies: study and arm, base study and base arm, number of training rows.
BETWEEN = (
    ("c_scitail_large", "mt-dnn", "c_scitail_23", "mt-dnn-1e-4", 23),
    ("c_scitail_large", "mt-dnn", "c_scitail_235", "mt-dnn-1e-4", 235),
)
INTRODUCTION = """\
# Results

Written by `python -m benchmarks.results` from the studies in [`benchmarks/studies/`](benchmarks/studies); do not edit.

**How far this generalises.** The encoder has 22.7 million parameters, a fifth of BERT-base's, and its authors had
already trained it on sentence pairs. Tasks on pairs therefore start better than from a masked language model, and
pre-fine-tuning has less to add. The data contains only a part of MNLI, QQP, SNLI and SciTail. Published figures are
given for orientation: they are from another encoder and are not means over seeds (those of the paper's Table 2 are
[the best of three runs](https://github.com/namisan/mt-dnn/issues/126), according to an author).

Every mean is over all seeds that were run (n in the tables). The line above each table says which rows were evaluated,
and after which step. Differences are relative to the first arm, or to the arm that a row names after "over". They are
paired by seed, with 95 % intervals from the t distribution and, with five seeds or more, from a bootstrap of the pairs.
The spread ratio is the standard deviation over seeds relative to that arm's; of a mean of tasks, the root of the tasks'
summed variances, not the standard deviation of the mean. There are many comparisons here: without any effect, one
interval in twenty is expected to exclude 0.
"""


def document(summaries: Mapping[str, Mapping[str, Any]], not_run: Sequence[str]) -> str:
    """The contents of RESULTS.md.

    Args:
        summaries: Study → its summary, as written by `compare` or by `benchmarks.robustness`.
        not_run: Studies without a summary.
    """
    lines = [INTRODUCTION, *_aims(summaries), *_short(summaries)]
    for name, summary in summaries.items():
        lines += list(_robustness(summary) if "robustness" in summary else _section(name, summary))
    lines += ["## What did not help", "", "By the t intervals above.", "", *_no_help(summaries), ""]
    if not_run:
        lines += ["## Not run yet", "", *(f"- `benchmarks/studies/{name}.yml`" for name in not_run), ""]
    return "\n".join(lines)


def pictures(summaries: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The chart of each study, by file name."""
    return {f"{name}.svg": chart(found) for name, found in summaries.items() if "groups" in found}


def _main_groups(summary: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """One group per size: the mean over tasks, if there is one, else the first metric of each task."""
    return task_means(summary) or [group for group in summary["groups"] if group["first"]]


def _of(group: Mapping[str, Any]) -> str:
    return mean_words(group) if "tasks" in group else f"{group['task']}, {group['metric']}"


def _aims(summaries: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Table of the targets with the measured values, and the evidence on why some were missed."""
    yield from (
        "## Targets",
        "",
        "They were set before any study was run. Where SMART was to gain, its setting was left open: both studies that "
        "measure it are listed.",
        "",
        "| target | study | of | at least or at most | found | 95 % (t) | |",
        "|---" * 7 + "|",
    )
    missed: dict[str, list[str]] = {}
    for aim in AIMS:
        if (compared := _compared(summaries.get(aim.study, {}), aim)) is None:
            continue
        of, difference, ratio = compared
        if aim.what == "difference":
            low, high = (100 * limit for limit in difference["t"])
            reached = difference["mean"] >= aim.bound and low > 0
            found = (f"{100 * aim.bound:+.1f}", f"{100 * difference['mean']:+.1f}", f"{low:+.1f} to {high:+.1f}")
        else:
            reached = ratio is not None and ratio <= aim.bound
            found = (f"{aim.bound:.2f}", "" if ratio is None else f"{ratio:.2f}", "")
        if not reached:
            missed.setdefault(aim.why, []).append(aim.words)
        cells = (aim.words, aim.study, of, *found, "reached" if reached else "**missed**")
        yield f"| {' | '.join(cells)} |"
    yield from ("", *(f"- {'; '.join(words)}: {why}." for why, words in missed.items()), "")


def _compared(summary: Mapping[str, Any], aim: Aim) -> tuple[str, Mapping[str, Any], float | None] | None:
    """What an aim compares, the differences paired by seed, and the spread ratio; None with fewer than two seeds."""
    groups = [
        group
        for group in summary.get("groups", ())
        if group["first"] and group["size"] == aim.size and (not aim.tasks or group["task"] in aim.tasks)
    ]
    own, others = ([g["arms"][arm or next(iter(g["arms"]))]["values"] for g in groups] for arm in (aim.arm, aim.base))
    seeds = [seed for seed in map(str, summary.get("seeds", ())) if all(seed in values for values in (*own, *others))]
    if not groups or len(seeds) < 2:
        return None
    means = ([math.fsum(v[seed] for v in arm) / len(arm) for seed in seeds] for arm in (own, others))
    ratio = spread_ratio(*([[v[seed] for seed in seeds] for v in arm] for arm in (own, others)))
    tasks = [group["task"] for group in groups]
    of = f"mean of {', '.join(tasks)}" if len(tasks) > 1 else f"{tasks[0]}, {groups[0]['metric']}"
    return of, compare_pairs(*means), ratio


def _short(summaries: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Table of the differences between arms, for the mean over tasks if a study has several."""
    yield from ("## In short", "", "Differences in percentage points.", "")
    yield from ("| study | size | of | arm | over | seeds | difference | 95 % (t) |", "|---" * 8 + "|")
    for name, summary in summaries.items():
        if "robustness" in summary:
            continue
        for group in _main_groups(summary):
            for arm, base, difference in _differences(group):
                yield _short_line(name, group, arm, base, difference)
    for name, arm, other, base, size in BETWEEN:
        if name in summaries and other in summaries:
            (group,), (over,) = ([g for g in _main_groups(summaries[s]) if g["size"] == size] for s in (name, other))
            values, others = group["arms"][arm]["values"], over["arms"][base]["values"]
            seeds = [seed for seed in values if seed in others]
            difference = compare_pairs([values[s] for s in seeds], [others[s] for s in seeds])
            if difference["t"] is not None:
                yield _short_line(name, group, code_span(arm), f"{code_span(base)} of {other}", difference)
    yield ""


def _short_line(name: str, group: Mapping[str, Any], arm: str, base: str, difference: Mapping[str, Any]) -> str:
    low, high = (100 * bound for bound in difference["t"])
    cells = (name, size_words(group), _of(group), arm, base, difference["n"])
    return f"| {' | '.join(map(str, cells))} | {100 * difference['mean']:+.1f} | {low:+.1f} to {high:+.1f} |"


def _section(name: str, summary: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"## {name}", "")
    yield f"`run-mtl compare benchmarks/studies/{name}.yml`: {_design(summary)}"
    groups = [group for group in summary["groups"] if group["first"]]
    yield from ("", f"![Every seed, and the arms' means]({PICTURES}/{name}.svg)")
    if any(map(_published, groups)):
        yield from ("", f"Published: {TABLE_5}.")
    if any(METRICS[group["metric"]].per_query and not group["metric"].endswith(ANSWERABLE) for group in groups):
        yield from ("", "Queries without a relevant candidate count as 0; figures from elsewhere may exclude them.")
    for group in groups:
        yield from ("", f"**{group['task']}, {size_words(group)}, {group['metric']}**", "")
        yield from _rows(group, _published(group))
    for group in task_means(summary):
        yield from ("", f"**Mean of {listed(group['tasks'])}, {size_words(group)}**", "")
        yield from _rows(group, {})
    yield ""


def _published(group: Mapping[str, Any]) -> dict[str, float]:
    """Published accuracies of a group's arms, in percent."""
    found = PAPER.get((group["task"], group["size"]), {})
    return {arm: value for arm, value in found.items() if arm in group["arms"]}


def _design(summary: Mapping[str, Any]) -> str:
    arms = [arm for group in summary["groups"] if group["first"] for arm in group["arms"].values()]
    seconds = {key.rpartition("/")[0]: run["seconds"] for key, run in summary["runs"].items()}  # once if for many tasks
    most, planned = max((arm["n"] for arm in arms), default=0), len(summary["seeds"])
    seeds = f"{planned} seeds" if most >= planned else f"{most} of {planned} seeds"
    done = f"{summary['finished']:,} of {summary['cells']:,} cells"
    if summary["finished"] < summary["cells"]:
        done += " (**unfinished**)"
    machine, revision = summary["machine"], (summary["git_revision"] or "unknown")[:12]
    return (
        f"{done}, {seeds}, {counted_rows(summary)}; encoder `{summary['encoder']}`; "
        f"{math.fsum(seconds.values()) / 3600:.1f} h without pre-fine-tuning, "
        f"on {machine['cores']} cores ({', '.join(summary['processors'])}), torch {summary['versions']['torch']}, "
        f"summarized at revision {revision}."
    )


def _rows(group: Mapping[str, Any], published: Mapping[str, float]) -> Iterator[str]:
    header = ["arm", "n", "mean", "std", "difference", "t", "bootstrap", "wins/ties/losses", "spread ratio"]
    header += ["published"] if published else []
    yield "| " + " | ".join(header) + " |"
    yield "|" + "---|" * len(header)
    for arm, facts in group["arms"].items():
        if not facts["n"] and arm not in published:
            continue
        cells = [code_span(arm), str(facts["n"]), _number(facts["mean"]), _number(facts["std"])]
        cells += difference_cells(facts)
        if published:
            cells.append("" if arm not in published else f"{published[arm]:.1f}")
        yield "| " + " | ".join(cells) + " |"
    for pair in group.get("contrasts", ()):
        if pair["difference"]["n"]:
            cells = [_over(pair), str(pair["difference"]["n"]), "", "", *difference_cells(pair)]
            yield "| " + " | ".join([*cells, *([""] if published else [])]) + " |"


def _robustness(figures: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"## {figures['study']}: smoothness and robustness", "")
    yield (
        f"`python -m benchmarks.robustness benchmarks/studies/{figures['study']}.yml`, on validation rows: R_s with a "
        f"radius of {figures['radius']:g} × the RMS of the word embeddings for all arms; "
        f"{figures['share']:.0%} of the words misspelt."
    )
    for group in figures["robustness"]:
        yield from ("", f"**{group['task']}, {size_words(group)}, {group['metric']}**", "")
        yield from _rows(group, {})
    yield ""


def _no_help(summaries: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Arms that are worse than their base, or whose interval includes 0; one line per study, task, size and base."""
    found: dict[str, list[str]] = {}
    for name, summary in summaries.items():
        for group in summary.get("groups", ()):
            for arm, base, difference in _differences(group) if group["first"] else ():
                low, high = difference["t"] if group["higher_is_better"] else (-b for b in reversed(difference["t"]))
                if low <= 0:
                    what = "worse" if high < 0 else "not clearly better"
                    where = f"{name}, {group['task']}, {size_words(group)}"
                    found.setdefault(f"- {where}, {what} than {base}", []).append(arm)
    return [f"{where}: {', '.join(arms)}" for where, arms in found.items()] or ["Nothing that was measured."]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _over(pair: Mapping[str, Any]) -> str:
    return f"{code_span(pair['arm'])} over {code_span(pair['base'])}"


def _differences(group: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """(arm, base, difference) of every comparison that has an interval."""
    first = next(iter(group["arms"]))
    for arm, facts in group["arms"].items():
        if facts.get("difference", {}).get("t") is not None:
            yield code_span(arm), code_span(first), facts["difference"]
    for pair in group.get("contrasts", ()):
        if pair["difference"]["t"] is not None:
            yield code_span(pair["arm"]), code_span(pair["base"]), pair["difference"]


def gather(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The summaries of the studies in a folder, by name, and the names of studies that were not run."""
    names = [path.stem for path in sorted(folder.glob("*.yml"))]
    files = {key: folder / f"{key}.json" for name in names for key in (name, f"{name}.robustness")}
    found = {key: json.loads(path.read_text(encoding="utf-8")) for key, path in files.items() if path.is_file()}
    return found, [name for name in names if name not in found]


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.results",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--studies", type=Path, default=STUDIES, metavar="DIR")
    made.add_argument("--output", type=Path, default=ROOT / "RESULTS.md", metavar="FILE")
    words = made.parse_args(argv)
    summaries, not_run = gather(words.studies)
    if not summaries:
        print(f"no study in {words.studies} was run: there is nothing to write")
        return 1
    words.output.write_text(document(summaries, not_run), encoding="utf-8")
    for name, picture in pictures(summaries).items():
        (words.studies / name).write_text(picture, encoding="utf-8")
    print(f"{words.output}: {len(summaries)} studies, {len(not_run)} not run")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
