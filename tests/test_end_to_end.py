"""Every command on a tiny encoder, as a user runs them one after the other."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import write_jsonl
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

import mtl
from mtl.cli import main
from mtl.cost import forward_passes
from mtl.files import locked
from mtl.intervals import intervals
from mtl.machine import processor
from mtl.report import compare_runs
from mtl.run_files import read_run
from mtl.trainer import Trainer

TASKS = ("mood", "strength", "answer")


@pytest.fixture(scope="module")
def run_dir(corpus: Path, encoder_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "all"
    words = ["train", str(corpus), "--encoder", str(encoder_dir), "--output", str(output), "--batch-size", "8"]
    assert main([*words, "--learning-rate", "2e-3", "--epochs", "6"]) == 0
    return output


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_run_directory_holds_what_is_promised(run_dir: Path) -> None:
    for name in ("run.yml", "task_defs.yml", "provenance.json", "results.json", "metrics.jsonl"):
        assert (run_dir / name).is_file(), name
    assert list((run_dir / "tensorboard").iterdir())
    assert list((run_dir / "checkpoints").iterdir())
    for task in TASKS:
        assert (run_dir / "best" / task / "model.safetensors").is_file()
        assert (run_dir / "predictions" / f"{task}.validation.jsonl").is_file()
    provenance = json.loads((run_dir / "provenance.json").read_text())
    assert set(provenance["data"]) == {f"{task}/{split}" for task in TASKS for split in ("train", "validation")}
    assert provenance["versions"]["torch"] == torch.__version__
    assert provenance["device"] == processor() and provenance["processes"] == 1
    results = json.loads((run_dir / "results.json").read_text())
    assert results["tasks"]["mood"]["validation"]["n"] == 24
    assert results["finished"] is True


def test_each_export_keeps_the_length_limit_of_its_own_task(corpus: Path, encoder_dir: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    words = ["train", str(corpus), "--encoder", str(encoder_dir), "--output", str(output), "--max-steps", "1"]
    limits = {"mood": 12, "strength": 40, "answer": 64}
    for task, limit in limits.items():
        words += ["--set", f"tasks.{task}.max_length={limit}"]
    assert main(words) == 0
    for task, limit in limits.items():
        assert AutoTokenizer.from_pretrained(output / "best" / task).model_max_length == limit
    assert AutoTokenizer.from_pretrained(output / "model").model_max_length == 64


def test_training_beats_the_baseline_of_every_task(run_dir: Path) -> None:
    results = json.loads((run_dir / "results.json").read_text())
    for task, metric in (("mood", "accuracy"), ("strength", "pearson"), ("answer", "mrr")):
        value, baseline = (results[k][task]["validation"][metric] for k in ("tasks", "baselines"))
        assert value > baseline + 0.2, (task, value, baseline)


@pytest.mark.parametrize(
    ("metrics", "told"),
    [
        ("[mrr, map]", "0 in mrr, map (mrr_answerable leaves them out)"),
        ("[mrr_answerable, mrr]", "0 in mrr\n"),
        ("[mrr_answerable]", "left out of the metrics\n"),
    ],
)
def test_queries_without_a_relevant_candidate(
    metrics: str, told: str, corpus: Path, encoder_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = corpus.read_text().replace("validation: answer/validation", "validation: answer/train")
    task = tmp_path / "task.yml"
    task.write_text(text.replace("answer/", f"{corpus.parent}/answer/").replace("[mrr, map]", metrics))
    words = ["train", str(task), "--tasks", "answer", "--encoder", str(encoder_dir), "--output", str(tmp_path / "run")]
    assert main([*words, "--max-steps", "1"]) == 0
    printed = "".join(capsys.readouterr())
    assert "answer/train: 1 query without a relevant candidate: no task loss" in printed
    assert f"answer/validation: 1 query without a relevant candidate: {told}" in printed
    main(["validate", str(task)])
    assert "; 1 of 20 queries without a relevant candidate" in capsys.readouterr().out
    values = json.loads((tmp_path / "run" / "results.json").read_text())["tasks"]["answer"]["validation"]
    assert values["queries_without_relevant"] == 1
    if metrics == "[mrr_answerable, mrr]":
        assert values["mrr_answerable"] == pytest.approx(values["mrr"] * 20 / 19, rel=1e-12)


def test_results_hold_an_interval_for_every_metric_and_say_what_was_planned(run_dir: Path) -> None:
    results = json.loads((run_dir / "results.json").read_text())
    assert results["intervals"].keys() == results["tasks"].keys() == set(TASKS)
    counts = {"n", "queries", "queries_without_relevant"}
    for task, splits in results["tasks"].items():
        assert results["intervals"][task].keys() == splits.keys()
        for split, values in splits.items():
            found = results["intervals"][task][split]
            assert found.keys() == values.keys() - counts
            for metric, (low, high) in found.items():
                assert low <= values[metric] <= high, (task, metric)
    mood = read(run_dir / "predictions" / "mood.validation.jsonl")
    outputs = np.array([[record["probabilities"][label] for label in ("bad", "neutral", "good")] for record in mood])
    labels = np.arange(24) % 3  # as the corpus is made
    expected = intervals(["accuracy", "macro_f1"], "classification", outputs, labels)
    assert results["intervals"]["mood"]["validation"] == {name: list(bounds) for name, bounds in expected.items()}
    assert [row["task"] for row in results["plan"]] == list(TASKS)
    assert sum(row["steps"] for row in results["plan"]) == results["planned_steps"]


def test_evaluate_agrees_with_the_runs_results(run_dir: Path, exports: Path, tmp_path: Path) -> None:
    expected = json.loads((run_dir / "results.json").read_text())["tasks"]
    assert main(["evaluate", str(run_dir), "--output", str(tmp_path / "run.json")]) == 0
    evaluated = json.loads((tmp_path / "run.json").read_text())
    measured, spread = evaluated["tasks"], json.loads((run_dir / "results.json").read_text())["intervals"]
    for task in TASKS:
        assert evaluated["intervals"][task]["validation"].keys() == spread[task]["validation"].keys()
        for metric, bounds in spread[task]["validation"].items():
            assert evaluated["intervals"][task]["validation"][metric] == pytest.approx(bounds, abs=1e-6)
        assert measured[task]["validation"] == pytest.approx(expected[task]["validation"], abs=1e-6)
        assert main(["evaluate", str(exports / task), "--output", str(tmp_path / f"{task}.json")]) == 0
        of_export = json.loads((tmp_path / f"{task}.json").read_text())["tasks"]
        assert of_export[task]["validation"] == pytest.approx(expected[task]["validation"], abs=1e-6)


@pytest.mark.parametrize("task", TASKS)
def test_predictions_keep_order_and_agree_between_run_and_export(
    task: str, run_dir: Path, exports: Path, corpus: Path, tmp_path: Path
) -> None:
    rows = read(corpus.parent / task / "validation.jsonl")
    unlabelled = [{k: v for k, v in row.items() if k not in ("mood", "score", "relevant")} for row in rows]
    file = write_jsonl(tmp_path / "input.jsonl", unlabelled)
    outputs = []
    for number, source in enumerate((run_dir, exports / task, exports)):
        target = tmp_path / f"{number}.jsonl"
        assert main(["predict", str(source), "--task", task, "--input", str(file), "--output", str(target)]) == 0
        outputs.append(read(target))
    assert [record["row"] for record in outputs[0]] == list(range(len(rows)))
    assert outputs[0] == outputs[1] == outputs[2]
    if task == "mood":
        for record in outputs[0]:
            assert sum(record["probabilities"].values()) == pytest.approx(1, abs=1e-5)
            assert record["label"] == max(record["probabilities"], key=record["probabilities"].__getitem__)
        accuracy = np.mean([record["label"] == row["mood"] for record, row in zip(outputs[0], rows, strict=True)])
        results = json.loads((run_dir / "results.json").read_text())
        assert accuracy == pytest.approx(results["tasks"]["mood"]["validation"]["accuracy"])
    elif task == "strength":
        assert np.corrcoef([r["value"] for r in outputs[0]], [row["score"] for row in rows])[0, 1] > 0.5
    else:
        queries: dict[str, list[dict[str, Any]]] = {}
        for record, row in zip(outputs[0], rows, strict=True):
            queries.setdefault(row["id"], []).append(record)
        for candidates in queries.values():
            assert sorted(c["rank"] for c in candidates) == list(range(1, len(candidates) + 1))
            by_rank = sorted(candidates, key=lambda c: c["rank"])
            assert [c["score"] for c in by_rank] == sorted((c["score"] for c in candidates), reverse=True)


STRANGER = """
import json, sys
from transformers import AutoModelForSequenceClassification, AutoTokenizer
model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1]).eval()
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
pairs = json.loads(sys.argv[2])
inputs = tokenizer(*pairs, padding=True, truncation=True, return_tensors="pt")
print(json.dumps([model(**inputs).logits.tolist(), model.config.id2label, model.config.problem_type]))
assert not any(name.split(".")[0] == "mtl" for name in sys.modules)
"""


@pytest.mark.parametrize("task", TASKS)
def test_export_loads_where_nothing_of_ours_is(
    task: str, run_dir: Path, exports: Path, corpus: Path, tmp_path: Path
) -> None:
    rows = read(corpus.parent / task / "validation.jsonl")[:6]
    names = {"mood": ("text",), "strength": ("first", "second"), "answer": ("question", "candidate")}[task]
    texts = json.dumps([[row[name] for row in rows] for name in names])
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, str(exports / task), texts],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    logits, id2label, problem_type = json.loads(done.stdout)
    file = write_jsonl(tmp_path / "input.jsonl", rows)
    target = tmp_path / "output.jsonl"
    assert main(["predict", str(run_dir), "--task", task, "--input", str(file), "--output", str(target)]) == 0
    predicted = read(target)
    if task == "mood":
        assert list(id2label.values()) == ["bad", "neutral", "good"]
        assert problem_type == "single_label_classification"
        ours = np.log([list(record["probabilities"].values()) for record in predicted])
        theirs = torch.tensor(logits).log_softmax(-1).numpy()
    else:
        ours = np.array([[record["value" if task == "strength" else "score"]] for record in predicted])
        theirs = np.array(logits)
        assert problem_type == "regression"
    np.testing.assert_allclose(theirs, ours, atol=1e-5)
    assert "# " + task in (exports / task / "README.md").read_text()


def test_ranking_export_gives_its_scores_in_cross_encoder(exports: Path, corpus: Path) -> None:
    cross_encoder = pytest.importorskip("sentence_transformers").CrossEncoder
    rows = read(corpus.parent / "answer" / "validation.jsonl")[:6]
    model = cross_encoder(str(exports / "answer"), device="cpu")
    scores = model.predict([(row["question"], row["candidate"]) for row in rows])
    native = AutoModelForSequenceClassification.from_pretrained(exports / "answer").eval()
    tokenizer = AutoTokenizer.from_pretrained(exports / "answer")
    inputs = tokenizer(
        [row["question"] for row in rows], [row["candidate"] for row in rows], padding=True, return_tensors="pt"
    )
    with torch.inference_mode():
        np.testing.assert_allclose(scores, native(**inputs).logits.squeeze(-1).numpy(), atol=1e-5)


def test_adapt_to_a_known_and_to_a_new_task(
    run_dir: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = tmp_path / "known"
    words = ["--epochs", "2", "--learning-rate", "1e-3", "--batch-size", "8"]
    assert main(["adapt", str(run_dir), "--task", "mood", "--output", str(known), *words]) == 0
    assert "head: reuse" in (known / "run.yml").read_text()
    assert json.loads((known / "results.json").read_text())["tasks"]["mood"]["validation"]["accuracy"] > 0.6

    definitions = tmp_path / "new.yml"
    text = corpus.read_text().split("\n\n")[0].replace("mood:\n  type", "feeling:\n  type", 1)
    text = text.replace("mood/", f"{corpus.parent}/mood/") + "\n  adapt: {smart: {weight: 3.0}}\n"
    definitions.write_text(text)
    new = tmp_path / "new"
    command = ["adapt", str(run_dir), "--task", "feeling", "--task-defs", str(definitions), "--output", str(new)]
    assert main([*command, *words, "--train-size", "30"]) == 0
    assert "head: fresh" in (new / "run.yml").read_text()
    assert "weight: 3.0" in (new / "task_defs.yml").read_text()
    assert json.loads((new / "results.json").read_text())["data"]["feeling"]["train"]["rows"] == 30
    assert capsys.readouterr().out.count("starts from that of") == 0
    borrowed = [*command[:-1], str(tmp_path / "borrowed"), "--head", "mood", "--train-size", "3", "--max-steps", "1"]
    assert main([*borrowed, "--learning-rate", "1e-12"]) == 0
    assert "the head of feeling starts from that of mood: bad → bad" in capsys.readouterr().out
    scores = json.loads((tmp_path / "borrowed" / "results.json").read_text())["tasks"]["feeling"]["validation"]
    assert (
        scores["accuracy"]
        == json.loads((run_dir / "results.json").read_text())["last"]["mood"]["validation"]["accuracy"]
    ), "it is mood's head"
    assert "its head was taken from `mood`" in (tmp_path / "borrowed" / "best" / "feeling" / "README.md").read_text()
    assert main(["export", str(new), "--output", str(tmp_path / "exported")]) == 0
    assert (tmp_path / "exported" / "feeling" / "config.json").is_file()


def test_adapt_tells_of_regularizers_that_the_run_was_without(
    corpus: Path, encoder_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, words = tmp_path / "run", ["--max-steps", "1", "--batch-size", "8"]
    train = ["train", str(corpus), "--encoder", str(encoder_dir), "--output", str(run), "--tasks", "mood"]
    assert main([*train, *words, "--no-smart"]) == 0
    notes = {}
    for name, more in {"default": [], "off": ["--no-smart"], "on": ["--set", "train.smart=true"]}.items():
        capsys.readouterr()
        assert main(["adapt", str(run), "--task", "mood", "--output", str(tmp_path / name), *words, *more]) == 0
        notes[name] = [line for line in capsys.readouterr().out.splitlines() if "was trained with --no-" in line]
    (note,) = notes.pop("default")
    assert note.startswith("note: R_s is on, as by default") and notes == {"off": [], "on": []}
    both = ["evaluate", str(tmp_path / "on"), "--task", "mood,mood"]
    assert main(both) == 0 and main([*both[:-1], "mood,strength"]) == 2


def test_a_configuration_file_counts_in_adaptation(run_dir: Path, tmp_path: Path) -> None:
    file, adapted, again = tmp_path / "adapt.yml", tmp_path / "adapted", tmp_path / "again"
    text = "train: {learning_rate: 0.002, batch_size: 8, max_length: 16, max_steps: 3}\n"
    file.write_text(text + "defaults: {smart: {weight: 7.0}, dropout: 0.3}\n")
    assert main(["adapt", str(run_dir), "--task", "mood", "--config", str(file), "--output", str(adapted)]) == 0
    task = read_run(adapted).tasks["mood"]
    assert (task.learning_rate, task.batch_size, task.smart.weight, task.dropout) == (0.002, 8, 7.0, 0.3)
    assert task.max_length == 32, "the definition names it"
    rates = [record["learning_rate"] for record in read(adapted / "metrics.jsonl") if record["event"] == "step"]
    assert len(rates) == 3 and max(rates) == 0.002
    text = (run_dir / "run.yml").read_text().replace("- task_defs.yml", f"- {run_dir / 'task_defs.yml'}")
    file.write_text(text.replace("tasks: {}", "tasks: {mood: {dropout: 0.2}, answer: {dropout: 0.4}}"))
    words = ["adapt", str(run_dir), "--task", "mood", "--config", str(file), "--output", str(again)]
    assert main([*words, "--max-steps", "1"]) == 0
    found = read_run(again)
    assert (found.config.head, found.config.phase, found.tasks["mood"].dropout) == ("reuse", "adapt", 0.2)


def test_labels_of_a_configuration_keep_their_place_in_adaptation(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = list(reversed(read_run(run_dir).tasks["mood"].labels))
    file, output = tmp_path / "config.yml", tmp_path / "adapted"
    file.write_text(f"tasks: {{mood: {{labels: [{', '.join(labels)}]}}}}\n")
    for words in (["--config", str(file)], ["--set", f"tasks.mood.labels=[{', '.join(labels)}]"]):
        assert main(["adapt", str(run_dir), "--task", "mood", *words, "--output", str(output)]) == 2
        assert (
            "--head: outputs are matched by position, and the labels of mood are in the order"
            in capsys.readouterr().err
        )
        assert not output.exists()


def test_one_configuration_may_name_all_tasks_in_both_phases(run_dir: Path, tmp_path: Path) -> None:
    file, output = tmp_path / "config.yml", tmp_path / "adapted"
    file.write_text(
        "tasks: {mood: {dropout: 0.2}, strength: {dropout: 0.3}}\ntrain: {task_sizes: {mood: 20}, max_steps: 1}\n"
    )
    assert main(["adapt", str(run_dir), "--task", "mood", "--config", str(file), "--output", str(output)]) == 0
    assert list(read_run(output).tasks) == ["mood"] and read_run(output).tasks["mood"].dropout == 0.2


def test_adapt_tells_what_it_does_not_know(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["adapt", str(run_dir), "--task", "mod", "--output", str(tmp_path / "x")]) == 2
    assert "did you mean 'mood'?" in capsys.readouterr().err
    assert main(["adapt", str(tmp_path), "--task", "mood", "--output", str(tmp_path / "x")]) == 2
    assert f"{tmp_path}: is neither a run (no run.yml) nor an export" in capsys.readouterr().err
    for part in ("best", "best/mood", "model"):
        assert main(["adapt", str(run_dir / part), "--task", "mood", "--output", str(tmp_path / "x")]) == 2
        assert capsys.readouterr().err == f"error: {run_dir / part}: is part of a run; name the run itself, {run_dir}\n"
    assert main(["adapt", str(run_dir / "bets"), "--task", "mood", "--output", str(tmp_path / "x")]) == 2
    assert "bets: there is no such directory; did you mean" in capsys.readouterr().err
    before = (run_dir / "run.yml").read_text()
    assert main(["adapt", str(run_dir), "--task", "mood", "--output", str(run_dir), "--overwrite"]) == 2
    assert capsys.readouterr().err == (
        f"error: --output: {run_dir} holds {run_dir / 'model'}, which is needed; name another directory\n"
    )
    assert (run_dir / "run.yml").read_text() == before
    words = ["--encoder", str(run_dir / "model"), "--output", str(run_dir), "--overwrite"]
    assert main(["train", str(run_dir / "task_defs.yml"), *words]) == 2
    assert f"{run_dir} holds {run_dir / 'model'}, which is needed" in capsys.readouterr().err
    assert (run_dir / "run.yml").read_text() == before
    assert main(["evaluate", str(run_dir.parent)]) == 2
    assert f"it holds {run_dir}: name one of them" in capsys.readouterr().err
    assert main(["report", str(run_dir), "--output", str(tmp_path / "report.pdf")]) == 2
    assert capsys.readouterr().out == "", "nothing is told before the report can be written"


def test_an_export_can_be_the_encoder_of_another_run_but_not_adapted(
    exports: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["adapt", str(exports / "mood"), "--task", "mood", "--output", str(tmp_path / "x")]) == 2
    message = "is an export; adapt needs a run, but an export can be the --encoder of `train`"
    assert capsys.readouterr().err == f"error: {exports / 'mood'}: {message}\n"
    assert main(["adapt", str(exports), "--task", "mood", "--output", str(tmp_path / "x")]) == 2
    message = "holds exports; adapt needs a run, but an export can be the --encoder of `train`"
    assert capsys.readouterr().err == f"error: {exports}: {message}\n"
    words = ["train", str(corpus), "--tasks", "strength", "--max-steps", "1", "--output", str(tmp_path / "x")]
    assert main([*words, "--encoder", str(exports / "mood")]) == 0


def test_validate_prints_text_and_json(corpus: Path, encoder_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(corpus)]) == 0
    assert "0 errors" in capsys.readouterr().out
    assert main(["validate", str(corpus), "--json", "--encoder", str(encoder_dir)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["errors"] == []
    facts = found["tasks"]["mood"]["train"]
    assert facts["rows"] == 90 and facts["labels"] == {"bad": 30, "neutral": 30, "good": 30}
    assert facts["truncated"] == 0 and facts["longest"] >= 6
    assert {"train", "evaluation", "rows", "kind"} <= set(found["leaks"][0])


def test_validate_knows_parts_of_the_training_data(
    corpus: Path, encoder_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["validate", str(corpus), "--tasks", "mood", "--encoder", str(encoder_dir), "--max-length", "4"]
    assert main([*words, "--train-size", "10", "--set", "train.holdout=0.2", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    told = ["mood/train: 10 of 10 inputs longer than 4 tokens, truncated"]
    told += ["mood/holdout: 18 of 18 inputs longer than 4 tokens, truncated"]
    assert [line for line in printed["warnings"] if "truncated" in line] == told
    assert printed["tasks"]["mood"]["train"]["examples"] == printed["tasks"]["mood"]["train"]["truncated"] == 10


def test_validate_dry_run_steps_every_task(corpus: Path, encoder_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(corpus), "--encoder", str(encoder_dir), "--dry-run", "--max-steps", "5"]) == 0
    printed = capsys.readouterr().out
    for task in TASKS:
        assert any(line.startswith(task) and "loss, smart, proximal" in line for line in printed.splitlines())
    assert "peak memory" in printed
    assert "5 steps; an epoch is " in printed


def test_the_dry_run_takes_the_trainers_steps(
    corpus: Path, encoder_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    take, moved, losses = Trainer.step, list[int](), list[float]()

    def watched(trainer: Trainer, step: int) -> list[dict[str, Any]]:
        before = {name: value.detach().clone() for name, value in trainer.student.named_parameters()}
        records = take(trainer, step)
        moved.append(sum(not value.equal(before[name]) for name, value in trainer.student.named_parameters()))
        losses.append(trainer.numbers(records)[0]["loss"])
        return records

    monkeypatch.setattr(Trainer, "step", watched)
    words = ["validate", str(corpus), "--encoder", str(encoder_dir), "--dry-run", "--json", "--learning-rate", "1e-3"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)["dry_run"]["tasks"]
    assert [row["loss"] for row in found] == losses and len(losses) == len(TASKS) and min(moved) > 10
    words += ["--set", "defaults.smart.weight=1e38", "--set", "defaults.smart.epsilon=1"]
    assert main(words) == 2
    assert main([*words, "--set", "train.on_nonfinite=skip", "--set", "train.max_skipped=0"]) == 2


def test_validate_dry_run_as_json(corpus: Path, encoder_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--encoder", str(encoder_dir), "--dry-run", "--json", "--no-smart", "--epochs", "2"]
    assert main(["validate", str(corpus), *words]) == 0
    found = json.loads(capsys.readouterr().out)["dry_run"]
    assert found["steps"] == 2 * found["epoch_steps"] == sum(row["steps"] for row in found["plan"])
    assert [row["task"] for row in found["tasks"]] == list(TASKS)
    assert all(row["terms"] == ["loss", "proximal"] for row in found["tasks"])
    assert min(found["seconds"], found["peak_memory"], *(row["tokens"] for row in found["plan"])) > 0


def test_validate_dry_run_takes_the_settings_of_the_run(
    corpus: Path, encoder_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["validate", str(corpus), "--tasks", "mood", "--encoder", str(encoder_dir), "--dry-run", "--json"]
    words += ["--max-steps", "30", "--batch-size", "8", "--set", "defaults.dropout=0"]

    def dry_run(*more: str) -> tuple[dict[str, Any], float]:
        """What is found, and the whole run's seconds over those of as many steps like the one that was tried."""
        assert main([*words, *more]) == 0
        found = json.loads(capsys.readouterr().out)["dry_run"]
        (row,), (plan,) = found["tasks"], found["plan"]
        share = min(1.0, plan["tokens"] / plan["steps"] / math.prod(row["batch"]))
        return row, found["seconds"] / (plan["steps"] * row["seconds"] * share)

    row, whole = dry_run()
    assert (row["batch"][0], row["parts"]) == (8, 1) and whole == pytest.approx(1.0)
    _, seldom = dry_run("--set", "defaults.smart.every=10")
    full, without = (forward_passes(1, smart=on, perturbed=True, proximal=True) for on in (True, False))
    assert seldom == pytest.approx((full + 9 * without) / 10 / full)
    cut, _ = dry_run("--set", "train.accumulation=3")
    assert (cut["batch"], cut["parts"]) == (row["batch"], 3)
    words.remove("--json")
    assert main([*words, "--set", "train.accumulation=3"]) == 0
    assert f"8×{row['batch'][1]} in 3 parts" in capsys.readouterr().out
    tiny = ["--set", "tasks.mood.smart.epsilon=1e-9", "--set", "tasks.mood.smart.noise_std=1e-9"]
    assert main([*words, *tiny, "--precision", "bf16"]) == 2, "as `train` would"
    assert "bf16 rounds away the perturbation of mood" in capsys.readouterr().out


