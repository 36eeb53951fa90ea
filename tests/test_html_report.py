"""The report of runs: what it says is what the run holds, texts stay texts, and a browser can show it on any screen."""

from __future__ import annotations

import ast
import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from browser import Browser
from conftest import write_jsonl
from PIL import Image

from mtl import html_report, html_task
from mtl.charts import Series, bar_chart, line_chart, short, ticks
from mtl.cli import main
from mtl.drawing import WIDTH, Words, fit, svg, width_of
from mtl.heat_map import cell_text
from mtl.html_report import write_report
from mtl.html_task import smoothed, thinned
from mtl.intervals import differences
from mtl.markup import Html, element, visible
from mtl.metrics import METRICS
from mtl.report import interval, number

PACKAGE = Path(html_report.__file__).parent
TASKS = ("mood", "strength", "answer")
HOSTILE = [
    "<script>document.title='taken'</script>",
    "</title></style></svg><img src=x onerror=alert(1)>",
    "\"' onmouseover=alert(1) x='",
    "a\x1b[2Jb\x00c\x9b",
    "\u202eevil\u2066",
    "&lt;already&gt; &amp;",
    "אבג \ud800 end",
    "]]><!-- -->",
]


class Reader(HTMLParser):
    """What a page holds: elements with attributes, texts of elements, and cells of its tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.rows: list[list[str]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "br", "hr", "col"):
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self.text += data
        if "td" in self._open or "th" in self._open:
            self.rows[-1][-1] += data

    def tags(self) -> set[str]:
        return {tag for tag, _ in self.elements}

    def ids(self) -> list[str]:
        return [value for _, attributes in self.elements if (value := attributes.get("id"))]


def train(corpus: Path, encoder: Path, output: Path, *more: str) -> Path:
    words = ["train", str(corpus), "--encoder", str(encoder), "--output", str(output), "--batch-size", "8"]
    assert main([*words, "--learning-rate", "1e-3", "--max-steps", "12", "--set", "evaluation.every=4", *more]) == 0
    return output


@pytest.fixture(scope="module")
def run_dir(corpus: Path, encoder_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    more = ["--set", "telemetry.gradient_cosine_every=4"]
    return train(corpus, encoder_dir, tmp_path_factory.mktemp("reports") / "one", *more)


@pytest.fixture(scope="module")
def other(corpus: Path, encoder_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(corpus, encoder_dir, tmp_path_factory.mktemp("reports") / "two", "--seed", "7", "--no-smart")


@pytest.fixture(scope="module")
def held_out(corpus: Path, encoder_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    more = ["--set", "train.holdout=0.2"]
    return train(corpus, encoder_dir, tmp_path_factory.mktemp("reports") / "three", *more)


@pytest.fixture
def copy(run_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run_dir, tmp_path / "run"))


def results_of(run: Path) -> Any:
    return json.loads((run / "results.json").read_text())


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read(path: Path) -> Reader:
    return Reader(path.read_text(encoding="utf-8"))


# Contents


def test_numbers_are_those_of_the_results(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run_dir), "--output", str(tmp_path / "r.html")]) == 0
    assert "accuracy" in capsys.readouterr().out
    page, results = read(tmp_path / "r.html"), results_of(run_dir)
    for task, splits in results["tasks"].items():
        for metric in splits["validation"].keys() & METRICS.keys():
            values = [results[key][task]["validation"][metric] for key in ("tasks", "intervals", "baselines", "last")]
            shown = [task, metric, number(values[0]), interval(values[1]), number(values[2]), number(values[3])]
            assert shown in [row[:6] for row in page.rows], shown
    for planned in results["plan"]:
        numbers = [f"{planned['rows']:,}", str(planned["batch"]), f"{planned['steps']:,}", f"{planned['steps']:,}"]
        ends = [f"{planned['passes']:.2f}", f"{planned['tokens']:,}", "0"]
        assert [planned["task"], *numbers, *ends] in page.rows
    assert "Finished after 12 of 12 steps." in page.text


@pytest.mark.parametrize(
    ("fixture", "split", "source", "rows_are"),
    [
        ("run_dir", "validation", "validation", "validation"),
        ("held_out", "holdout", "train", "held-out training"),
    ],
)
def test_predictions_beside_the_truth(
    fixture: str, split: str, source: str, rows_are: str, request: pytest.FixtureRequest, corpus: Path, tmp_path: Path
) -> None:
    run: Path = request.getfixturevalue(fixture)
    page, results = read(write_report([run], tmp_path / "r.html")), results_of(run)

    def judged(task: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        records, rows = (
            lines(run / "predictions" / f"{task}.{split}.jsonl"),
            lines(corpus.parent / task / f"{source}.jsonl"),
        )
        return records, [rows[record["row"]] for record in records]

    labels = ["bad", "neutral", "good"]
    records, rows = judged("mood")
    assert len(records) == results["tasks"]["mood"][split]["n"]
    counts = np.zeros((3, 3), dtype=int)
    for record, row in zip(records, rows, strict=True):
        counts[labels.index(row["mood"]), labels.index(record["label"])] += 1
    for true, label in enumerate(labels):
        recall = f"{counts[true, true] / counts[true].sum():.1%}"
        assert [label, *map(str, counts[true]), recall] in page.rows
    hardest = min(zip(records, rows, strict=True), key=lambda pair: pair[0]["probabilities"][pair[1]["mood"]])
    assert f"true: {hardest[1]['mood']} ({hardest[0]['probabilities'][hardest[1]['mood']]:.1%})" in page.text
    assert hardest[1]["text"] in page.text
    pairs = [(record["value"], row["score"]) for record, row in zip(*judged("strength"), strict=True)]
    assert f"off by: {max(abs(value - score) for value, score in pairs):.4g}" in page.text
    text = (tmp_path / "r.html").read_text()
    assert text.count('class="fill cloud"') == len(pairs)  # a dot for each row of the regression
    first: dict[str, int] = {}
    for record, row in zip(*judged("answer"), strict=True):
        first[row["id"]] = min(record["rank"] if row["relevant"] else 99, first.get(row["id"], 99))
    told = "; ".join(f"{rank}: {list(first.values()).count(rank)}" for rank in range(1, 11))
    assert f"{told}; &gt;10: 0; none: {list(first.values()).count(99)}." in text
    for task, metric in zip(TASKS, ("accuracy", "pearson", "mrr"), strict=True):
        guess = short(results["baselines"][task][split][metric])
        assert f"{task}: {metric} at each evaluation" in text and f"; baseline: {guess}" in text
    assert page.text.count(f"Predictions on {rows_are} rows") == 3 and "Not shown" not in page.text
    assert page.text.count(f"hardest {rows_are} examples") == 3
    assert f"the best step was chosen on these {rows_are} rows" in page.text


def test_held_out_rows_of_two_runs_are_compared_by_the_data_that_they_are_of(
    run_dir: Path, held_out: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(held_out, tmp_path / "copy"))
    provenance = json.loads((copy / "provenance.json").read_text())
    provenance["data"] = dict.fromkeys(provenance["data"], "of another encoder")
    (copy / "provenance.json").write_text(json.dumps(provenance))
    page = read(write_report([held_out, copy], tmp_path / "r.html"))
    assert ["mood", "holdout", "accuracy", "run 2 − run 1", "+0.0000"] in [row[:5] for row in page.rows]
    (copy / "run.yml").unlink()
    page = read(write_report([run_dir, copy], tmp_path / "r.html"))
    assert "mood/validation, runs 1 and 2: run 2 did not evaluate it" in page.text
    assert "chosen on these validation or held-out training rows" in page.text
    assert "Not shown: the run's task definitions are missing." in page.text


def test_the_same_runs_give_the_same_bytes(run_dir: Path, other: Path, tmp_path: Path) -> None:
    for runs in ([run_dir], [run_dir, other]):
        pages = [write_report(runs, tmp_path / f"{n}.html", png=tmp_path / str(n)).read_bytes() for n in range(2)]
        assert pages[0] == pages[1]
        for path in sorted((tmp_path / "0").iterdir()):
            assert path.read_bytes() == (tmp_path / "1" / path.name).read_bytes()


def test_pictures_are_complete(run_dir: Path, tmp_path: Path) -> None:
    page = write_report([run_dir], tmp_path / "r.html", png=tmp_path / "png").read_text()
    pictures = list((tmp_path / "png").iterdir())
    assert len(pictures) == page.count("<svg") > 15
    for path in pictures:
        with Image.open(path) as image:
            assert image.width == 2 * WIDTH
            assert len(set(image.convert("L").resize((60, 40)).tobytes())) > 5, "something is drawn"


def test_structure_is_accessible(run_dir: Path, other: Path, tmp_path: Path) -> None:
    for runs in ([run_dir], [run_dir, other]):
        page = read(write_report(runs, tmp_path / "r.html"))
        levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
        assert levels.count(1) == 1 and levels[0] == 1
        assert all(after <= before + 1 for before, after in pairwise(levels))
        assert len(page.ids()) == len(set(page.ids()))
        for tag, attributes in page.elements:
            if tag == "th":
                assert attributes["scope"] in ("row", "col")
            if tag == "svg":
                for key in ("aria-labelledby", "aria-describedby"):
                    assert attributes[key] in page.ids()
            if tag == "a":
                assert (attributes["href"] or "")[1:] in page.ids()
            if attributes.get("class") == "scroll":
                assert attributes["tabindex"] == "0" and attributes["aria-label"]
        assert {"main", "nav", "header", "footer", "caption"} <= page.tags()
        assert next(attributes for tag, attributes in page.elements if tag == "html")["lang"] == "en"
        assert not page.tags() & {"script", "link", "img", "iframe", "object"}
        assert not any(key.startswith("on") or key in ("src", "srcset") for _, a in page.elements for key in a)
        assert not re.search(r"https?://|url\(|@import", (tmp_path / "r.html").read_text().replace("http-equiv", ""))


def test_tasks_that_pull_together_and_apart(run_dir: Path, other: Path, copy: Path) -> None:
    measured = [record for record in lines(run_dir / "metrics.jsonl") if record["event"] == "gradients"]
    assert [record["step"] for record in measured] == [4, 8, 12]
    page = read(write_report([run_dir], copy / "r.html"))
    means = []
    for i, j in combinations(range(3), 2):
        values = [record["cosines"][i][j] for record in measured]
        numbers = [cell_text(value) for value in (np.mean(values), values[-1], min(values), max(values))]
        below = f"{sum(value < 0 for value in values)} of 3"
        assert [TASKS[i], TASKS[j], *numbers, below] in page.rows
        means.append((-np.mean(values), [TASKS[i], TASKS[j]]))
        assert f"{TASKS[i]} and {TASKS[j]}: {cell_text(values[-1])}" in page.text
    listed = [row[:2] for row in page.rows if len(row) == 7 and row[-1].endswith(" of 3")]
    assert listed == [pair for _, pair in sorted(means)], "those that go together first"
    assert "Gradient cosines after step 12" in page.text and "mean of 3 measurements" in page.text
    assert "Interaction between tasks" not in read(write_report([other], copy / "r.html")).text
    many = {"event": "gradients", "step": 13, "tasks": [f"t{i}" for i in range(20)], "norms": [None] * 20}
    many["cosines"] = [[None if i == j == 0 else 0.5 for j in range(20)] for i in range(20)]
    kept = [json.dumps(record) + "\n" for record in lines(copy / "metrics.jsonl") if record["event"] != "gradients"]
    (copy / "metrics.jsonl").write_text("".join(kept) + json.dumps(many) + "\n")
    page = read(write_report([copy]))
    assert "60 of 190, the ends of the list" in page.text and "Gradient cosines after" not in page.text
    (copy / "metrics.jsonl").write_text("".join(kept) + 2 * (json.dumps(many) + "\n"))  # a step twice
    assert main(["report", str(copy)]) == 2


# What is missing, unfinished or damaged


def test_where_the_data_is_gone_the_rest_is_shown(copy: Path, tmp_path: Path) -> None:
    definitions = yaml.safe_load((copy / "task_defs.yml").read_text())
    definitions["mood"]["data"]["files"]["validation"] = str(tmp_path / "gone.jsonl")
    (copy / "task_defs.yml").write_text(yaml.safe_dump(definitions))
    page = read(write_report([copy]))
    assert "Not shown: the data is not there" in page.text and "gone.jsonl" in page.text
    assert "off by" in page.text  # the other tasks
    assert ["mood", "accuracy"] in [row[:2] for row in page.rows]


def test_data_that_changed_since_is_not_shown(copy: Path, corpus: Path, tmp_path: Path) -> None:
    rows = lines(corpus.parent / "mood" / "validation.jsonl")
    rows[0]["text"] = "This text was not evaluated."
    changed = write_jsonl(tmp_path / "changed.jsonl", rows)
    definitions = yaml.safe_load((copy / "task_defs.yml").read_text())
    definitions["mood"]["data"]["files"]["validation"] = str(changed)
    (copy / "task_defs.yml").write_text(yaml.safe_dump(definitions))
    page = read(write_report([copy]))
    assert "not what the run was evaluated on" in page.text
    assert "was not evaluated." not in page.text
    provenance = json.loads((copy / "provenance.json").read_text())
    del provenance["contents"]
    (copy / "provenance.json").write_text(json.dumps(provenance))
    write_jsonl(changed, rows[:-1])
    assert "other rows than the predictions" in read(write_report([copy])).text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("run.yml", "tasks and data of this run are unknown"),
        ("task_defs.yml", "the run's task definitions are missing"),
        ("provenance.json", "where this run comes from is unknown"),
        ("metrics.jsonl", "there are no learning curves to draw"),
        ("predictions/mood.validation.jsonl", "there are no predictions (mood.validation.jsonl)"),
    ],
)
def test_a_missing_file_is_a_note(name: str, words: str, copy: Path) -> None:
    (copy / name).unlink()
    page = read(write_report([copy]))
    assert words in page.text
    value = number(results_of(copy)["tasks"]["mood"]["validation"]["accuracy"])
    assert ["mood", "accuracy", value] in [row[:3] for row in page.rows]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("results.json", '{"tasks": {"mood": 5}, "steps": 1, "planned_steps": 1, "finished": true}'),
        ("results.json", '{"tasks": {"mood": {"v": {"a": "1"}}}, "steps": 1, "planned_steps": 1, "finished": true}'),
        ("results.json", '{"tasks": {}, "steps": "<b>", "planned_steps": 1, "finished": true}'),
        ("results.json", '{"tasks": {}}'),
        ("provenance.json", '{"command": 5}'),
        ("provenance.json", "[" * 50_000),
        ("metrics.jsonl", '{"event": "step", "step": 1, "task": "mood", "loss": "<b>"}\n'),
        ("metrics.jsonl", '{"event": "step", "step": -1, "task": "mood", "loss": 1.0}\n'),
        ("metrics.jsonl", '{"event": "step", "step": 1, "task": "mood", "loss": 1e300}\n'),
        ("metrics.jsonl", '{"event": "step", "step": 1, "task": ["mood"]}\n'),
        ("metrics.jsonl", '{"event": "evaluation", "step": 1, "task": "mood", "split": "v", "metrics": 3}\n'),
        ("metrics.jsonl", '{"event": "gradients", "step": 99, "tasks": ["a"], "cosines": [[2]], "norms": [1]}\n'),
        ("metrics.jsonl", '{"event": "gradients", "step": 99, "tasks": ["a"], "cosines": [[1, 1]], "norms": [1]}\n'),
        ("metrics.jsonl", '{"event": "gradients", "step": 99, "tasks": ["a"], "cosines": [[NaN]], "norms": [1]}\n'),
        ("metrics.jsonl", '{"event": "gradients", "step": 99, "tasks": ["a"], "cosines": [[1]], "norms": [-1]}\n'),
        ("metrics.jsonl", '{"event": "gradients", "step": 99, "tasks": [1], "cosines": [[1]], "norms": [1]}\n'),
        ("metrics.jsonl", "[]\n"),
        ("metrics.jsonl", "{}\n" + "\x80"),
        ("metrics.jsonl", "[" * 50_000 + "\n"),
        ("predictions/mood.validation.jsonl", '{"row": 0}\n'),
        ("run.yml", "a: [\n"),
        ("task_defs.yml", "mood: 5\n"),
    ],
)
def test_damage_is_one_clear_error(name: str, text: str, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / name).write_bytes(text.encode("latin-1"))
    assert main(["report", str(copy)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and name in error and "Traceback" not in error
    assert not (copy / "report.html").exists()


def test_an_unfinished_run_says_so_and_has_intervals(copy: Path) -> None:
    results = results_of(copy)
    expected = results.pop("intervals")
    results |= {"steps": 8, "finished": False}
    (copy / "results.json").write_text(json.dumps(results))
    logged = (copy / "metrics.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in logged if json.loads(line)["step"] <= 8]
    (copy / "metrics.jsonl").write_text("".join(kept) + logged[-1][:20])  # killed while it wrote
    page = read(write_report([copy]))
    assert "Unfinished: 8 of 12 steps so far." in page.text
    assert ["mood", "8"] not in page.rows
    row = next(row for row in page.rows if row[0] == "mood" and len(row) == 8)
    assert row[3:5] == ["4", "3"] and row[5].startswith("about ")  # steps 1, 4 and 7 of 1, 4, 7 and 10
    assert interval(expected["mood"]["validation"]["accuracy"]) in page.text


def test_steps_of_several_tasks(corpus: Path, encoder_dir: Path, tmp_path: Path) -> None:
    """Two batches a step, of three tasks drawn at random: some steps hold a task twice."""
    more = ["--set", "train.tasks_per_step=2", "--sampler", "sqrt", "--no-smart", "--no-proximal"]
    run = train(corpus, encoder_dir, tmp_path / "run", *more)
    logged = [(record["step"], record["task"]) for record in lines(run / "metrics.jsonl") if record["event"] == "step"]
    assert len(logged) == 24 and len(set(logged)) < 24
    page = read(write_report([run]))
    for planned in results_of(run)["plan"]:
        done = sum(task == planned["task"] for _, task in logged)
        assert done == planned["steps"]
        assert [planned["task"], f"{planned['steps']}", f"{done}"] in [[row[0], *row[3:5]] for row in page.rows]


# Several runs


def test_runs_are_compared_on_the_same_rows(run_dir: Path, other: Path, corpus: Path, tmp_path: Path) -> None:
    page = read(write_report([run_dir, other, run_dir], tmp_path / "r.html"))  # one that is named twice counts once
    assert "Comparison of 2 runs" in page.text
    outputs = []
    for run in (run_dir, other):
        records = lines(run / "predictions" / "strength.validation.jsonl")
        outputs.append(np.array([record["value"] for record in records]))
    labels = np.array([row["score"] for row in lines(corpus.parent / "strength" / "validation.jsonl")])
    for metric, found in differences(["pearson", "spearman"], "regression", outputs[0], outputs[1], labels).items():
        bounds = f"[{found.low:+.4f}, {found.high:+.4f}]"
        better = "run 2 is better" if found.value > 0 else "run 1 is better"
        verdict = better if found.excludes_zero else "no clear difference"
        shown = ["strength", "validation", metric, "run 2 − run 1", f"{found.value:+.4f}", bounds, verdict]
        assert shown in page.rows, shown
    assert "Not compared" not in page.text


def test_runs_on_other_data_are_not_compared_and_it_is_said(run_dir: Path, copy: Path, tmp_path: Path) -> None:
    provenance = json.loads((copy / "provenance.json").read_text())
    for key in ("data", "contents"):
        provenance[key]["mood/validation"] = "0" * 64
    del provenance["data"]["answer/validation"], provenance["contents"]["answer/validation"]
    (copy / "provenance.json").write_text(json.dumps(provenance))
    page = read(write_report([run_dir, copy], tmp_path / "r.html"))
    assert "mood/validation, runs 1 and 2: the data is not what the run was evaluated on" in page.text
    assert "answer/validation, runs 1 and 2: no fingerprint of the data was kept" in page.text
    assert not [
        row for row in page.rows if row[:2] in (["mood", "validation"], ["answer", "validation"]) and len(row) == 7
    ]
    assert [row for row in page.rows if row[:2] == ["strength", "validation"] and len(row) == 7]


def test_where_the_report_goes(
    run_dir: Path, other: Path, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(copy)]) == 0
    assert (copy / "report.html").is_file() and not (tmp_path / "report.html").exists()
    mine = Path("report.html")
    mine.write_text("<html>mine</html>", encoding="utf-8")
    assert main(["report", str(run_dir), str(other)]) == 2 and "mine" in mine.read_text(), "nobody named that file"
    mine.unlink()
    assert main(["report", str(run_dir), str(other)]) == 0
    assert main(["report", str(run_dir), str(other)]) == 0, "a report is replaced by the next"
    assert (tmp_path / "report.html").is_file() and not (other / "report.html").exists()
    (tmp_path / "folder.html").mkdir()
    for name, words in (("r.txt", "name the file r.html"), ("folder.html", "is a directory")):
        assert main(["report", str(copy), "--output", name]) == 2
        assert words in capsys.readouterr().err
    assert main(["train", "--output", str(copy), "--resume"]) == 0  # the report does not disturb the run
    outside = tmp_path / "outside"
    (copy / ".writing-report.html").symlink_to(outside)
    assert main(["report", str(copy)]) == 2
    assert "symbolic link" in capsys.readouterr().err and not outside.exists()


def test_what_is_no_run_is_told_together(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study, export, kept = tmp_path / "study", tmp_path / "export", tmp_path / "study" / "runs" / "cell"
    shutil.copytree(copy, kept)
    shutil.copytree(copy / "best" / "mood", export)
    assert main(["report", *map(str, (copy, study, export, copy / "best" / "mood", tmp_path / "studi"))]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"error: {study}: is neither a run (no run.yml) nor an export (no task.yml); it holds {kept}: name one of them",
        f"error: {export}: is an export; report needs a run",
        f"error: {copy / 'best' / 'mood'}: is part of a run; name the run itself, {copy}",
        f"error: {tmp_path / 'studi'}: there is no such directory; did you mean {str(study)!r}?",
    ]


# Texts stay texts


@pytest.fixture(scope="module")
def hostile_run(encoder_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labels, texts, columns, paths and, by an edited results.json, names of tasks, splits and metrics."""
    folder = tmp_path_factory.mktemp("hostile")
    columns = {"text_a": HOSTILE[0], "text_b": HOSTILE[1] + "\x1b[31m"}
    labels = texts = [text for text in HOSTILE if "\ud800" not in text]  # no tokenizer takes a lone surrogate
    rows = [
        {columns["text_a"]: f"{text} one", columns["text_b"]: f"two {text}", "label": labels[i % len(labels)]}
        for i, text in enumerate(texts)
    ]
    path = write_jsonl(folder / "<b>&'rows.jsonl", rows)
    data = {"files": {"train": str(path), "validation": str(path)}, "columns": columns}
    (folder / "t.yml").write_text(yaml.safe_dump({"t": {"type": "classification", "labels": labels, "data": data}}))
    words = ["train", str(folder / "t.yml"), "--encoder", str(encoder_dir), "--output", str(folder / "run")]
    assert main([*words, "--max-steps", "2", "--leaks", "ignore"]) == 0
    results = json.loads((folder / "run" / "results.json").read_text())
    for text in HOSTILE:
        results["tasks"][text] = {text: {text: 0.5, "accuracy": 0.25}}
        results["plan"].append(dict(results["plan"][0], task=text))
    (folder / "run" / "results.json").write_text(json.dumps(results))
    provenance = json.loads((folder / "run" / "provenance.json").read_text())
    provenance["command"] += HOSTILE
    provenance["versions"][HOSTILE[1]] = HOSTILE[2]
    provenance["leaks"] = [{"train": HOSTILE[0], "evaluation": HOSTILE[1], "rows": HOSTILE[3], "kind": HOSTILE[4]}]
    (folder / "run" / "provenance.json").write_text(json.dumps(provenance))
    cosines = [[1.0 if i == j else (-1) ** i * 0.3 for j in range(len(HOSTILE))] for i in range(len(HOSTILE))]
    gradients = {"event": "gradients", "tasks": HOSTILE, "cosines": cosines, "norms": [1.0] * len(HOSTILE)}
    with (folder / "run" / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps({**gradients, "step": step}) + "\n" for step in (3, 4))
    return folder / "run"


