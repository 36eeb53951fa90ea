"""Generates RESULTS.md and its charts from the summaries of the studies.

    run-mtl compare benchmarks/studies/c_scitail_23.yml --summary benchmarks/studies/c_scitail_23.json
    python -m benchmarks.results

The first command continues where it was interrupted, on this machine or another. A study without a JSON file beside its
YAML file is listed as not run. Nothing is written unless at least one study was run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from benchmarks.questions import AIMS, PAPER, QUESTIONS, TABLE_5, Found, look_up
from mtl.card import code_span
from mtl.errors import counted, listed
from mtl.metrics import ANSWERABLE, METRICS
from mtl.summary import chart, counted_rows, difference_cells, mean_words, size_words, task_means

ROOT = Path(__file__).resolve().parent.parent
STUDIES = ROOT / "benchmarks" / "studies"
CHANCE = ROOT / "benchmarks" / "figures" / "chance.json"
PICTURES = "benchmarks/studies"  # path of the charts, relative to RESULTS.md
ENOUGH = 3  # seeds of a difference that is listed under "What did not help"
EQUAL = ("g_precision",)  # studies whose arms were not meant to gain
INTRODUCTION = """\
# Results

Written by `python -m benchmarks.results` from the studies in [`benchmarks/studies/`](benchmarks/studies); do not edit.