OF_ONES_OWN = {
    "reviews.csv": (
        "classification",
        "review,stars,verdict\r\n" + '"It was ""good"",\r\nreally.",5,good\r\nIt was bad; quite bad.,1,bad\n' * 12,
    ),
    "similar.csv": (
        "regression",
        "\ufeffsentence1;sentence2;score\n"
        + "".join(f"A man eats;Men are at table {n};{n / 7:.2f}\n" for n in range(30)),
    ),
    "search.csv": (
        "ranking",
        "qid,query,passage,relevance\n"
        + "".join(f'{n // 3},"what, is {n // 3}",It is the number {n},{n % 3}\n' for n in range(36)),
    ),
}


def test_init_validate_and_train_with_nothing_edited(
    encoder_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    definitions = []
    for name, (kind, text) in OF_ONES_OWN.items():
        (tmp_path / name).write_bytes(text.encode())
        assert main(["init", str(tmp_path / name)]) == 0
        proposed = capsys.readouterr().out
        assert f"type: {kind}" in proposed
        definitions.append(str(tmp_path / f"{name}.yml"))
        Path(definitions[-1]).write_text(proposed)
    assert main(["validate", *definitions, "--encoder", str(encoder_dir)]) == 0
    out = capsys.readouterr().out
    itself = "reviews/validation is the training data itself, so metrics there say nothing about new texts"
    assert "0 errors" in out and f"warning: {definitions[0]}:" in out and itself in out
    words = ["--encoder", str(encoder_dir), "--output", str(tmp_path / "run"), "--max-steps", "4"]
    assert main(["train", *definitions, *words]) == 0
    assert f"warning: {itself}; hold rows out with --set train.holdout=0.1" in capsys.readouterr().out
    held = [*words[:3], str(tmp_path / "held"), *words[4:], "--set", "train.holdout=0.2"]
    assert main(["train", *definitions, *held]) == 0
    assert "is the training data itself" not in capsys.readouterr().out
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert {name: facts["train"]["rows"] for name, facts in results["data"].items()} == {
        "reviews": 24,
        "similar": 30,
        "search": 36,
    }


def test_a_task_without_steps_and_a_long_text_are_told(
    encoder_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split, number in (("train", 400), ("validation", 20)):
        rows = [{"text": f"a {split} film", "label": row % 2} for row in range(number)]
        write_jsonl(tmp_path / f"{split}.jsonl", [*rows, {"text": f"{split} film " * 40, "label": 0}])
    data = {"files": {split: f"{split}.jsonl" for split in ("train", "validation")}, "columns": {"text_a": "text"}}
    tasks = {name: {"type": "classification", "labels": ["x", "y"], "data": data} for name in ("t", "u")}
    (tmp_path / "tasks.yml").write_text(json.dumps(tasks))
    words = ["train", str(tmp_path / "tasks.yml"), "--encoder", str(encoder_dir), "--leaks", "ignore"]
    words += ["--max-steps", "1", "--batch-size", "100", "--no-smart", "--no-proximal"]
    assert main([*words, "--output", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert "warning: u gets no training step: take more --max-steps, or another --sampler\n" in out
    assert "note: u gets no training step: its head is as it was initialized\n" in out
    told = "No step of the run was on this task: its head is not trained."
    cards = {name: (tmp_path / "run" / "best" / name / "README.md").read_text() for name in tasks}
    assert told in cards["u"] and told not in cards["t"]
    wide = "note: t/train: a long text pads its batch to 6,400 tokens, 13 times the usual; --max-length or "
    assert f"{wide}--set tasks.t.batch_tokens=4096 takes less memory\n" in out
    assert main([*words, "--output", str(tmp_path / "cut"), "--set", "defaults.batch_tokens=4096"]) == 0
    assert "pads its batch" not in capsys.readouterr().out


def test_prepare_fills_the_cache(
    corpus: Path, encoder_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MTL_CACHE", str(tmp_path))
    assert main(["prepare", str(corpus), "--encoder", str(encoder_dir)]) == 0
    assert "answer" in capsys.readouterr().out
    assert len(list((tmp_path / "prepared").iterdir())) == 6
    (read,) = (tmp_path / "checked").iterdir()
    words = ["train", str(corpus), "--encoder", str(encoder_dir), "--output", str(tmp_path / "run"), "--max-steps", "1"]
    assert main([*words, "--no-smart"]) == 0
    assert list((tmp_path / "checked").iterdir()) == [read], "training reads no rows again"


def test_report_compares_runs(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # where the report of several runs is written
    assert main(["report", str(run_dir), str(run_dir)]) == 0
    assert "accuracy" in capsys.readouterr().out
    assert main(["report", str(tmp_path)]) == 2
    assert "is neither a run" in capsys.readouterr().err
    one = json.loads((run_dir / "results.json").read_text())
    other = json.loads((run_dir / "results.json").read_text())
    guess = one["baselines"]["mood"]["validation"]["accuracy"]
    row = ["mood", "validation", "accuracy", f"{guess:.4f}"]
    assert row in [line.split()[:4] for line in compare_runs({"one": one, "other": other}).splitlines()]
    other["baselines"]["mood"]["validation"]["accuracy"] = guess / 2  # as of other training rows
    assert [*row[:3], "–"] in [line.split()[:4] for line in compare_runs({"one": one, "other": other}).splitlines()]


def test_a_directory_of_exports_is_used_like_a_run(
    run_dir: Path, exports: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(exports), "--output", str(tmp_path / "exports.json")]) == 0
    assert main(["evaluate", str(run_dir), "--output", str(tmp_path / "run.json")]) == 0
    of_exports, of_run = (json.loads((tmp_path / f"{name}.json").read_text())["tasks"] for name in ("exports", "run"))
    assert list(of_exports) == sorted(TASKS)  # of a directory there is no other order
    assert all(of_exports[name]["validation"] == pytest.approx(of_run[name]["validation"], abs=1e-6) for name in TASKS)

    model = mtl.load(exports)
    assert list(model.tasks) == sorted(TASKS)
    assert (model.embed(["a film"], task="mood") == mtl.load(exports / "mood").embed(["a film"])).all()
    with pytest.raises(mtl.UserError, match="task: exports have an encoder each: name the task"):
        model.embed(["a film"])

    capsys.readouterr()
    predict = [
        "predict",
        "--input",
        str(corpus.parent / "mood/validation.jsonl"),
        "--output",
        str(tmp_path / "p.jsonl"),
    ]
    killed = Path(shutil.copytree(exports / "mood", tmp_path / "killed" / ".writing-mood")).parent
    twice = Path(shutil.copytree(exports, tmp_path / "twice"))
    shutil.copytree(exports / "mood", twice / ".replaced-mood")
    shutil.copytree(exports / "mood", twice / "other")
    for words, told in (
        ([str(exports)], f"--task: name one of the tasks, or several with commas: {', '.join(sorted(TASKS))}"),
        (
            [str(exports), "--task", "mod"],
            f"has no task 'mod'; it has: {', '.join(sorted(TASKS))}; did you mean 'mood'?",
        ),
        ([str(killed)], "is neither a run (no run.yml) nor an export (no task.yml)\n"),
        ([str(exports), "--task", "mood", "--weights", "final"], "it has only the exported weights"),
        ([str(twice), "--task", "mood"], f"{twice}: holds 'mood' twice, in {twice / 'mood'} and {twice / 'other'}"),
    ):
        assert main([*predict, *words]) == 2
        assert told in capsys.readouterr().err


def test_export_refuses_to_overwrite(run_dir: Path, exports: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(run_dir), "--output", str(exports)]) == 2
    assert capsys.readouterr().err.count("--overwrite") == len(TASKS)
    assert main(["export", str(run_dir), "--task", "mood", "--output", str(exports), "--overwrite"]) == 0


def test_final_weights_can_be_used_too(run_dir: Path, tmp_path: Path) -> None:
    assert main(["evaluate", str(run_dir), "--weights", "final", "--output", str(tmp_path / "final.json")]) == 0
    last = json.loads((run_dir / "results.json").read_text())["last"]
    measured = json.loads((tmp_path / "final.json").read_text())["tasks"]
    for task in TASKS:
        assert measured[task]["validation"] == pytest.approx(last[task]["validation"], abs=1e-6)
    assert main(["export", str(run_dir), "--weights", "final", "--output", str(tmp_path / "exports")]) == 0


def test_a_finished_run_that_lost_its_predictions_says_so(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(run_dir, tmp_path / "run"))
    before = json.loads((copy / "results.json").read_text())
    (copy / "predictions" / "mood.validation.jsonl").unlink()
    assert main(["train", "--output", str(copy), "--resume"]) == 0
    captured = capsys.readouterr()
    assert "no intervals of mood/validation" in captured.out + captured.err
    after = json.loads((copy / "results.json").read_text())
    assert after["intervals"].pop("mood") == {} and before["intervals"].pop("mood")
    assert after == before


@pytest.mark.parametrize("damage", [1.0, float("nan")])
def test_an_export_that_reloads_with_other_logits_is_not_written(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], damage: float
) -> None:
    words = ["export", str(run_dir), "--task", "mood", "--output", str(tmp_path / "exports")]
    assert main(words) == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "exports" / "mood").iterdir()}
    save = PreTrainedModel.save_pretrained

    def save_damaged(self: PreTrainedModel, folder: Path, **options: Any) -> None:
        save(self, folder, **options)
        tensors = load_file(folder / "model.safetensors")
        tensors["classifier.bias"][0] += damage
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", save_damaged)
    capsys.readouterr()
    assert main([*words, "--overwrite"]) == 1
    assert "mood: the reloaded export differs by" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in (tmp_path / "exports" / "mood").iterdir()} == before