def test_hostile_texts_are_shown_and_do_nothing(hostile_run: Path, other: Path, tmp_path: Path) -> None:
    for runs in ([hostile_run], [hostile_run, other]):
        document = write_report(runs, tmp_path / "r.html", png=tmp_path / "png").read_text(encoding="utf-8")
        page = Reader(document)  # every element that was opened is closed
        assert not page.tags() & {"script", "img", "b"}
        assert not any(key.startswith("on") for _, attributes in page.elements for key in attributes)
        for text in HOSTILE:
            assert visible(text) in page.text
            if "\ud800" not in text:
                assert f"{visible(text)} one" in page.text and f"two {visible(text)}" in page.text
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", document)
    assert all(re.fullmatch(r"[a-z0-9-]+\.png", path.name) for path in (tmp_path / "png").iterdir())


def test_only_one_module_makes_markup() -> None:
    for path in PACKAGE.glob("*.py"):
        if path.stem == "markup":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Html"
            assert not called, f"{path.name}:{getattr(node, 'lineno', 0)} makes markup of a text"


def test_markup() -> None:
    assert element("p", "<b>", Html("<i>"), 3, None, ["&", ["x"]]) == "<p>&lt;b&gt;<i>3&amp;x</p>"
    assert element("a", class_='"<', aria_label=None, tabindex=0, hidden=True) == (
        '<a class="&quot;&lt;" tabindex="0" hidden></a>'
    )
    assert element("p", Html("<i>") + "<b>") == "<p>&lt;i&gt;&lt;b&gt;</p>"  # an operation gives a text again
    assert visible("a\x00\u202e\ud800\n\t\u200d") == "a\\x00\\u202e\\ud800\n\t\u200d"


