"""A study end to end on a tiny encoder: interrupted, continued, changed, and with an arm that fails."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import ROOT
from test_trainer import signal_at_step

from mtl import phases
from mtl.baseline_comparison import compare_with_baselines, conclusion
from mtl.baselines import alone_of
from mtl.cli import main
from mtl.compare import _Scheduler, _threads
from mtl.config import command_line
from mtl.error_analysis import join_labels
from mtl.errors import StorageError, UserError
from mtl.files import locked
from mtl.intervals import Difference
from mtl.ledger import Ledger, failure
from mtl.paired import compare_pairs, describe
from mtl.preflight import Request, check_train
from mtl.report import number
from mtl.run_files import read_run
from mtl.run_record import read_record
from mtl.study import StudyRun, read_study

STUDY = """\
encoder: {encoder}
task_defs: [{corpus}]
tasks: [mood]
seeds: [1, 2]
settings:
  train: {{max_steps: 12, batch_size: 8, learning_rate: 2e-3, smart: false, proximal: false}}
arms:
  plain: [{{phase: train}}]
  first:
    - {{phase: train, tasks: [mood, strength]}}
    - {{phase: adapt, settings: {{train: {{max_steps: 6}}}}}}
contrasts: [[plain, first]]
"""


@pytest.fixture(scope="module")
def file(encoder_dir: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study") / "tiny.yml"
    path.write_text(STUDY.format(encoder=encoder_dir, corpus=corpus), encoding="utf-8")
    return path


def compare(file: Path, *words: str) -> int:
    return main(["compare", str(file), "--output", str(file.parent / "out"), *words])


def stamps(file: Path) -> dict[str, int]:
    """When each run's log was begun, by name."""
    runs = (file.parent / "out" / "runs").glob("*/provenance.json")
    return {path.parent.name: path.stat().st_mtime_ns for path in runs}