def test_a_run_s_predictions_stay_those_of_its_results(
    corpus: Path, encoder_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mood = corpus.parent / "mood"
    for mirror, order in (("one", 1), ("two", -1)):  # the same rows in another order
        rows = {split: read(mood / f"{split}.jsonl") for split in ("train", "validation")}
        for split, found in {**rows, "test": rows["validation"]}.items():
            write_jsonl(tmp_path / mirror / "o/s/default" / f"{split}.jsonl", found[::order])
    definition: dict[str, Any] = {"type": "classification", "labels": ["bad", "neutral", "good"]}
    definition |= {"data": {"hub": "o/s", "columns": {"text_a": "text", "label": "mood"}}}
    (tmp_path / "tasks.yml").write_text(json.dumps({"mood": definition}))
    run, one, two = (str(tmp_path / name) for name in ("run", "one", "two"))
    words = ["train", str(tmp_path / "tasks.yml"), "--encoder", str(encoder_dir), "--output", run, "--data-root", one]
    assert main([*words, "--max-steps", "3", "--learning-rate", "2e-3", "--leaks", "ignore"]) == 0
    predictions = tmp_path / "run" / "predictions" / "mood.validation.jsonl"
    own, results = predictions.read_bytes(), (tmp_path / "run" / "results.json").read_bytes()
    for words, difference in (
        (["--data-root", two], "of this data"),
        (["--precision", "bf16"], "in bf16"),
        (["--weights", "final"], "of its final weights"),
    ):
        capsys.readouterr()
        assert main(["evaluate", run, *words]) == 0
        assert f"keeps what it has of mood: the run's results are not {difference}\n" in capsys.readouterr().out
        assert predictions.read_bytes() == own
    with locked(tmp_path / "run"):  # as while it is trained, when it may have stored newer ones
        assert main(["evaluate", run]) == 0
    assert "keeps what it has of mood: the run is being trained\n" in capsys.readouterr().out
    assert predictions.read_bytes() == own
    for split in ("test", "train"):  # of which the run has no results
        assert main(["evaluate", run, "--split", split, "--data-root", two, "--precision", "bf16"]) == 0
        assert predictions.with_name(f"mood.{split}.jsonl").is_file()
    predictions.unlink()
    shutil.copytree(one, tmp_path / "copy")
    assert main(["evaluate", run, "--data-root", str(tmp_path / "copy")]) == 0
    assert "note" not in capsys.readouterr().out
    for record, before in zip(read(predictions), map(json.loads, own.splitlines()), strict=True):
        assert record["probabilities"] == pytest.approx(before["probabilities"], abs=1e-6)
    assert main(["train", "--output", run, "--resume"]) == 0
    assert (tmp_path / "run" / "results.json").read_bytes() == results
    settings, own = tmp_path / "run" / "run.yml", predictions.read_bytes()
    settings.write_text(settings.read_text().replace("holdout: null", "holdout: 0.1"))  # rows of the training data
    assert main(["evaluate", run]) == 0 and "of this data" in capsys.readouterr().out
    settings.write_text(settings.read_text().replace("holdout: 0.1", "holdout: null"))
    (tmp_path / "run" / "provenance.json").unlink()  # what the results are of is not known
    assert main(["evaluate", run]) == 0 and "of this data" in capsys.readouterr().out
    assert predictions.read_bytes() == own


@pytest.mark.parametrize("given", [{}, {"max_length": 512}])
def test_the_length_told_is_the_one_that_inputs_are_cut_to(
    given: dict[str, int], encoder_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"text": f"the film was {word} " * 30, "good": word == "great"} for word in ("great", "awful") * 4]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    data = {
        "files": {"train": "rows.jsonl", "validation": "rows.jsonl"},
        "columns": {"text_a": "text", "label": "good"},
    }
    definition = {"type": "classification", "labels": ["false", "true"], "data": data, **given}
    (tmp_path / "tasks.yml").write_text(json.dumps({"good": definition}))
    run, note = tmp_path / "run", "good: max_length 512 exceeds the encoder's limit of 64 tokens; 64 is used\n"
    words, short = [str(tmp_path / "tasks.yml"), "--encoder", str(encoder_dir)], ["--max-steps", "1"]

    def printed(*words: str) -> str:
        capsys.readouterr()
        assert main([*words]) == 0
        return capsys.readouterr().out

    out = printed("train", *words, "--output", str(run), *short)
    assert "good/train: 8 of 8 inputs truncated to 64 tokens\n" in out
    assert out.count(note) == bool(given)
    out = printed("validate", *words)
    assert "good/train: 8 of 8 inputs longer than 64 tokens, truncated\n" in out
    assert out.count(note) == printed("prepare", *words).count(note) == bool(given)
    assert "max_length 512" not in printed("adapt", str(run), "--task", "good", "--output", f"{run}2", *short)
    assert printed("export", str(run), "--output", str(tmp_path / "exports"))
    for folder in (run / "best" / "good", tmp_path / "exports" / "good"):
        card = (folder / "README.md").read_text()
        assert "at most 64 tokens" in card and "Inputs longer than 64 tokens are truncated" in card
        assert "max_length: 64" in card and not re.search(r"\b512\b", card)


