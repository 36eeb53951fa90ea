"""The report of one or more runs: a self-contained HTML file without scripts.

The same runs and data give the same file, byte for byte: it contains no time stamp.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import combinations
from pathlib import Path
from typing import Any

from mtl.baseline_comparison import HEADER, BaselineComparison, compare_with_baselines, conclusion
from mtl.charts import Measured, forest_chart, strip_chart
from mtl.drawing import Chart
from mtl.error_analysis import Joined, LabelledPredictions, compare_predictions, join_labels
from mtl.errors import UserError, counted
from mtl.files import refuse_links, write_file
from mtl.html_interaction import interaction
from mtl.html_task import COUNTS, Place, data_table, results_of, rows_of, task_section
from mtl.markup import Html, element, group, page, style_sheet
from mtl.metrics import METRICS
from mtl.pictures import write_png
from mtl.report import interval, number
from mtl.run_record import RunRecord, file_problems, read_record

REPORT_FILE = "report.html"
GENERATOR = "run-mtl report"
POLICY = "default-src 'none'; style-src 'unsafe-inline'"  # the browser loads and runs nothing
BASELINE_NOTE = "The baseline ignores the text: it is the majority class, the mean value or a random order."
INTERVAL_NOTE = (
    "Intervals are 95 % bootstrap percentile intervals over the evaluated rows (ranking: queries): how much a value "
    "would vary with other rows of the same kind. They do not cover other training seeds or other kinds of text. "
    "Because the best step was chosen on these {rows} rows, values on them are slightly optimistic."
)


@dataclass
class LoadedRun:
    """A run with its predictions and intervals.

    Attributes:
        record: The run.
        labelled: Task → split → predictions with labels, or the reason why there are none.
        spread: Task → split → metric → interval: from the run's results, or else computed here.
        alone: The run beside its baselines, of which there may be none.
    """

    record: RunRecord
    labelled: Joined
    spread: dict[str, dict[str, Mapping[str, Sequence[float]]]]
    alone: list[BaselineComparison]


def write_report(
    run_dirs: Sequence[Path], output: Path | None = None, *, data_root: str | None = None, png: Path | None = None
) -> Path:
    """Writes the report of one or more runs.

    Args:
        run_dirs: Run directories.
        output: The file; by default `report.html`, in the run directory for a single run, else in the current one.
        data_root: Local mirror of the hub; by default each run's own.
        png: Directory for the charts as PNG files; None for no such files.

    Returns:
        The path of the file.

    Raises:
        UserError: A directory is not a run, one of its files is damaged, or the output path is unsuitable.
    """
    run_dirs = list(dict.fromkeys(run_dirs))
    if output is None:
        output = (run_dirs[0] if len(run_dirs) == 1 else Path()) / REPORT_FILE
        if len(run_dirs) == 1:
            refuse_links(run_dirs[0])
        elif output.is_file() and GENERATOR not in output.read_text(encoding="utf-8", errors="replace")[:2000]:
            raise UserError.of("--output", f"{output} is there and is no report of runs; name another file")
    if problems := file_problems(output):
        raise UserError(problems)
    if output.suffix not in (".html", ".htm"):
        raise UserError.of("--output", f"the report is HTML: name the file {output.with_suffix('.html')}")
    if png is not None and png.exists() and not png.is_dir():
        raise UserError.of("--png", f"{png} is a file; name a directory")
    document, charts = report_page([_load(read_record(run_dir), data_root) for run_dir in run_dirs])
    write_file(output, document)
    if png is not None:
        for name, chart in charts.items():
            write_png(chart, png / f"{name}.png")
    return output


def _load(record: RunRecord, data_root: str | None) -> LoadedRun:
    labelled = join_labels(record, data_root)
    spread: dict[str, dict[str, Mapping[str, Sequence[float]]]] = {}
    own = record.results.get("intervals", {})
    for name, splits in labelled.items():
        spread[name] = {}
        for split, found in splits.items():
            kept = own.get(name, {}).get(split)
            if kept is None and isinstance(found, LabelledPredictions):
                kept = found.intervals()
            spread[name][split] = kept or {}
    return LoadedRun(record, labelled, spread, compare_with_baselines(record, labelled, data_root))


def report_page(runs: Sequence[LoadedRun]) -> tuple[Html, dict[str, Chart]]:
    """The document, and its charts by file name."""
    charts: dict[str, Chart] = {}
    several = len(runs) > 1
    title = f"Comparison of {len(runs)} runs" if several else f"Run {runs[0].record.path}"
    names = [f"run {number}: {loaded.record.path}" for number, loaded in enumerate(runs, 1)]
    kinds = dict.fromkeys(rows_of(loaded.record) for loaded in runs)
    sections, links = [], []
    if several:
        sections.append(element("section", element("h2", "Comparison"), _comparison(runs), id="comparison"))
        links.append(("comparison", "Comparison"))
    for index, loaded in enumerate(runs, 1):
        level = 3 if several else 2
        parts, below = _run(loaded, f"r{index}", level, charts)
        if several:
            below = [(f"r{index}", names[index - 1])]
            sections.append(element("section", element("h2", names[index - 1]), parts, id=f"r{index}"))
        else:
            sections.append(parts)
        links += below
    document = page(
        element(
            "html",
            element(
                "head",
                element("meta", charset="utf-8"),
                element("meta", name="viewport", content="width=device-width, initial-scale=1"),
                element("meta", name="color-scheme", content="light dark"),
                element("meta", name="generator", content=GENERATOR),
                element("meta", http_equiv="Content-Security-Policy", content=POLICY),
                element("title", title),
                style_sheet(files("mtl").joinpath("report.css").read_text(encoding="utf-8")),
            ),
            element(
                "body",
                element("a", "Skip to the results", href="#content", class_="skip"),
                element("header", element("h1", title), _contents(links)),
                element("main", sections, id="content", tabindex=-1),
                element("footer", element("p", INTERVAL_NOTE.format(rows=" or ".join(kinds)))),
            ),
            lang="en",
        )
    )
    return document, charts


def _contents(links: Sequence[tuple[str, str]]) -> Html:
    items = [element("li", element("a", text, href=f"#{anchor}")) for anchor, text in links]
    return element("nav", element("ul", items), aria_label="Contents")


def _run(loaded: LoadedRun, id: str, level: int, charts: dict[str, Chart]) -> tuple[Html, list[tuple[str, str]]]:
    """The sections of one run, and (anchor, text) of the links to them."""
    record = loaded.record
    sections = [
        ("results", "Results", lambda place: _results(loaded, place)),
        ("alone", "Together or alone", lambda place: _alone(loaded)),
        ("sampling", "Sampling: planned and done", lambda place: _sampling(record, place)),
        ("interaction", "Interaction between tasks", lambda place: interaction(record, place)),
        ("tasks", "Tasks", lambda place: _tasks(loaded, place)),
        ("provenance", "Provenance", lambda place: _provenance(record, place)),
    ]
    parts, links = [], []
    for key, title, content in sections:
        if (key == "interaction" and not record.log.gradients) or (key == "alone" and not loaded.alone):
            continue
        place = Place(f"{id}-{key}", level, [])
        parts.append(element("section", place.heading(title), content(place), id=place.id))
        links.append((place.id, title))
        charts |= {f"{place.id}-{chart.name}": chart for chart in place.charts}
        if key == "tasks":
            for number, name in enumerate(record.tasks, 1):
                links.append((f"{place.id}-{number}", name))
    return group(parts), links


def _status(record: RunRecord) -> Html:
    results = record.results
    done = f"{results['steps']:,} of {results['planned_steps']:,} steps"
    if results["finished"]:
        words = f"Finished after {done}."
    else:
        words = f"Unfinished: {done} so far. Values are from the best evaluation so far."
    left_out = results.get("skipped_steps", 0) + results.get("nonfinite_steps", 0)
    more = f" {counted(left_out, 'step')} skipped because of an overflow or a non-finite value." if left_out else ""
    return element("p", element("strong", words), more, class_="status" if results["finished"] else "status unfinished")


def _results(loaded: LoadedRun, place: Place) -> Html:
    record = loaded.record
    found = results_of(record.results, loaded.spread)
    drawn = [
        Measured(
            f"{result.place}: {result.metric}",
            result.value,
            None if result.interval is None else (result.interval[0], result.interval[1]),
            result.baseline,
        )
        for result in found
        if result.value is not None and result.metric in METRICS and METRICS[result.metric].higher_is_better
    ]
    title = "Metrics at each task's best step"
    header = ("task", "metric", "value", "95 % interval", "baseline", "last step", "rows")
    return group(
        _status(record),
        [element("p", note, class_="note") for note in record.notes],
        place.draw(forest_chart("results", title, drawn)) if drawn else None,
        data_table(title, header, [result.cells() for result in found], titles=2),
        element("p", BASELINE_NOTE, class_="muted"),
    )


def _alone(loaded: LoadedRun) -> Html:
    explained = (
        "Each task trained together with the others and alone, for as many steps on it, each at its best step. "
        "An interval that contains 0 shows no clear difference (paired bootstrap over the same rows)."
    )
    return group(
        element("p", explained, class_="muted"),
        data_table("Together and alone", HEADER, [row.cells() for row in loaded.alone], titles=3),
    )


def _sampling(record: RunRecord, place: Place) -> Html:
    plan = {row["task"]: row for row in record.results.get("plan", [])}
    names = list(dict.fromkeys([*plan, *record.log.steps]))
    if not names:
        return element("p", "There is no plan and no training log.", class_="note")
    rows: list[tuple[Any, ...]] = []
    for name in names:
        planned, done = plan.get(name), len(record.log.steps.get(name, []))
        if planned is None:
            rows.append((name, "–", "–", "–", f"{done:,}", "–", "–", "–"))
            continue
        part = done / planned["steps"] if planned["steps"] else 0.0
        about = "" if done == planned["steps"] else "about "
        batch = planned["batch"] or f"{planned['batch_tokens']:,} tokens"
        passes = f"{about}{planned['passes'] * part:.2f}"
        tokens = f"{about}{planned['tokens'] * part:,.0f}"
        skipped = record.log.skipped.get(name, 0)
        rows.append(
            (name, f"{planned['rows']:,}", batch, f"{planned['steps']:,}", f"{done:,}", passes, tokens, skipped)
        )
    header = ("task", "rows", "batch", "steps planned", "done", "passes done", "tokens done", "skipped")
    drawn = None
    if record.log.steps:
        done_steps = [(step, index) for index, name in enumerate(names) for step in record.log.steps.get(name, [])]
        end = max(record.results["planned_steps"], max(step for step, _ in done_steps))
        drawn = place.draw(strip_chart("strip", "When each task was trained", names, done_steps, end))
    strategy = None
    if record.run is not None:
        strategy = element("p", f"Sampler: {record.run.config.sampling.strategy}.", class_="facts")
    return group(strategy, drawn, data_table("Steps, passes and tokens of each task", header, rows))


def _tasks(loaded: LoadedRun, place: Place) -> Html:
    parts = []
    for index, name in enumerate(loaded.record.tasks, 1):
        found = loaded.labelled[name].get(loaded.record.selection_split, "it was not evaluated")
        own = Place(f"{place.id}-{index}", place.level + 1, [])
        parts.append(task_section(loaded.record, name, found, own))
        place.charts += [
            Chart(f"{index}-{chart.name}", chart.title, chart.description, chart.height, chart.marks)
            for chart in own.charts
        ]
    return group(parts)


def _provenance(record: RunRecord, place: Place) -> Html:
    found, config = record.provenance, record.run.config if record.run else None
    rows = [
        ("command", " ".join(found.command or [])),
        ("encoder", config.encoder if config else None),
        ("phase", config.phase if config else None),
        ("seed", found.seed),
        ("git revision", found.git_revision),
        ("Python", found.python),
        ("platform", found.platform),
        ("device", found.device),
        ("processes", found.processes),
        *found.versions.items(),
        *((f"data {place}", source) for place, source in found.sources.items()),
    ]
    shown = [(key, value) for key, value in rows if value not in (None, "")]
    leaks = [tuple(str(leak.get(key, "–")) for key in ("train", "evaluation", "rows", "kind")) for leak in found.leaks]
    return group(
        data_table("The run", ("what", "value"), shown)
        if shown
        else element("p", "Nothing was recorded.", class_="note"),
        data_table(
            "Evaluation rows found in training rows", ("training", "evaluation", "rows", "kind"), leaks, titles=2
        )
        if leaks
        else None,
    )


# Several runs


def _comparison(runs: Sequence[LoadedRun]) -> Html:
    summary = [
        (
            f"run {index}",
            str(loaded.record.path),
            f"{loaded.record.results['steps']:,} of {loaded.record.results['planned_steps']:,}",
            "yes" if loaded.record.results["finished"] else "no",
            "–" if loaded.record.provenance.seed is None else loaded.record.provenance.seed,
        )
        for index, loaded in enumerate(runs, 1)
    ]
    keys = dict.fromkeys(
        (name, split, metric)
        for loaded in runs
        for name, splits in loaded.record.results["tasks"].items()
        for split, values in splits.items()
        for metric in values
        if metric not in COUNTS
    )
    rows = []
    for name, split, metric in keys:
        cells = []
        for loaded in runs:
            value = loaded.record.results["tasks"].get(name, {}).get(split, {}).get(metric)
            bounds = loaded.spread.get(name, {}).get(split, {}).get(metric)
            cells.append("–" if value is None else f"{number(value)} {interval(bounds)}")
        rows.append((name, split, metric, *cells))
    header = ("task", "split", "metric", *(f"run {index}" for index in range(1, len(runs) + 1)))
    return group(
        data_table("The runs", ("", "directory", "steps", "finished", "seed"), summary),
        data_table("Values with 95 % intervals", header, rows, titles=3),
        _paired(runs),
    )


def _paired(runs: Sequence[LoadedRun]) -> Html:
    """Differences of all pairs of runs on the same rows, and the reasons why pairs could not be compared."""
    rows, reasons = [], []
    for (i, first), (j, second) in combinations(enumerate(runs, 1), 2):
        for name, splits in first.labelled.items():
            for split, before in splits.items():
                after = second.labelled.get(name, {}).get(split)
                if after is None:
                    reasons.append(f"{name}/{split}, runs {i} and {j}: run {j} did not evaluate it")
                    continue
                found = compare_predictions(first.record, second.record, name, split, (before, after))
                if isinstance(found, str):
                    reasons.append(f"{name}/{split}, runs {i} and {j}: {found}")
                    continue
                for metric, difference in found.items():
                    rows.append(
                        (
                            name,
                            split,
                            metric,
                            f"run {j} − run {i}",
                            f"{difference.value:+.4f}",
                            f"[{difference.low:+.4f}, {difference.high:+.4f}]",
                            conclusion(difference, metric, f"run {i}", f"run {j}"),
                        )
                    )
        for name in second.labelled:
            if name not in first.labelled:
                reasons.append(f"{name}, runs {i} and {j}: run {i} did not evaluate it")
    header = ("task", "split", "metric", "difference", "value", "95 % interval", "conclusion")
    explained = (
        "Differences on the same rows (paired bootstrap). An interval that contains 0 shows no clear difference."
    )
    return group(
        element("h3", "Differences"),
        element("p", explained, class_="muted"),
        data_table("Paired differences", header, rows, titles=4) if rows else None,
        element("p", "Not compared row by row:") if reasons else None,
        element("ul", [element("li", reason) for reason in reasons], class_="note") if reasons else None,
    )