# Charts


def test_ticks_are_round_and_within() -> None:
    assert ticks(0, 1) == [0, 0.5, 1.0]
    assert ticks(0, 60) == [0, 20, 40, 60]
    assert ticks(-0.3, 0.3) == [-0.2, 0, 0.2]
    random = np.random.default_rng(0)
    for low, span in zip(
        random.normal(size=300) * 10.0 ** random.integers(-9, 9, 300), random.random(300), strict=True
    ):
        found = ticks(low, low + abs(low) * span + 1e-12)
        assert 1 <= len(found) <= 6 and found == sorted(set(found))
    assert [short(value) for value in (0, 0.25, 1200, 15_000, 3e-8, -2e6, 1e-3)] == [
        "0", "0.25", "1,200", "15k", "3e-8", "-2e6", "0.001",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "values",
    [[1.0], [0.0, 0.0], [5e99, -5e99], [1e-300, 2e-300], [float("nan")], [], [1 / 3, 1 / 3 + 1e-12], [-1.0, 0.0]],
)
@pytest.mark.parametrize("log", [False, True])
def test_any_values_can_be_drawn(values: list[float], log: bool) -> None:
    points = [(float(step), value) for step, value in enumerate(values, 1)]
    chart = line_chart("a", "b", [Series("s", points, dots=True)], y_label="y", steps=len(values), log=log)
    drawn = str(svg(chart, "x"))
    assert "nan" not in re.sub(r"<desc.*?</desc>", "", drawn) and "inf" not in drawn
    for x, y in re.findall(r'c[xy]="([-\d.]+)" c[xy]="([-\d.]+)"', drawn):
        assert 0 <= float(x) <= WIDTH and 0 <= float(y) <= chart.height