def test_training_tells_of_the_data_what_validate_does(
    encoder_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [f"the film was great {number}" for number in range(18)]
    rows = [{"text": text, "label": "a"} for text in [*texts, ""]]
    path = write_jsonl(tmp_path / "rows.jsonl", [*rows, {"text": texts[0], "label": "d"}])
    (tmp_path / "again.jsonl").write_text(path.read_text() + "\n")  # otherwise that they are the same file is told too
    files = {"train": "rows.jsonl", "validation": "again.jsonl"}
    data = {"files": files, "columns": {"text_a": "text"}}
    tasks = {name: {"type": "classification", "labels": list("abcd"), "data": data} for name in ("t", "u")}
    (tmp_path / "tasks.yml").write_text(json.dumps(tasks))
    expected = {
        f"{task}/{split}: {remark}"
        for task in tasks
        for split in files
        for remark in (
            "1 row with an empty text",
            "1 row with the same texts as an earlier row but a different label",
            "no row has the labels 'b', 'c'",
            "95% of the rows have the label 'a', so accuracy says little",
        )
    }
    assert main(["validate", str(tmp_path / "tasks.yml"), "--json"]) == 0
    assert expected == set(json.loads(capsys.readouterr().out)["warnings"])
    words = ["train", str(tmp_path / "tasks.yml"), "--encoder", str(encoder_dir), "--max-steps", "2", "--output"]
    assert main([*words, str(tmp_path / "run"), "--leaks", "ignore", "--baselines"]) == 0
    notes = [line.removeprefix("note: ") for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    worse = "is no better than the baseline's 0.9500"  # in two steps, together and alone
    assert {note.partition(":")[0] for note in notes if worse in note} == {"t", "u"}
    notes = [note for note in notes if worse not in note]
    assert sorted(notes) == sorted(expected)  # once, also where each task is trained alone afterwards
    assert main([*words, str(tmp_path / "quiet"), "--leaks", "ignore", "--quiet"]) == 0
    assert "row has" not in capsys.readouterr().out


def test_labels_that_are_all_the_same_number_are_told(
    encoder_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split, labels in (("train", [2.5] * 6), ("validation", [2.5, 1.0])):
        rows = [{"text": f"the {split} film {number}", "label": label} for number, label in enumerate(labels)]
        write_jsonl(tmp_path / f"{split}.jsonl", rows)
    files = {split: f"{split}.jsonl" for split in ("train", "validation")}
    task = {"type": "regression", "data": {"files": files, "columns": {"text_a": "text"}}, "metrics": ["mse"]}
    (tmp_path / "tasks.yml").write_text(json.dumps({"t": task}))
    told = "t/train: all rows have the label 2.5"
    assert main(["validate", str(tmp_path / "tasks.yml"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["warnings"] == [told]
    words = ["train", str(tmp_path / "tasks.yml"), "--encoder", str(encoder_dir), "--max-steps", "1"]
    assert main([*words, "--output", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr().out
    assert f"note: {told}\n" in printed
    assert "note: t/validation: 2 rows only, too few for its metrics to say much\n" in printed


def test_of_all_tasks_those_are_evaluated_that_have_the_split(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(run_dir, tmp_path / "run"))
    definitions = yaml.safe_load((run / "task_defs.yml").read_text(encoding="utf-8"))
    definitions["mood"]["data"]["files"]["test"] = definitions["mood"]["data"]["files"]["validation"]
    (run / "task_defs.yml").write_text(yaml.safe_dump(definitions, sort_keys=False), encoding="utf-8")
    assert main(["evaluate", str(run), "--split", "test", "--output", str(tmp_path / "test.json")]) == 0
    assert list(json.loads((tmp_path / "test.json").read_text())["tasks"]) == ["mood"]
    printed = capsys.readouterr().out
    assert all(f"note: {name}: no test split here; it is not evaluated\n" in printed for name in ("strength", "answer"))
    for words in (["--split", "test", "--task", "mood", "--task", "answer"], ["--split", "tset"]):
        assert main(["evaluate", str(run), *words]) == 2
        assert "answer.data.files has no 't" in capsys.readouterr().err