**How far this generalises.** The encoder has 22.7 million parameters, a fifth of BERT-base's, and its authors had
already trained it on sentence pairs. Tasks on pairs therefore start better than from a masked language model, and
pre-fine-tuning has less to add. The data contains only a part of MNLI, QQP, SNLI and SciTail. Published figures are
those of the paper's Table 5, for orientation: they are from another encoder, and hardly means over seeds (Table 2 has
[the best of three runs](https://github.com/namisan/mt-dnn/issues/126), according to an author). Tables 3 and 4 are from
all training rows, some of them of other tasks; nothing here is comparable with them yet.

Every mean is over all seeds that were run (n in the tables). Differences are paired by seed, with 95 % intervals from
the t distribution and, with five seeds or more, from a bootstrap of the pairs. The intervals are over seeds, on the
same evaluated rows: another sample of rows would give other differences. There are many comparisons here: without any
effect, one interval in twenty is expected to exclude 0. Seeds were added over several sittings, and interim results
were seen in between. A spread ratio is an arm's standard deviation over seeds relative to the base arm's; of a mean of
tasks, the root of the tasks' summed variances, not the standard deviation of the mean. In the tables of a study, the
base arm is the first one, or the arm after "over". Epochs, batch sizes and learning rates are the studies' own, not
the toolkit's built-in ones.
"""


class Gathered(NamedTuple):
    """What RESULTS.md is made from.

    Attributes:
        summaries: Study → its summary, as written by `compare` or by `benchmarks.robustness`.
        not_run: Studies without a summary.
        notes: Study → the comment at the head of its file.
        chance: Task → what `benchmarks.chance` found.
    """

    summaries: Mapping[str, Mapping[str, Any]]
    not_run: Sequence[str] = ()
    notes: Mapping[str, str] = {}
    chance: Mapping[str, Mapping[str, Any]] = {}


def document(gathered: Gathered) -> str:
    """The contents of RESULTS.md."""
    summaries = gathered.summaries
    lines = [INTRODUCTION, _budget(summaries), "", *_answers(summaries), *_aims(summaries)]
    for name, summary in summaries.items():
        lines += list(_robustness(summary) if "robustness" in summary else _section(name, summary, gathered))
    lines += [
        "## What did not help",
        "",
        f"By the t intervals above, of {ENOUGH} seeds or more.",
        "",
        *_no_help(summaries),
        "",
    ]
    if gathered.not_run:
        lines += ["## Not run yet", "", *(f"- `{name}`: {gathered.notes[name]}" for name in gathered.not_run), ""]
    return "\n".join(lines)


def pictures(summaries: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The chart of each study, by file name."""
    return {f"{name}.svg": chart(found) for name, found in summaries.items() if "groups" in found}


def _main_groups(summary: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """One group per size: the mean over tasks, if there is one, else the first metric of each task."""
    return task_means(summary) or [group for group in summary["groups"] if group["first"]]


def _of(group: Mapping[str, Any]) -> str:
    return mean_words(group) if "tasks" in group else f"{group['task']}, {group['metric']}"


def _answers(summaries: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """One table for each question."""
    yield from (
        "## Did it help?",
        "",
        "Differences in percentage points, and whether their t intervals exclude 0: if not, not even the sign of the "
        "effect is clear, which does not mean that there is none. The arms are described with the studies below.",
    )
    for question, comparisons in QUESTIONS.items():
        found = [(asked, result) for asked in comparisons if (result := look_up(summaries, asked))]
        if not found:
            continue
        yield from ("", f"**{question}**", "")
        yield from ("| study | trained on | of | arm | over | seeds | difference | 95 % (t) | |", "|---" * 9 + "|")
        for asked, result in found:
            base = code_span(asked.base) + (f" of {asked.base_study}" if asked.base_study else "")
            cells = (asked.study, result.size, result.of, code_span(asked.arm), base, str(result.difference["n"]))
            yield f"| {' | '.join((*cells, *_points(result), result.verdict))} |"
    yield ""


def _points(found: Found) -> tuple[str, str]:
    """A difference and its t interval in percentage points."""
    low, high = (100 * limit for limit in found.difference["t"])
    return f"{100 * found.difference['mean']:+.1f}", f"{low:+.1f} to {high:+.1f}"


def _aims(summaries: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Table of the targets with the measured values, and the evidence on why some were missed."""
    yield from (
        "## Targets",
        "",
        "A difference reaches its target if its mean does and its interval excludes 0; a spread ratio if it is at most "
        "the target. The targets were set before any study was run, those of SciTail after an exploratory "
        "loop; that of SMART without saying in which setting. "
        "The study that was planned for it is a_smart_1000. The rows marked as chosen later were added when most seeds "
        "of b_multitask_1000 were known; other comparisons of SMART with the same training without it are above.",
        "",
        "| target | study | of | at least or at most | found | 95 % (t) | |",
        "|---" * 7 + "|",
    )
    missed: dict[str, list[str]] = {}
    for aim in AIMS:
        if (result := look_up(summaries, aim.asked)) is None:
            continue
        if aim.what == "difference":
            reached = result.difference["mean"] >= aim.bound and result.verdict == "better"
            found = (f"{100 * aim.bound:+.1f}", *_points(result))
        else:
            reached = result.spread is not None and result.spread <= aim.bound
            found = (f"{aim.bound:.2f}", "" if result.spread is None else f"{result.spread:.2f}", "")
        for why in () if reached else aim.why:
            missed.setdefault(why, []).append(aim.words)
        cells = (aim.words, aim.asked.study, result.of, *found, "reached" if reached else "**missed**")
        yield f"| {' | '.join(cells)} |"
    yield from ("", *(f"- {'; '.join(words)}: {why}." for why, words in missed.items()), "")


def _section(name: str, summary: Mapping[str, Any], gathered: Gathered) -> Iterator[str]:
    yield from (f"## {name}", "")
    if name in gathered.notes:
        yield from (gathered.notes[name], "")
    yield from (f"`run-mtl compare benchmarks/studies/{name}.yml`: {_design(summary)}", "", *_arms(summary))
    groups = [group for group in summary["groups"] if group["first"]]
    yield from ("", f"![Every seed, and the arms' means]({PICTURES}/{name}.svg)")
    if any(map(_published, groups)):
        yield from ("", f"Published: {TABLE_5}.")
    if any(METRICS[group["metric"]].per_query and not group["metric"].endswith(ANSWERABLE) for group in groups):
        yield from ("", "Queries without a relevant candidate count as 0; figures from elsewhere may exclude them.")
    for group in groups:
        yield from ("", f"**{group['task']}, {size_words(group)}, {group['metric']}**", "")
        if summary["select"] == "validation" and group["task"] in gathered.chance:
            yield from (_evaluated(gathered.chance[group["task"]], group["metric"]), "")
        yield from _rows(group, _published(group))
    for group in task_means(summary):
        yield from ("", f"**Mean of {listed(group['tasks'])}, {size_words(group)}**", "")
        yield from _rows(group, {})
    yield ""


def _published(group: Mapping[str, Any]) -> dict[str, float]:
    """Published accuracies of a group's arms."""
    found = PAPER.get((group["task"], group["size"]), {})
    return {arm: value for arm, value in found.items() if arm in group["arms"]}


def _arms(summary: Mapping[str, Any]) -> Iterator[str]:
    """What the arms of a study have in common, and each one's phases."""
    yield f"All arms: {_flow(summary['settings'])}. Each arm's phases:"
    yield ""
    for arm, phases in summary["arms"].items():
        words = (
            f"{phase['phase']}{' on ' + listed(_sized(phase)) if phase['tasks'] else ''}"
            f"{', ' + _flow(phase['settings']) if phase['settings'] else ''}"
            for phase in phases
        )
        yield f"- {code_span(arm)}: {'; then '.join(words)}"


def _sized(phase: Mapping[str, Any]) -> list[str]:
    """A phase's tasks, with the number of rows where it is not all."""
    sizes = {task: f" ({counted(size, 'row')})" for task, size in phase["sizes"].items()}
    return [f"{task}{sizes.get(task, '')}" for task in phase["tasks"]]


def _flow(settings: Mapping[str, Any]) -> str:
    """Settings as YAML in one line."""
    return code_span(yaml.safe_dump(settings, default_flow_style=True, sort_keys=False, width=math.inf).strip())


def _evaluated(chance: Mapping[str, Any], metric: str) -> str:
    """The evaluated rows of a task, and what an answer scores there that ignores the text."""
    counts = chance["counts"]
    queries = f" of {counts['queries']:,} queries" if "queries" in counts else ""
    return (
        f"On {counts['n']:,} rows{queries}. An answer that ignores the text (majority class, mean label or random "
        f"order): {_number(chance['metrics'][metric])}."
    )


def _design(summary: Mapping[str, Any]) -> str:
    arms = [arm for group in summary["groups"] if group["first"] for arm in group["arms"].items()]
    most, planned = max((facts["n"] for _, facts in arms), default=0), len(summary["seeds"])
    seeds = f"{planned} seeds" if most >= planned else f"{most} of {planned} seeds"
    done = f"{summary['finished']:,} of {summary['cells']:,} cells"
    if summary["finished"] < summary["cells"]:
        short = listed(list(dict.fromkeys(code_span(arm) for arm, facts in arms if facts["n"] < most)))
        done += f" (**unfinished**{': fewer seeds of ' + short if short else ''})"
    machine, revision = summary["machine"], (summary["git_revision"] or "unknown")[:12]
    return (
        f"{done}, {seeds}, {counted_rows(summary)}; encoder `{summary['encoder']}`; "
        f"{_hours(summary)}, "
        f"on {machine['cores']} cores ({', '.join(summary['processors'])}), torch {summary['versions']['torch']}, "
        f"summarized at revision {revision}."
    )


def _seconds(summary: Mapping[str, Any]) -> tuple[float, float]:
    """Duration of a study's runs, and of the pre-fine-tuning that several of them start from."""
    runs = {key.rpartition("/")[0]: run["seconds"] for key, run in summary["runs"].items()}  # once if for many tasks
    shared = {run["shared_seconds"] for run in summary["runs"].values()}  # told by every run that starts from it
    return math.fsum(runs.values()), math.fsum(shared)


def _hours(summary: Mapping[str, Any]) -> str:
    own, shared = (seconds / 3600 for seconds in _seconds(summary))
    return f"{own:.1f} h" + (f" and {shared:.1f} h of pre-fine-tuning" if shared else "")


def _budget(summaries: Mapping[str, Mapping[str, Any]]) -> str:
    """The computing time of all studies, which is why some are not finished."""
    hours = math.fsum(sum(_seconds(summary)) for summary in summaries.values() if "runs" in summary) / 3600
    return (
        f"**Budget.** The runs below took {hours:,.0f} hours, mostly of one core each (pre-fine-tuning counts in every "
        "study that starts from it). Computing time is why some studies have fewer seeds or arms than planned, and "
        "some were not run."
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
            cells.append("" if arm not in published else f"{published[arm]:.3f}")
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
        if "robustness" in summary or name in EQUAL:
            continue
        for group in _main_groups(summary):
            for arm, base, difference in _differences(group):
                if difference["n"] < ENOUGH:
                    continue
                low, high = difference["t"]
                if not group.get("higher_is_better", True):
                    low, high = -high, -low
                if low <= 0:
                    what = "worse" if high < 0 else "not clearly better"
                    where = f"{name}, {_of(group)}, {size_words(group)}"
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


def gather(folder: Path) -> Gathered:
    """What is known of the studies in a folder."""
    notes = {path.stem: _note(path) for path in sorted(folder.glob("*.yml"))}
    files = {key: folder / f"{key}.json" for name in notes for key in (name, f"{name}.robustness")}
    found = {key: json.loads(path.read_text(encoding="utf-8")) for key, path in files.items() if path.is_file()}
    chance = json.loads(CHANCE.read_text(encoding="utf-8"))["tasks"]
    return Gathered(found, [name for name in notes if name not in found], notes, chance)


def _note(path: Path) -> str:
    """The comment at the head of a file, in one line."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines())
    return " ".join(line.lstrip("# ") for line in lines)


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
    gathered = gather(words.studies)
    if not gathered.summaries:
        print(f"no study in {words.studies} was run: there is nothing to write")
        return 1
    words.output.write_text(document(gathered), encoding="utf-8")
    for name, picture in pictures(gathered.summaries).items():
        (words.studies / name).write_text(picture, encoding="utf-8")
    print(f"{words.output}: {len(gathered.summaries)} summaries, {len(gathered.not_run)} studies not run")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