def test_long_texts_are_cut_and_bars_are_in_proportion() -> None:
    assert fit("short", 100) == "short"
    assert width_of(fit("x" * 500, 100)) <= 100 and fit("x" * 500, 100).endswith("…")
    assert width_of(fit("漢" * 500, 100)) <= 100
    chart = bar_chart("a", "b", [("1", 10), ("2", 40)], x_label="x")
    heights = [
        float(h) for h in re.findall(r'height="([\d.]+)" class|height="([\d.]+)"', str(svg(chart, "p"))) for h in h if h
    ]
    assert max(heights) == pytest.approx(4 * min(heights), rel=0.01)
    assert "40" in [mark.text for mark in chart.marks if isinstance(mark, Words)]


def test_lines_are_thinned_and_smoothed_by_means() -> None:
    points = [(float(i), float(i % 2)) for i in range(1000)]
    few = thinned(points)
    assert len(few) == html_task.MOST_POINTS
    assert few[0] == (2.0, pytest.approx(0.4)) and few[1] == (7.0, pytest.approx(0.6))
    assert smoothed([(1, 1.0), (2, 4.0), (3, float("nan")), (4, 7.0)], 3) == [(1, 2.5), (2, 2.5), (3, 5.5), (4, 7.0)]


# In a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as found:
        yield found