def summary(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((file.parent / "out" / "summary.json").read_text())
    return found


def of_arm(names: dict[str, int], arm: str) -> set[str]:
    return {name for name in names if f"-{arm}-" in name}


def test_an_interrupted_study_stops_cleanly(file: Path) -> None:
    long = file.with_name("long.yml")  # one run that would take minutes, after one that is short
    arms = "  short: [{phase: train}]\n  long: [{phase: train, settings: {train: {max_steps: 20000}}}]\n"
    head = file.read_text().replace("seeds: [1, 2]", "seeds: [1]").partition("arms:\n")[0]
    long.write_text(head + "arms:\n" + arms, encoding="utf-8")
    output = file.parent / "long"
    command = [sys.executable, "-m", "mtl", "compare", str(long), "--output", str(output)]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 600
    logs: list[Path] = []
    while not logs and time.monotonic() < deadline:  # until the long run has done some steps
        logs = [p for p in output.glob("runs/*-long-*/metrics.jsonl") if p.stat().st_size]
        time.sleep(0.2)
    child.send_signal(signal.SIGINT)
    printed, errors = child.communicate(timeout=600)
    assert child.returncode == 130, errors
    assert "continues the study" in errors and "1 of 2 cells finished" in printed
    checkpoint = max(output.glob("runs/*-long-*/checkpoints/step-*"))  # an evaluation may have left one before it
    steps = int(checkpoint.name.removeprefix("step-"))
    assert 0 < steps < 20000 and not list(output.glob("runs/*-short-*/checkpoints"))
    short = {p: p.stat().st_mtime_ns for p in output.glob("runs/*-short-*/provenance.json")}
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    log, deadline = next(output.glob("runs/*-long-*.log")), time.monotonic() + 600
    while f"resuming after step {steps:,}" not in log.read_text() and time.monotonic() < deadline:
        time.sleep(0.2)
    child.send_signal(signal.SIGTERM)
    printed, errors = child.communicate(timeout=600)
    assert child.returncode == 143, errors
    assert f"resuming after step {steps:,}" in log.read_text()
    assert short == {p: p.stat().st_mtime_ns for p in short}


@pytest.mark.usefixtures("forked_runs")
def test_a_study_is_run_kept_and_changed(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(file, "--jobs", "2") == 0
    printed = capsys.readouterr().out
    assert "4 of 4 cells finished" in printed and "[6/6]" in printed
    study, ledger = read_study(file), Ledger(file.parent / "out")
    for node in study.nodes:
        stored, folder = read_run(ledger.run_dir(node)), ledger.run_dir(node)
        drop = {"task_defs", "encoder", "data_root", "defaults", "tasks"}
        assert stored.config.model_dump(exclude=drop) == node.run.config.model_dump(exclude=drop)
        assert stored.tasks == node.run.tasks, "a run is what the study says of it"
        assert not any((folder / name).exists() for name in ("checkpoints", "model", "best"))
        assert (folder / "results.json").is_file() and ledger.results(node) is not None
    values: dict[str, dict[int, float]] = {}
    for cell in study.cells:
        results = json.loads((ledger.run_dir(cell.node) / "results.json").read_text())
        values.setdefault(cell.arm, {})[cell.seed] = results["last"]["mood"]["validation"]["accuracy"]
    (group,) = [group for group in summary(file)["groups"] if group["first"]]
    for arm in ("plain", "first"):
        assert group["arms"][arm]["values"] == {str(seed): value for seed, value in values[arm].items()}
        assert group["arms"][arm]["std"] == describe(list(values[arm].values()))["std"]
    difference = compare_pairs([values["first"][s] for s in (1, 2)], [values["plain"][s] for s in (1, 2)])
    assert group["arms"]["first"]["difference"] == difference
    (contrast,) = group["contrasts"]
    opposite = compare_pairs([values["plain"][s] for s in (1, 2)], [values["first"][s] for s in (1, 2)])
    assert contrast["arm"] == "plain" and contrast["base"] == "first" and contrast["difference"] == opposite
    assert any(line.split()[:3] == ["plain", "over", "first"] for line in printed.splitlines())
    assert group["arms"]["first"]["shared_seconds"] > 0 == group["arms"]["plain"]["shared_seconds"]

    before = stamps(file)
    assert compare(file) == 0
    assert stamps(file) == before, "nothing is left to do"
    report = file.parent / "report.html"
    assert main(["report", "--output", str(report), *[str(ledger.run_dir(cell.node)) for cell in study.cells]]) == 0
    assert report.is_file()

    assert any(line.startswith("warning: in 6 runs: mood/validation: ") for line in printed.splitlines()), "leaks"
    for run, node in enumerate(study.nodes[:2]):
        with ledger.log(node).open("a", encoding="utf-8") as log:
            log.write("warning: odd\nwarning: odd\n" + "".join(f"warning: run {run}, {n}\n" for n in range(6)))
    capsys.readouterr()
    assert compare(file, "--summary-only") == 0
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert "warning: in 2 runs: odd" in shown and "warning: in 1 run: run 0, 0" in shown
    more = len(ledger.warnings(study.nodes)) - 10
    assert shown[10:] == [f"warning: {more} more in the logs in {file.parent / 'out' / 'runs'}"]

    file.write_text(file.read_text().replace("max_steps: 6", "max_steps: 7"), encoding="utf-8")
    assert compare(file) == 0
    after = stamps(file)
    assert {name: after[name] for name in of_arm(before, "plain")} == {n: before[n] for n in of_arm(before, "plain")}
    assert len(set(after) - set(before)) == 2, "two runs of the changed arm are new"
    assert "2 runs of earlier versions" in capsys.readouterr().out

    (file.parent / "out" / "summary.json").unlink()
    assert compare(file, "--summary-only") == 0
    assert summary(file)["finished"] == 4
    assert stamps(file) == after


@pytest.mark.usefixtures("forked_runs")
def test_a_study_goes_on_elsewhere_from_its_summary(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, kept = tmp_path / "tiny.yml", tmp_path / "kept.json"
    path.write_text(file.read_text(), encoding="utf-8")
    words = ["compare", str(path), "--summary", str(kept)]
    assert main([*words, "--output", str(tmp_path / "here"), "--arms", "plain"]) == 0, "all that was asked for is done"
    here = json.loads(kept.read_text())
    assert here["finished"] == 2 and here == json.loads((tmp_path / "here" / "summary.json").read_text())
    capsys.readouterr()
    assert main([*words, "--output", str(tmp_path / "there")]) == 0
    printed = capsys.readouterr().out
    assert "4 of 6 runs to do" in printed and "4 of 4 cells finished" in printed
    assert not list((tmp_path / "there" / "runs").glob("*-plain-*"))
    there = json.loads(kept.read_text())
    assert there["runs"].items() > here["runs"].items()
    (before,), (after,) = ([g["arms"] for g in s["groups"] if g["first"]] for s in (here, there))
    assert after["plain"] == before["plain"] and after["first"]["difference"]["n"] == 2

    path.write_text(path.read_text().replace("max_steps: 12", "max_steps: 13"), encoding="utf-8")
    assert main([*words, "--output", str(tmp_path / "changed"), "--summary-only"]) == 0
    printed = capsys.readouterr().out
    assert "0 of 4 cells finished" in printed, "outcomes of another configuration do not count"
    assert f"4 outcomes of other cells in {kept}: not counted, not removed" in printed
    assert json.loads(kept.read_text())["runs"] == there["runs"] and not json.loads(kept.read_text())["processors"]

    before = kept.read_bytes()
    path.write_text(path.read_text() + "select: holdout\nholdout_rows: 9\nstep: best\n", encoding="utf-8")
    assert main([*words, "--output", str(tmp_path / "held"), "--summary-only"]) == 2
    told = "has select: validation, the study select: holdout and step: last, the study step: best"
    assert told in capsys.readouterr().err and kept.read_bytes() == before


@pytest.mark.usefixtures("forked_runs")
@pytest.mark.parametrize("keep", ["results", "model"])
def test_weights_stay_for_the_arms_of_a_later_sitting(
    keep: str, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, output = tmp_path / "tiny.yml", tmp_path / "out"
    text = file.read_text().replace("seeds: [1, 2]", "seeds: [1]").partition("contrasts:")[0]
    first = text.partition("  first:\n")[2]
    later = re.sub(r"max_steps: \d+", "max_steps: 5", first)
    path.write_text(f"{text}  later:\n{later}keep: {keep}\n", encoding="utf-8")
    words = ["compare", str(path), "--output", str(output)]
    assert main([*words, "--arms", "first"]) == 0
    (weights,) = output.glob("runs/shared-*/model")
    capsys.readouterr()
    assert main([*words, "--arms", "later"]) == 0
    assert "1 of 4 runs to do" in capsys.readouterr().out
    assert weights.exists() == (keep == "model"), "no arm of the study needs them any more"
    assert not list(output.glob("runs/*/checkpoints")) and not list(output.glob("runs/*/best"))


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"select": "validation", "step": "last", "runs": {"a/b": {}}}'])
def test_a_file_that_is_no_summary_is_not_replaced(file: Path, tmp_path: Path, content: str) -> None:
    kept = tmp_path / "mine.json"
    kept.write_text(content)
    words = ["compare", str(file), "--summary", str(kept), "--output", str(tmp_path / "out")]
    assert main([*words, "--summary-only"]) == 2
    assert kept.read_text() == content


def test_an_unknown_arm_is_told(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(file), "--arms", "plane", "--output", str(tmp_path / "out")]) == 2
    assert "did you mean 'plain'?" in capsys.readouterr().err


@pytest.mark.usefixtures("forked_runs")
def test_a_failing_arm_is_told_and_the_others_go_on(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "failing.yml"
    failing = "  half: [{phase: train, settings: {train: {precision: fp16}}}, {phase: adapt}]\n"
    head, arms = file.read_text().replace("seeds: [1, 2]", "seeds: [1]").split("arms:\n")
    path.write_text(f"{head}arms:\n{failing}{arms.splitlines()[0]}\n", encoding="utf-8")
    assert main(["compare", str(path), "--output", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr().out
    assert printed.count("fp16 needs a GPU") == 2, "when it happens, and at the end"
    assert "starts from shared-half-seed1" in printed
    assert "1 of 2 cells finished" in printed
    found = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert found["groups"][0]["arms"]["half"]["n"] == 0


def long_study(file: Path, tmp_path: Path) -> list[str]:
    """The words of a study with two runs that take a minute."""
    path = tmp_path / "long.yml"
    path.write_text(file.read_text().replace("max_steps: 12", "max_steps: 5000"), encoding="utf-8")
    return ["compare", str(path), "--arms", "plain", "--jobs", "2", "--output", str(tmp_path / "out")]


def test_a_study_that_fails_leaves_no_run_behind(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    start = _Scheduler._start

    def full(scheduler: _Scheduler, node: StudyRun) -> None:
        if scheduler.jobs:
            started.append(scheduler.jobs[0].process)
            raise StorageError("the disk is full")
        start(scheduler, node)

    monkeypatch.setattr(_Scheduler, "_start", full)
    assert main(long_study(file, tmp_path)) == 1
    assert "the disk is full" in capsys.readouterr().err
    assert started[0].poll() not in (None, 0)


def test_a_signal_reaches_the_run_that_is_being_started(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def popen(*words: Any, **options: Any) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(*words, **options)
        signal.raise_signal(signal.SIGINT)
        return process

    monkeypatch.setattr("mtl.compare.subprocess", SimpleNamespace(Popen=popen, DEVNULL=subprocess.DEVNULL))
    assert main(long_study(file, tmp_path)) == 130
    assert "0 of 4 cells finished" in capsys.readouterr().out


def test_a_directory_of_something_else_is_left_alone(file: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep me")
    assert main(["compare", str(file), "--output", str(tmp_path), "--summary-only"]) == 2
    assert [path.name for path in tmp_path.iterdir() if path.name != ".lock"] == ["mine.txt"]


def test_threads_are_those_that_the_environment_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert _threads() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "no number")
    assert _threads() == len(os.sched_getaffinity(0))


def test_baselines(corpus: Path, encoder_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "run"
    words = ["train", str(corpus), "--encoder", str(encoder_dir), "--output", str(output), "--batch-size", "8"]
    words += ["--max-steps", "13", "--set", "evaluation.every=6", "--no-smart", "--baselines"]
    words += ["--set", "evaluation.patience=9"]
    assert main([*words, "--tasks", "mood"]) == 2
    assert "this run has one task only" in capsys.readouterr().err and not output.exists()
    assert main(words) == 0
    printed = capsys.readouterr().out
    results = json.loads((output / "results.json").read_text())
    assert results["task_steps"] == {"mood": 5, "strength": 4, "answer": 4}
    for task, steps in results["task_steps"].items():
        alone = json.loads((output / "baselines" / task / "results.json").read_text())
        assert alone["finished"] and alone["steps"] == alone["task_steps"][task] == steps
        assert results["single"][task] == alone["tasks"][task]
        evaluation = read_run(output / "baselines" / task).config.evaluation
        assert evaluation.every == 2 and evaluation.patience is None, "as many steps, whatever they come to"
        card = (output / "best" / task / "README.md").read_text()
        assert "trained alone" in card
        for metric, gain in results["over_single"][task]["validation"].items():
            assert f"{gain['difference']:+.4f} [{gain['interval'][0]:+.4f}, {gain['interval'][1]:+.4f}]" in card, metric
    assert printed.count("warning: mood/validation: 17 rows occur in") == 1, "told of the first run, not of each again"
    together, alone = ((folder / "metrics.jsonl").read_text() for folder in (output, output / "baselines" / "mood"))
    looks = [
        [r for r in map(json.loads, text.splitlines()) if r["event"] == "evaluation"] for text in (together, alone)
    ]
    assert [sum(record["task"] == "mood" for record in records) for records in looks] == [3, 3]
    losses = [json.loads(text.splitlines()[0])["loss"] for text in (together, alone)]
    assert losses[0] == losses[1], "the first step is the same to the bit: rows, weights and dropout"
    value, single = (results[key]["mood"]["validation"]["accuracy"] for key in ("tasks", "single"))
    assert f"{value:.4f}  {single:.4f}  {value - single:+.4f}" in " ".join(printed.split("\n")).replace("   ", "  ")
    beside = compare_with_baselines(record := read_record(output), join_labels(record))
    assert [(row.task, row.metric) for row in beside][:3] == [
        ("mood", "accuracy"),
        ("mood", "macro_f1"),
        ("strength", "pearson"),
    ]
    for row in beside:
        assert row.together == results["tasks"][row.task]["validation"][row.metric]
        assert row.alone == results["single"][row.task]["validation"][row.metric]
        assert row.paired is not None and row.paired.value == pytest.approx(row.together - row.alone, abs=1e-6)
        assert row.paired.low <= row.paired.high
        gain = {"difference": row.together - row.alone, "interval": [row.paired.low, row.paired.high]}
        assert results["over_single"][row.task]["validation"][row.metric] == gain
        assert "  ".join(row.cells()[3:6]) in " ".join(printed.split("\n")).replace("   ", "  ")
    assert main(["report", str(output)]) == 0
    page = (output / "report.html").read_text(encoding="utf-8")
    assert "Together or alone" in page and page.count(beside[0].cells()[-1]) >= 1
    stamps = {path: path.stat().st_mtime_ns for path in output.glob("baselines/*/provenance.json")}
    assert main([*words, "--resume"]) == 0
    assert json.loads((output / "results.json").read_text()) == results
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}, "finished ones are kept"
    assert main(["train", "--output", str(output), "--resume"]) == 0
    assert json.loads((output / "results.json").read_text()) == results
    assert "trained alone" in (output / "best" / "mood" / "README.md").read_text()


@pytest.mark.parametrize(
    ("value", "bounds", "metric", "expected"),
    [
        (0.1, (0.05, 0.2), "accuracy", "together is better"),
        (-0.1, (-0.2, -0.05), "accuracy", "alone is better"),
        (0.1, (0.05, 0.2), "mse", "alone is better"),
        (-0.1, (-0.2, -0.05), "mse", "together is better"),
        (0.1, (-0.05, 0.2), "accuracy", "no clear difference"),
    ],
)
def test_what_a_difference_says(value: float, bounds: tuple[float, float], metric: str, expected: str) -> None:
    assert conclusion(Difference(value, *bounds), metric, "alone", "together") == expected


@pytest.mark.parametrize(
    ("steps", "of", "every", "looks"), [(43, 129, 43, 3), (5, 13, 6, 3), (4, 13, 6, 2), (1, 129, 43, 1), (9, 9, 20, 1)]
)
def test_alone_a_task_is_not_evaluated_more_often(
    steps: int, of: int, every: int, looks: int, corpus: Path, encoder_dir: Path, tmp_path: Path
) -> None:
    """Else the best of many steps would be compared with the best of few."""
    overrides = command_line({"encoder": ("--encoder", str(encoder_dir))}, [])
    alone = alone_of(
        check_train(Request(tmp_path / "run", [str(corpus)], overrides=overrides)), "mood", steps, of, every
    )
    assert alone.run.config.train.max_steps == steps and alone.run.config.evaluation.every is not None
    assert math.ceil(steps / alone.run.config.evaluation.every) == looks


def test_the_directory_is_locked_while_baselines_train(
    corpus: Path, encoder_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, begun = tmp_path / "run", []

    def run_phase(checked: Any, folder: Path, **options: Any) -> Any:
        begun.append(folder.name)
        with pytest.raises(UserError, match="another run is writing"), locked(output):
            pass
        return phases.run_phase(checked, folder, **options)

    monkeypatch.setattr("mtl.baselines.run_phase", run_phase)
    words = ["train", str(corpus), "--encoder", str(encoder_dir), "--output", str(output), "--batch-size", "8"]
    words += ["--tasks", "mood,strength", "--max-steps", "2", "--no-smart", "--no-proximal", "--baselines"]
    assert main(words) == 0
    assert begun == ["mood", "strength"]
    with locked(output):
        pass


def test_a_signal_in_the_last_step_is_not_one_to_go_on_with(
    corpus: Path, encoder_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    words = ["train", str(corpus), "--encoder", str(encoder_dir), "--output", str(output), "--batch-size", "8"]
    with signal_at_step(3, signal.SIGTERM):
        assert main([*words, "--max-steps", "3", "--no-smart", "--no-proximal", "--baselines"]) == 143
    assert "stopped by SIGTERM; the run is finished" in capsys.readouterr().err
    assert json.loads((output / "results.json").read_text())["finished"] and not (output / "baselines").exists()


def test_a_run_that_failed_is_told_with_what_it_said_this_time(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    log.write_text("error: the column is missing\n")
    size = log.stat().st_size
    with log.open("a") as more:
        more.write("step 1\nKilled\n")
    assert failure(log, -9, 0) == "the column is missing"
    assert failure(log, -9, size) == "Killed"
    assert failure(log, -9, log.stat().st_size) == "ended with status -9"


def test_alone_a_task_takes_a_step_for_each_of_its_batches(
    corpus: Path, encoder_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    words = ["train", str(corpus), "--encoder", str(encoder_dir), "--output", str(output), "--batch-size", "8"]
    words += ["--tasks", "mood,strength", "--max-steps", "3", "--no-smart", "--no-proximal", "--baselines"]
    words += ["--set", "train.tasks_per_step=2", "train.task_sizes.mood=30", "train.task_sizes.strength=20"]
    assert main([*words, "--max-length", "100"]) == 0
    assert "3 steps of 2 batches; an epoch is" in capsys.readouterr().out
    card = (output / "best" / "mood" / "README.md").read_text()
    assert "- 3 optimizer steps of 2 batches, 3 of the batches on this task; seed" in card
    assert json.loads((output / "results.json").read_text())["task_steps"] == {"mood": 3, "strength": 3}
    assert "at most 64 tokens" in (output / "best" / "mood" / "README.md").read_text()  # the encoder's limit
    for task in ("mood", "strength"):
        alone = read_run(output / "baselines" / task)
        assert alone.config.train.tasks_per_step == 1 and list(alone.config.train.task_sizes) == [task]
        assert json.loads((output / "baselines" / task / "results.json").read_text())["steps"] == 3
        file, folder = output / "baselines" / task / "run.yml", tmp_path / task
        assert main(["train", "--config", str(file), "--output", str(folder)]) == 0, "its file reproduces it"


def test_held_out_rows_decide_in_place_of_validation(
    corpus: Path, encoder_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    words = ["train", str(corpus), "--encoder", str(encoder_dir), "--output", str(output), "--batch-size", "8"]
    assert main([*words, "--max-steps", "3", "--set", "train.holdout=0.2", "--set", "train.task_sizes.mood=2"]) == 0
    assert "note: mood/train: none of the 2 rows drawn has the label '" in capsys.readouterr().out
    words += ["--overwrite"]
    assert main([*words, "--max-steps", "3", "--set", "train.holdout=0.2", "--set", "train.task_sizes.mood=30"]) == 0
    assert "rows drawn has" not in capsys.readouterr().out
    results = json.loads((output / "results.json").read_text())
    assert {task: list(splits) for task, splits in results["tasks"].items()} == {
        task: ["holdout"] for task in ("mood", "strength", "answer")
    }
    assert results["data"]["mood"]["train"]["rows"] == 30 and results["data"]["mood"]["holdout"]["rows"] == 18
    assert results["data"]["strength"]["train"]["rows"] == 64 and results["tasks"]["answer"]["holdout"]["queries"] == 4
    assert main(["export", str(output), "--task", "mood", "--output", str(tmp_path / "exports")]) == 0
    values = [number(results[key]["mood"]["holdout"]["accuracy"]) for key in ("tasks", "baselines")]
    assert ["mood", "accuracy", *values] in [line.split()[:4] for line in capsys.readouterr().out.splitlines()]


def test_with_held_out_rows_no_validation_split_is_needed(
    corpus: Path, encoder_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, output = corpus.with_name("unvalidated.yml"), tmp_path / "run"
    mood = corpus.read_text(encoding="utf-8").split("\n\n")[0]
    file.write_text(mood.replace(", validation: mood/validation.jsonl", ""), encoding="utf-8")
    words = ["train", str(file), "--encoder", str(encoder_dir), "--output", str(output), "--max-steps", "2"]
    words += ["--no-smart", "--no-proximal"]
    assert main(words) == 2
    told = "mood.data.files has no 'validation'; it has: train; or take rows out of the training data: --set train.hold"
    assert told in capsys.readouterr().err
    assert main([*words, "--set", "train.holdout=0.2"]) == 0
    assert list(json.loads((output / "results.json").read_text())["tasks"]["mood"]) == ["holdout"]
    assert main(["report", str(output)]) == 0
    assert main(["evaluate", str(output), "--split", "train"]) == 0


def test_with_held_out_rows_a_data_set_needs_no_validation_split(
    corpus: Path, encoder_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Though a definition that names no splits has one; what `prepare` reads then is not read again."""
    monkeypatch.setenv("MTL_CACHE", str(tmp_path / "cache"))
    there = tmp_path / "mirror" / "some" / "set" / "default"
    there.mkdir(parents=True)
    shutil.copy(corpus.parent / "mood" / "train.jsonl", there)
    file = tmp_path / "hub.yml"
    mood = corpus.read_text(encoding="utf-8").split("\n\n")[0]
    file.write_text(re.sub(r"files: \{[^}]*\}", "hub: some/set", mood))
    words = [str(file), "--encoder", str(encoder_dir), "--data-root", str(tmp_path / "mirror")]
    assert main(["prepare", *words]) == 2
    assert "or take rows out of the training data: --set train.holdout=0.1" in capsys.readouterr().err
    words += ["--set", "train.holdout=0.2"]
    assert main(["prepare", *words]) == 0
    assert "note: mood: no validation split here; it is not evaluated" in capsys.readouterr().out
    (read,) = (tmp_path / "cache" / "checked").iterdir()
    output = tmp_path / "run"
    assert main(["train", *words, "--output", str(output), "--max-steps", "1", "--no-smart", "--no-proximal"]) == 0
    assert list(json.loads((output / "results.json").read_text())["tasks"]["mood"]) == ["holdout"]
    assert list((tmp_path / "cache" / "checked").iterdir()) == [read]