OVERLAPS = """
[...document.querySelectorAll('svg')].flatMap(svg => {
  const texts = [...svg.querySelectorAll('text')].map(t => [t, t.getBoundingClientRect()]);
  const frame = svg.getBoundingClientRect(), found = [];
  texts.forEach(([t, a], i) => {
    if (a.left < frame.left - 1 || a.right > frame.right + 1 || a.top < frame.top - 1 || a.bottom > frame.bottom + 1)
      found.push('out of ' + svg.id + ': ' + t.textContent);
    texts.slice(i + 1).forEach(([u, b]) => {
      const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const tall = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (wide > 1 && tall > 3) found.push(t.textContent + ' / ' + u.textContent);
    });
  });
  return found;
})
"""
CONTRAST = """
(() => {
  const light = c => { const v = c.match(/[\\d.]+/g).slice(0, 3).map(n => n / 255)
    .map(n => n <= .04045 ? n / 12.92 : ((n + .055) / 1.055) ** 2.4); return .2126*v[0] + .7152*v[1] + .0722*v[2]; };
  const page = light(getComputedStyle(document.body).backgroundColor);
  const ratio = c => { const l = light(c); return (Math.max(l, page) + .05) / (Math.min(l, page) + .05); };
  const low = [];
  document.querySelectorAll('p, li, th, td, a, h1, h2, h3, h4, span, svg text').forEach(e => {
    const style = getComputedStyle(e), r = ratio(e.matches('svg text') ? style.fill : style.color);
    if (r < 4.5) low.push(e.tagName + ' ' + r); });
  document.querySelectorAll('svg polyline.line:not(.grid):not(.faint)').forEach(e => {
    const r = ratio(getComputedStyle(e).stroke); if (r < 3) low.push(e.getAttribute('class') + ' ' + r); });
  return low;
})()
"""


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_shows_it(
    width: int, dark: bool, browser: Browser, run_dir: Path, other: Path, hostile_run: Path, tmp_path: Path
) -> None:
    for name, runs in {"one": [run_dir], "two": [run_dir, other], "hostile": [hostile_run]}.items():
        path = write_report(runs, tmp_path / f"{name}.html")
        browser.requested.clear()
        browser.open(path, width, dark=dark)
        assert browser.evaluate("innerWidth") == width
        assert browser.evaluate("document.documentElement.scrollWidth") <= width, name
        assert browser.evaluate(OVERLAPS) == [], name
        assert browser.evaluate(CONTRAST) == [], name
        assert browser.evaluate("getComputedStyle(document.querySelector('svg text')).fontSize") == "11px"
        scale = browser.evaluate("document.querySelector('svg').getBoundingClientRect().width") / WIDTH
        assert scale > 0.85, "texts of charts stay readable"
        assert browser.evaluate("document.title").startswith(("Run ", "Comparison "))
        assert browser.faults == []
        assert browser.requested == [path.resolve().as_uri()]


def test_keyboard_and_print(browser: Browser, run_dir: Path, tmp_path: Path) -> None:
    browser.open(write_report([run_dir], tmp_path / "r.html"), 360)
    for event in ("keyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=event, key="Tab", code="Tab", windowsVirtualKeyCode=9)
    assert browser.evaluate("document.activeElement.className") == "skip"
    assert browser.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    browser.print_to(tmp_path / "r.pdf")
    assert (tmp_path / "r.pdf").read_bytes().startswith(b"%PDF")
    browser.call("Emulation.setEmulatedMedia", media="print")
    assert browser.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
