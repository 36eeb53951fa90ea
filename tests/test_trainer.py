"""The loop: schedule, plan, accumulation, telemetry, bad numbers, and resume to the bit."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mtl import hooks
from mtl.checkpoint import (
    Checkpoint,
    DamagedCheckpointError,
    checkpoint_directories,
    load_checkpoint,
    load_newest,
    save_checkpoint,
)
from mtl.cli import main
from mtl.config import OptimizerSettings, ScheduleSettings
from mtl.files import TEMPORARY
from mtl.hooks import RunHooks
from mtl.optimizer import DECAYS, OPTIMIZERS, learning_rate_factor, make_optimizer
from mtl.run_log import RunLog
from mtl.trainer import split_smoothness


@pytest.mark.parametrize("name", sorted(DECAYS))
def test_schedule_warms_up_then_decays_by_its_formula(name: str) -> None:
    settings = ScheduleSettings(name=name, warmup=0.2)  # type: ignore[arg-type]
    factors = [learning_rate_factor(step, 10, settings) for step in range(10)]
    decay = {
        "linear": lambda u: 1 - u,
        "cosine": lambda u: (1 + math.cos(math.pi * u)) / 2,
        "constant": lambda u: 1.0,
    }[name]
    assert factors == pytest.approx([0.5, 1.0, *(decay(k / 8) for k in range(8))])


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_optimizers_step_and_spare_vectors_from_decay(name: str) -> None:
    parameters = {
        "encoder.layer.weight": torch.ones(2, 3),
        "encoder.pooler.weight": torch.ones(2, 2),
        "heads.t.classifier.weight": torch.ones(2, 2),
        "heads.t.classifier.bias": torch.ones(2),
    }
    for parameter in parameters.values():
        parameter.requires_grad_().grad = torch.ones_like(parameter)
    settings = OptimizerSettings(name=name, weight_decay=0.5, head_factor=4.0)  # type: ignore[arg-type]
    optimizer = make_optimizer(parameters, settings, {})
    found = {
        parameter.data_ptr(): (group["factor"], group.get("decoupled_decay", group["weight_decay"]))
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert [found[parameter.data_ptr()] for parameter in parameters.values()] == [
        (1, 0.5),
        (4, 0.5),
        (4, 0.5),
        (4, 0.0),
    ]
    for group in optimizer.param_groups:
        group["lr"] = 0.1 * group["factor"]
    optimizer.step()
    for parameter in parameters.values():
        assert (parameter < 1).all()


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_decay_is_decoupled(name: str) -> None:
    """Without a gradient a step is the decay alone, w (1 − lr · decay); as always after steps that had one."""
    weight = torch.full((2, 3), 2.0, requires_grad=True)
    still = torch.full((2, 3), 2.0, requires_grad=True)  # of something that the step does not use
    settings = OptimizerSettings(name=name, weight_decay=0.5)  # type: ignore[arg-type]
    optimizer = make_optimizer({"encoder.a.weight": weight, "encoder.b.weight": still}, settings, {})
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    for _ in range(3):
        before = weight.detach().clone()
        weight.grad = torch.zeros_like(weight)
        optimizer.step()
        torch.testing.assert_close(weight.detach(), before * (1 - 0.1 * 0.5), rtol=1e-6, atol=0)
    assert torch.equal(still.detach(), torch.full((2, 3), 2.0))


def arguments(corpus: Path, encoder: Path, output: Path, *more: str) -> list[str]:
    return [
        "train", str(corpus), "--encoder", str(encoder), "--output", str(output), "--batch-size", "8",
        "--learning-rate", "1e-3", "--max-steps", "12", "--set", "evaluation.every=6", *more,
    ]  # fmt: skip


STRONG = ["--set", "defaults.smart.epsilon=0.01", "--set", "defaults.smart.noise_std=0.01"]
STRONG += ["--set", "defaults.smart.unit=absolute", "--set", "defaults.smart.step_size=1e-3"]


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@contextmanager
def signal_at_step(number: int, received: signal.Signals) -> Iterator[None]:
    """Sends this process a signal while it is in a step."""
    progress = hooks.RunHooks.progress

    def interrupt(self: Any, step: int, task: str) -> None:
        if step == number:
            signal.raise_signal(received)
        progress(self, step, task)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hooks.RunHooks, "progress", interrupt)
        yield


@pytest.mark.parametrize(
    "options",
    [
        ["--no-smart", "--no-proximal"],
        [*STRONG, "--set", "train.accumulation=2", "--set", "optimizer.name=radam", "--sampler", "sqrt"],
    ],
    ids=["plain", "regularized"],
)
def test_interrupted_run_resumes_to_the_same_bits(
    options: list[str], corpus: Path, encoder_dir: Path, tmp_path: Path
) -> None:
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    assert main(arguments(corpus, encoder_dir, whole, *options)) == 0
    with signal_at_step(8, signal.SIGINT):
        assert main(arguments(corpus, encoder_dir, parted, *options)) == 128 + signal.SIGINT
    assert not (parted / "model").exists()
    assert checkpoint_directories(parted / "checkpoints")[0].name == "step-0000008"
    assert main(["train", "--output", str(parted), "--resume"]) == 0
    for name in ("model/model.safetensors", "model/heads.safetensors"):
        first, second = load_file(whole / name), load_file(parted / name)
        assert first.keys() == second.keys()
        assert all(torch.equal(tensor, second[key]) for key, tensor in first.items())
    assert records(whole) == records(parted)
    assert (whole / "results.json").read_text() == (parted / "results.json").read_text()
    for file in (whole / "predictions").iterdir():
        assert file.read_text() == (parted / "predictions" / file.name).read_text()
    final = [load_checkpoint(folder / "checkpoints" / "step-0000012") for folder in (whole, parted)]
    assert final[0].state == final[1].state
    for part, tensors in final[0].tensors.items():
        assert all(torch.equal(tensor, final[1].tensors[part][name]) for name, tensor in tensors.items())
    assert ("teacher" in final[0].tensors) == ("--no-proximal" not in options)


def test_resume_refuses_another_configuration(
    corpus: Path, encoder_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    assert main(arguments(corpus, encoder_dir, output)) == 0
    capsys.readouterr()
    changed = arguments(corpus, encoder_dir, output, "--resume", "--set", "tasks.mood.smart.weight=7")
    assert main(changed) == 2
    error = capsys.readouterr().err
    assert "tasks.mood.smart.weight is 7" in error and "says 1.0" in error
    assert main(arguments(corpus, encoder_dir, tmp_path / "none", "--resume")) == 2
    assert "no run" in capsys.readouterr().err


def test_resume_refuses_a_run_whose_own_files_were_edited(
    corpus: Path, encoder_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, moved = tmp_path / "run", tmp_path / "moved"
    assert main(arguments(corpus, encoder_dir, output, "--max-steps", "3")) == 0
    shutil.copytree(encoder_dir, moved)
    run, tasks = output / "run.yml", output / "task_defs.yml"
    edits = {  # what may be edited: how the machine is used, and where things lie
        (run, "max_steps: 3", "max_steps: 4"): 2,
        (tasks, "learning_rate: ", "learning_rate: 1"): 2,
        (run, "num_proc: 1", "num_proc: 2"): 0,
        (run, f"encoder: {encoder_dir}", f"encoder: {moved}"): 0,
    }
    for (file, old, new), status in edits.items():
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new, 1))
        capsys.readouterr()
        assert main(["train", "--output", str(output), "--resume"]) == status
        told = "run.yml or task_defs.yml was edited since the run began" in capsys.readouterr().err
        assert told == (status == 2)
        file.write_text(text)


def test_resume_tells_of_other_tasks_in_one_line(
    corpus: Path, encoder_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    assert main(arguments(corpus, encoder_dir, output, "--tasks", "mood,strength", "--max-steps", "1")) == 0
    for names in ("mood", "strength,mood", "mood,answer"):
        capsys.readouterr()
        words = ["--tasks", names, "--max-steps", "1", "--set", "tasks.mood.smart.weight=7", "--resume"]
        assert main(arguments(corpus, encoder_dir, output, *words)) == 2
        tasks, weight, last = capsys.readouterr().err.splitlines()
        told = f"error: --resume: the tasks are {names.replace(',', ', ')}, but the run has the tasks mood, strength"
        assert tasks == told
        assert (
            f"tasks.mood.smart.weight is 7.0, but {output}/task_defs.yml says" in weight
            and "can only be resumed unchanged" in last
        )


def test_resume_with_other_settings_does_not_blame_the_data(
    corpus: Path, encoder_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = arguments(corpus, encoder_dir, tmp_path / "run", "--tasks", "mood", "--max-steps", "1")
    assert main(words) == 0
    assert main([*words, "--train-size", "20", "--max-length", "9", "--resume"]) == 2
    error = capsys.readouterr().err
    assert "train.train_size is 20" in error and "max_length is 9" in error and "data" not in error


def test_finished_run_resumes_to_nothing(corpus: Path, encoder_dir: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    assert main(arguments(corpus, encoder_dir, output)) == 0
    before = (output / "metrics.jsonl").read_bytes(), (output / "results.json").read_bytes()
    assert main(["train", "--output", str(output), "--resume"]) == 0
    assert before == ((output / "metrics.jsonl").read_bytes(), (output / "results.json").read_bytes())


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["--learning-rate", "1e-12", "--set", "evaluation.every=1", "--set", "evaluation.patience=2"],
    ],
    ids=["whole", "stopped early"],
)
def test_the_last_step_of_a_run_has_a_checkpoint(
    settings: list[str], corpus: Path, encoder_dir: Path, tmp_path: Path
) -> None:
    output, words = tmp_path / "run", ["--tasks", "mood", "--no-smart", "--no-proximal", *settings]
    words += ["--set", "checkpoint.every=7"]
    assert main(arguments(corpus, encoder_dir, output, *words)) == 0
    steps = json.loads((output / "results.json").read_text())["steps"]
    assert checkpoint_directories(output / "checkpoints")[0].name == f"step-{steps:07d}"
    before = (output / "metrics.jsonl").read_bytes()
    assert main(["train", "--output", str(output), "--resume"]) == 0
    assert (output / "metrics.jsonl").read_bytes() == before


def test_adaptation_resumes_to_the_same_bits(corpus: Path, encoder_dir: Path, tmp_path: Path) -> None:
    start, whole, parted = tmp_path / "start", tmp_path / "whole", tmp_path / "parted"
    assert main(arguments(corpus, encoder_dir, start, "--max-steps", "3")) == 0
    options = ["--max-steps", "6", "--batch-size", "8", "--set", "checkpoint.every=2"]
    command = ["adapt", str(start), "--task", "mood"]
    assert main([*command, "--output", str(whole), *options]) == 0
    with signal_at_step(3, signal.SIGTERM):
        assert main([*command, "--output", str(parted), *options]) == 128 + signal.SIGTERM
    assert main([*command, "--output", str(parted), "--resume"]) == 0
    assert records(whole) == records(parted)
    first, second = (load_file(folder / "model" / "model.safetensors") for folder in (whole, parted))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_weights_of_zero_and_the_switches_are_the_same_run(corpus: Path, encoder_dir: Path, tmp_path: Path) -> None:
    off = ["--no-smart", "--no-proximal"]
    zero = ["--set", "defaults.smart.weight=0.0", "--set", "defaults.proximal.weight=0.0"]
    for name, options in (("off", off), ("zero", zero)):
        assert main(arguments(corpus, encoder_dir, tmp_path / name, *options)) == 0
    assert records(tmp_path / "off") == records(tmp_path / "zero")
    for file in ("model.safetensors", "heads.safetensors"):
        first, second = (load_file(tmp_path / name / "model" / file) for name in ("off", "zero"))
        assert all(torch.equal(tensor, second[key]) for key, tensor in first.items())


def test_accumulation_gives_the_same_run_without_dropout(corpus: Path, encoder_dir: Path, tmp_path: Path) -> None:
    still = tmp_path / "encoder"
    config = json.loads((encoder_dir / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    still.mkdir()
    for file in encoder_dir.iterdir():
        (still / file.name).write_bytes(file.read_bytes())
    (still / "config.json").write_text(json.dumps(config))
    models = []
    for parts in (1, 2):
        output = tmp_path / f"run{parts}"
        options = [*STRONG, "--set", "defaults.dropout=0.0", "--set", f"train.accumulation={parts}"]
        assert main(arguments(corpus, still, output, *options, "--max-steps", "6")) == 0
        models.append(load_file(output / "model" / "model.safetensors"))
    for name, tensor in models[0].items():
        torch.testing.assert_close(tensor, models[1][name], rtol=1e-3, atol=2e-5)


def test_log_has_every_step_in_turn_and_every_term(corpus: Path, encoder_dir: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    assert main(arguments(corpus, encoder_dir, output, "--set", "tasks.strength.smart.weight=0.0")) == 0
    steps = [record for record in records(output) if record["event"] == "step"]
    assert [record["step"] for record in steps] == list(range(1, 13))
    assert [record["task"] for record in steps] == ["mood", "strength", "answer"] * 4
    for record in steps:
        assert ("smart" in record) == (record["task"] != "strength")
        assert record["cost"] == (9 / 3 if "smart" in record else 4 / 3)
        if "smart" in record:
            assert record["smart_dropout"] == 0 and record["smart_adversarial"] == record["smart"]
            assert record["smart_gain"] == pytest.approx(record["smart"] / record["smart_noise"])
            assert 0 < record["smart_length"] <= 1 + 1e-6 and 0 <= record["smart_boundary"] <= 1
        assert record["proximal"] >= 0 and math.isfinite(record["loss"]) and record["learning_rate"] > 0
    evaluations = [record for record in records(output) if record["event"] == "evaluation"]
    assert [record["step"] for record in evaluations] == [6] * 3 + [12] * 3
    results = json.loads((output / "results.json").read_text())
    assert set(results["tasks"]) == {"mood", "strength", "answer"}
    for name, splits in results["tasks"].items():
        best = [r for r in evaluations if r["task"] == name and r["step"] == results["best_steps"][name]]
        assert best[0]["metrics"] == splits["validation"]


def test_the_log_is_json_whatever_a_metric_comes_to(tmp_path: Path) -> None:
    with contextlib.closing(RunLog(tmp_path)) as log:
        metrics = {"pearson": math.nan, "spearman": 0.5, "n": 3}
        log.evaluation({"step": 1, "task": "t", "split": "test", "metrics": metrics})
    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text)["metrics"] == {"pearson": None, "spearman": 0.5, "n": 3} and "NaN" not in text


@pytest.mark.parametrize("term", ["loss", "smart", "proximal"])
def test_bad_number_stops_the_run_with_its_task_step_and_term(
    term: str,
    corpus: Path,
    encoder_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from mtl.objective import Objective

    forward = Objective.forward

    def poisoned(self: Any, task: str, batch: Any, turn: int, share: Any) -> Any:
        loss, terms = forward(self, task, batch, turn, share)
        if (task, turn) == ("strength", 2):  # the run's eighth step
            terms[term] = terms[term] * math.nan
        return loss, terms

    monkeypatch.setattr(Objective, "forward", poisoned)
    output = tmp_path / "run"
    assert main(arguments(corpus, encoder_dir, output)) == 1
    error = capsys.readouterr().err
    assert "task 'strength', step 8: the " in error
    assert (
        f"training rows, counted from 0: {rows_of_step(output, 'strength', 2)}; the checkpoints written before are"
        in error
    )
    assert {"loss": "task loss", "smart": "R_s", "proximal": "term D"}[term] in error
    checkpoint, damaged = load_newest(output / "checkpoints")
    assert checkpoint is not None and checkpoint.step == 6 and damaged == []
    assert all(torch.isfinite(tensor).all() for tensor in checkpoint.tensors["model"].values())


def rows_of_step(output: Path, task: str, turn: int) -> str:
    """The rows of a task's n-th batch, counted from 1, as the batches of the run are drawn."""
    from mtl.batch import BatchStream
    from mtl.data import prepare
    from mtl.run_files import read_run
    from mtl.source import Source
    from mtl.tokenizer import load_tokenizer

    definition = read_run(output).tasks[task]
    assert definition.data.files is not None
    source, tokenizer = Source(path=Path(definition.data.files["train"])), load_tokenizer(str(output / "best" / task))
    examples = prepare(task, definition, source, tokenizer, definition.max_length)
    stream = BatchStream(examples, definition.batch_size, 42, task, ranking=False)
    return ", ".join(str(row) for row in sorted(examples.rows[stream[turn]].tolist()))


@pytest.mark.parametrize(("allowed", "status"), [(2, 0), (1, 1)])
def test_bad_numbers_may_be_skipped_up_to_a_limit(
    allowed: int,
    status: int,
    corpus: Path,
    encoder_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from mtl.objective import Objective

    forward = Objective.forward
    seen: dict[int, dict[str, torch.Tensor]] = {}

    def poisoned(self: Any, task: str, batch: Any, turn: int, share: Any) -> Any:
        loss, terms = forward(self, task, batch, turn, share)
        place = {("strength", 1): 5, ("mood", 3): 10}.get((task, turn))
        if place is not None:
            seen[place] = {name: tensor.detach().clone() for name, tensor in self.model.named_tensors().items()}
            loss = loss * math.inf
        if place == 5:
            terms["smart"] = terms["smart"] * math.nan
        if (task, turn) in (("answer", 1), ("strength", 3)):  # the steps after them
            before = seen[place_before(task)]
            assert all(torch.equal(tensor, before[name]) for name, tensor in self.model.named_tensors().items())
        return loss, terms

    def place_before(task: str) -> int:
        return {"answer": 5, "strength": 10}[task]

    monkeypatch.setattr(Objective, "forward", poisoned)
    output = tmp_path / "run"
    policy = ["--set", "train.on_nonfinite=skip", "--set", f"train.max_skipped={allowed}"]
    assert main(arguments(corpus, encoder_dir, output, *policy)) == status
    if status:
        error = capsys.readouterr().err
        assert "task 'mood', step 10: the gradient is " in error
        assert "that is one skipped step more than train.max_skipped allows" in error
        return
    assert json.loads((output / "results.json").read_text())["nonfinite_steps"] == 2
    steps = {record["step"]: record for record in records(output) if record["event"] == "step"}
    assert [step for step, record in steps.items() if record.get("skipped")] == [5, 10]
    assert steps[5]["smart"] is None and steps[10]["gradient_norm"] is None
    assert "NaN" not in (output / "metrics.jsonl").read_text()
    assert all(torch.isfinite(tensor).all() for tensor in load_file(output / "model" / "model.safetensors").values())


def test_skipped_steps_are_counted_through_a_resume(
    corpus: Path, encoder_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mtl.objective import Objective

    forward = Objective.forward

    def poisoned(self: Any, task: str, batch: Any, turn: int, share: Any) -> Any:
        loss, terms = forward(self, task, batch, turn, share)
        return loss * (math.nan if (task, turn) in (("strength", 1), ("mood", 3)) else 1.0), terms

    monkeypatch.setattr(Objective, "forward", poisoned)
    whole, parted, policy = tmp_path / "whole", tmp_path / "parted", ["--set", "train.on_nonfinite=skip"]
    assert main(arguments(corpus, encoder_dir, whole, *policy)) == 0
    with signal_at_step(8, signal.SIGTERM):
        assert main(arguments(corpus, encoder_dir, parted, *policy)) == 128 + signal.SIGTERM
    assert main(["train", "--output", str(parted), "--resume"]) == 0
    for name in ("results.json", "metrics.jsonl", "model/model.safetensors"):
        assert (whole / name).read_bytes() == (parted / name).read_bytes()
    assert json.loads((parted / "results.json").read_text())["nonfinite_steps"] == 2


def test_a_second_signal_stops_at_once(
    corpus: Path, encoder_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    steps: list[int] = []

    def twice(self: Any, step: int, task: str) -> None:
        steps.append(step)
        if step == 8:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
            steps.append(99)  # never reached

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hooks.RunHooks, "progress", twice)
        assert main(arguments(corpus, encoder_dir, output)) == 128 + signal.SIGTERM
    error = capsys.readouterr().err
    assert "stopped at once; the checkpoints written before are intact; continue with:" in error
    assert steps[-1] == 8
    assert [path.name for path in checkpoint_directories(output / "checkpoints")] == ["step-0000006"]
    whole = tmp_path / "whole"
    assert main(["train", "--output", str(output), "--resume"]) == 0
    assert main(arguments(corpus, encoder_dir, whole)) == 0
    assert (whole / "metrics.jsonl").read_bytes() == (output / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("optimizer", ["adamw", "adamax"])
@pytest.mark.parametrize("limit", [0.05, 1e6])
def test_the_whole_gradient_is_clipped(
    optimizer: str, limit: float, corpus: Path, encoder_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step is that of the optimizer on gradients scaled to the limit by hand."""
    from mtl.trainer import Trainer

    clip = Trainer._clip
    seen: list[float] = []

    def by_hand(self: Any) -> torch.Tensor:
        gradients = [p.grad for p in self.student.parameters() if p.grad is not None]
        norm = torch.cat([g.flatten() for g in gradients]).double().norm()
        for gradient in gradients:
            gradient.mul_(float(min(1.0, limit / norm)))
        seen.append(float(norm))
        return norm.float()

    models: list[dict[str, torch.Tensor]] = []
    for function in (clip, by_hand):
        monkeypatch.setattr(Trainer, "_clip", function)
        output = tmp_path / f"run{len(models)}"
        options = ["--set", f"optimizer.name={optimizer}", "--set", f"train.clip_norm={limit}", "--max-steps", "4"]
        assert main(arguments(corpus, encoder_dir, output, *options)) == 0
        models.append(load_file(output / "model" / "model.safetensors"))
    assert min(seen) > 0.05 and max(seen) < 1e6
    for name, tensor in models[0].items():
        torch.testing.assert_close(tensor, models[1][name], rtol=1e-4, atol=1e-6)
    norms = [record["gradient_norm"] for record in records(tmp_path / "run0") if record["event"] == "step"]
    assert norms == pytest.approx(seen, rel=1e-3)


def test_gradient_checkpointing_gives_the_same_run(corpus: Path, encoder_dir: Path, tmp_path: Path) -> None:
    models = []
    for option in ("false", "true"):
        output = tmp_path / option
        settings = ["--set", f"train.gradient_checkpointing={option}", *STRONG, "--max-steps", "6"]
        assert main(arguments(corpus, encoder_dir, output, *settings)) == 0
        models.append(load_file(output / "model" / "model.safetensors"))
    for name, tensor in models[0].items():
        torch.testing.assert_close(tensor, models[1][name], rtol=1e-4, atol=1e-6)


def test_gradient_checkpointing_computes_activations_again(
    corpus: Path, encoder_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import modeling_utils

    calls: list[int] = []
    real = modeling_utils.checkpoint

    def counting(*words: Any, **keys: Any) -> Any:
        calls.append(1)
        return real(*words, **keys)

    monkeypatch.setattr(modeling_utils, "checkpoint", counting)
    assert main(arguments(corpus, encoder_dir, tmp_path / "off", "--max-steps", "1")) == 0
    assert calls == []
    settings = ["--set", "train.gradient_checkpointing=true", "--no-smart", "--no-proximal", "--max-steps", "1"]
    assert main(arguments(corpus, encoder_dir, tmp_path / "on", *settings)) == 0
    assert len(calls) == 2  # layers


def test_early_stopping_counts_evaluations_without_a_better_task(
    corpus: Path, encoder_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    options = ["--learning-rate", "1e-12", "--set", "evaluation.every=1", "--set", "evaluation.patience=3"]
    assert main(arguments(corpus, encoder_dir, output, *options)) == 0
    results = json.loads((output / "results.json").read_text())
    last_better = max(results["best_steps"].values())
    assert results["steps"] == last_better + 3 < results["planned_steps"]
    without = "no task improved in 3 evaluations (evaluation.patience)"
    told = f"stopped at step {last_better + 3} of 12: {without}"
    assert capsys.readouterr().out.splitlines().count(told) == 1
    before = (output / "metrics.jsonl").read_bytes()
    assert main(["train", "--output", str(output), "--resume"]) == 0  # what has stopped stays stopped
    assert (output / "metrics.jsonl").read_bytes() == before
    printed = capsys.readouterr().out.splitlines()
    assert f"{told}; there is nothing left to train" in printed and not any("resuming" in line for line in printed)


def test_same_seed_same_run_other_seed_another(corpus: Path, encoder_dir: Path, tmp_path: Path) -> None:
    heads = []
    for number, seed in enumerate((1, 1, 2)):
        assert (
            main(arguments(corpus, encoder_dir, tmp_path / str(number), "--seed", str(seed), "--max-steps", "4")) == 0
        )
        heads.append(load_file(tmp_path / str(number) / "model" / "heads.safetensors"))
    assert all(torch.equal(tensor, heads[1][name]) for name, tensor in heads[0].items())
    assert not all(torch.equal(tensor, heads[2][name]) for name, tensor in heads[0].items())


def test_resolved_configuration_reproduces_the_run(corpus: Path, encoder_dir: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(arguments(corpus, encoder_dir, first, "--tasks", "answer,mood", "--set", "tasks.mood.weight=2.0")) == 0
    assert main(["train", "--config", str(first / "run.yml"), "--output", str(second)]) == 0
    assert records(first) == records(second)
    assert (first / "task_defs.yml").read_text() == (second / "task_defs.yml").read_text()


def test_a_run_is_reproduced_from_any_directory(
    corpus: Path, encoder_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    monkeypatch.chdir(encoder_dir.parent)
    assert main(arguments(corpus, Path(encoder_dir.name), first, "--tasks", "mood", "--max-steps", "1")) == 0
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--output", str(first), "--resume"]) == 0
    assert main(["train", "--config", str(first / "run.yml"), "--output", str(second)]) == 0
    assert (first / "run.yml").read_text() == (second / "run.yml").read_text()
    card = (second / "best" / "mood" / "README.md").read_text()
    assert f"- Encoder: a local directory, `{encoder_dir.name}`." in card and str(encoder_dir.parent) not in card


def test_lazy_regularization_takes_every_nth_turn_of_the_task(corpus: Path, encoder_dir: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    assert (
        main(arguments(corpus, encoder_dir, output, "--set", "tasks.mood.smart.every=3", "--tasks", "mood,answer")) == 0
    )
    turns = [record for record in records(output) if record["event"] == "step" and record["task"] == "mood"]
    assert ["smart" in record for record in turns] == [True, False, False] * 2
    assert [record["cost"] for record in turns] == [9 / 3, 4 / 3, 4 / 3] * 2
    others = [record for record in records(output) if record["event"] == "step" and record["task"] == "answer"]
    assert all("smart" in record for record in others)


def test_dropout_part_is_measured_under_independent_masks(corpus: Path, encoder_dir: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    assert main(arguments(corpus, encoder_dir, output, "--set", "defaults.smart.preset=paper")) == 0
    steps = [record for record in records(output) if record["event"] == "step"]
    measured = [record for record in steps if "smart_dropout" in record]
    assert [record["step"] for record in measured] == [1, 2, 3]  # the first turn of each task
    for record in measured:  # a radius of 1e-5 adds next to nothing to what dropout does
        assert record["smart_dropout"] > 100 * abs(record["smart_adversarial"])


def test_teacher_is_kept_evaluated_and_exported(
    corpus: Path, encoder_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    settings = ["--set", "defaults.proximal.beta_early=0.0", "--set", "defaults.proximal.beta_late=0.0"]
    assert main(arguments(corpus, encoder_dir, output, *settings, "--set", "defaults.proximal.inner_steps=5")) == 0
    # With β = 0 and S = 5 the teacher is the student after step 10; with S = 1 it is the student itself.
    model, teacher = (load_file(output / part / "model.safetensors") for part in ("model", "teacher"))
    assert any(not torch.equal(tensor, teacher[name]) for name, tensor in model.items())
    ten = tmp_path / "ten"
    assert (
        main(arguments(corpus, encoder_dir, ten, *settings, "--set", "schedule.name=constant", "--max-steps", "5")) == 0
    )
    same, copy = (load_file(ten / part / "model.safetensors") for part in ("model", "teacher"))
    assert all(torch.equal(tensor, copy[name]) for name, tensor in same.items())
    assert main(["evaluate", str(output), "--weights", "teacher"]) == 0
    assert main(["export", str(output), "--weights", "teacher", "--output", str(tmp_path / "exports")]) == 0
    assert (tmp_path / "exports" / "mood" / "model.safetensors").is_file()
    plain = tmp_path / "plain"
    assert main(arguments(corpus, encoder_dir, plain, "--no-proximal", "--max-steps", "2")) == 0
    capsys.readouterr()
    assert main(["evaluate", str(plain), "--weights", "teacher"]) == 2
    assert "without the proximal term" in capsys.readouterr().err


class KilledError(BaseException):
    """As if the process had been killed."""


def test_a_best_step_that_the_continued_run_does_not_have_is_undone(
    corpus: Path, encoder_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Continued with other roundings: the last evaluation before the kill was better than all that follow."""
    output, report = tmp_path / "run", RunHooks.report
    words = ["--tasks", "mood,strength", "--max-steps", "8", "--set", "evaluation.every=2"]
    words = arguments(corpus, encoder_dir, output, *words, "--set", "checkpoint.every=4", "--no-smart", "--no-proximal")

    def kept() -> dict[str, bytes]:
        """What belongs to the best steps, but for the cards, which the run's end renews."""
        paths = [p for folder in ("best", "predictions") for p in (output / folder).rglob("*") if p.is_file()]
        return {str(p.relative_to(output)): p.read_bytes() for p in paths if p.name != "README.md"}

    seen: dict[int, dict[str, bytes]] = {}

    def dying(hooks: RunHooks, step: int, *rest: Any) -> None:
        report(hooks, step, *rest)
        if step == 6:
            seen[6] = kept()
            raise KilledError

    checkpoint = RunHooks.checkpoint

    def looking(hooks: RunHooks, written: Checkpoint, *, last: bool) -> None:
        checkpoint(hooks, written, last=last)
        seen[written.step] = kept()

    monkeypatch.setattr(RunHooks, "report", dying)
    monkeypatch.setattr(RunHooks, "checkpoint", looking)
    monkeypatch.setattr("mtl.trainer.is_better", lambda metric, value, best: True)
    with pytest.raises(KilledError):
        main(words)
    names = {f"best/{task}/model.safetensors" for task in ("mood", "strength")}
    assert names < seen[4].keys() < seen[6].keys() and all(seen[4][name] != seen[6][name] for name in names)
    monkeypatch.setattr(RunHooks, "report", report)
    monkeypatch.setattr("mtl.trainer.is_better", lambda metric, value, best: best is None)
    assert main([*words, "--resume"]) == 0
    assert json.loads((output / "results.json").read_text())["best_steps"] == {"mood": 4, "strength": 4}
    assert kept() == seen[4]


def test_half_precision_refuses_what_it_rounds_away(
    corpus: Path, encoder_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--precision", "bf16", "--max-steps", "3", "--tasks", "mood"]
    tiny = ["--set", "tasks.mood.smart.epsilon=1e-9", "--set", "tasks.mood.smart.noise_std=1e-9"]
    assert main(arguments(corpus, encoder_dir, tmp_path / "tiny", *words, *tiny)) == 2
    error = capsys.readouterr().err
    assert "bf16 rounds away the perturbation of mood" in error
    radius = error.split("the smallest that survives is ")[1].split(". ")[0]
    assert not (tmp_path / "tiny").exists()
    enough = ["--set", f"tasks.mood.smart.epsilon={radius}", "--set", f"tasks.mood.smart.noise_std={radius}"]
    assert main(arguments(corpus, encoder_dir, tmp_path / "enough", *words, *enough)) == 0
    assert main(arguments(corpus, encoder_dir, tmp_path / "off", *words, *tiny, "--no-smart")) == 0
    assert main(arguments(corpus, encoder_dir, tmp_path / "fp16", "--precision", "fp16")) == 2
    assert "needs a GPU" in capsys.readouterr().err


def test_half_precision_is_asked_about_the_tasks_own_ball(
    corpus: Path, encoder_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A coordinate of a point of the l2 ball is far below its radius, which the linf ball's reach."""
    words = ["--precision", "bf16", "--max-steps", "1", "--tasks", "mood"]
    needed = {}
    for norm in ("linf", "l2"):
        tiny = [f"--set=tasks.mood.smart.{key}" for key in (f"norm={norm}", "epsilon=1e-9", "noise_std=1e-9")]
        assert main(arguments(corpus, encoder_dir, tmp_path / norm, *words, *tiny)) == 2
        needed[norm] = float(capsys.readouterr().err.split("the smallest that survives is ")[1].split(". ")[0])
    # Inputs of the task have some 8 tokens with 32 coordinates each: √(8 · 32) = 16.
    assert 4 <= needed["l2"] / needed["linf"] <= 64


def test_half_precision_needs_a_larger_radius_without_ascent(
    corpus: Path, encoder_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, needed = ["--precision", "bf16", "--max-steps", "1", "--tasks", "mood"], []
    for steps in (1, 0):
        tiny = [f"--set=tasks.mood.smart.{key}" for key in (f"steps={steps}", "epsilon=1e-9", "noise_std=1e-9")]
        assert main(arguments(corpus, encoder_dir, tmp_path / str(steps), *words, *tiny)) == 2
        needed.append(float(capsys.readouterr().err.split("the smallest that survives is ")[1].split(". ")[0]))
    assert needed[0] < needed[1]


def test_the_gain_of_the_ascent_is_known_in_full_precision_only() -> None:
    record = {"smart": 0.5, "smart_noise": 0.125}
    assert split_smoothness(record, "shared") == {"smart_dropout": 0.0, "smart_adversarial": 0.5, "smart_gain": 4.0}
    assert "smart_gain" not in split_smoothness(record, "shared", "bf16"), (
        "rounding alone is larger than the noise's R_s"
    )


def make_checkpoint(step: int) -> Checkpoint:
    return Checkpoint(step, {"model": {"w": torch.full((3,), float(step))}}, {"step": step})


def test_checkpoints_rotate_and_leave_nothing_half_written(tmp_path: Path) -> None:
    (tmp_path / f"{TEMPORARY}step-0000009").mkdir()  # of a killed process
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, make_checkpoint(step), keep_last=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-0000002", "step-0000003"]


@pytest.mark.parametrize("keep_last", [1, 2])
def test_a_checkpoint_outlives_newer_ones_that_the_run_went_back_behind(tmp_path: Path, keep_last: int) -> None:
    for step in (10, 20):
        save_checkpoint(tmp_path, make_checkpoint(step), keep_last=2)
    for step in (3, 4, 5):
        assert save_checkpoint(tmp_path, make_checkpoint(step), keep_last=keep_last).is_dir()
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [f"step-{step:07d}" for step in (3, 4, 5)][-keep_last:]


@pytest.mark.parametrize("name", ["model.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "delete"])
def test_damaged_checkpoint_is_passed_over(tmp_path: Path, name: str, damage: str) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, make_checkpoint(step), keep_last=5)
    path = tmp_path / "step-0000002" / name
    content = bytearray(path.read_bytes())
    if damage == "delete":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    with pytest.raises(DamagedCheckpointError):
        load_checkpoint(tmp_path / "step-0000002")
    checkpoint, damaged = load_newest(tmp_path)
    assert checkpoint is not None and checkpoint.step == 1
    assert len(damaged) == 1 and "step-0000002" in damaged[0]
    assert np.array_equal(checkpoint.tensors["model"]["w"].numpy(), np.ones(3))


def test_a_checkpoint_under_the_name_of_another_step_is_passed_over(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, make_checkpoint(1), keep_last=5)
    shutil.copytree(tmp_path / "step-0000001", tmp_path / "step-0000002")
    checkpoint, damaged = load_newest(tmp_path)
    assert checkpoint is not None and checkpoint.step == 1
    assert damaged == [f"{tmp_path / 'step-0000002'} holds step 1"]


def test_optimizers_get_all_their_settings() -> None:
    for name in OPTIMIZERS:
        settings = OptimizerSettings(name=name, beta1=0.8, beta2=0.95, epsilon=1e-6)  # type: ignore[arg-type]
        optimizer = make_optimizer({"encoder.a.weight": torch.ones(2, 3, requires_grad=True)}, settings, {})
        assert [(group["betas"], group["eps"]) for group in optimizer.param_groups] == [((0.8, 0.95), 1e-6)]


def test_a_best_model_of_an_older_checkpoint_is_restored_where_the_newest_is_damaged(
    corpus: Path, encoder_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every evaluation improves before the run dies after its third checkpoint, and none after it is resumed."""
    run, kept, values = tmp_path / "run", tmp_path / "kept", iter([0.1, 0.2, 0.3])
    score, evaluate, progress = hooks.score, hooks.RunHooks.evaluate, hooks.RunHooks.progress
    value = 0.0

    def as_good(task: Any, *others: Any) -> dict[str, float]:
        return {**score(task, *others), task.metrics[0]: value}

    def evaluated(self: Any) -> Any:
        nonlocal value
        value = next(values, 0.0)
        if value == 0.3:  # what is the best of the second checkpoint, before it is replaced
            for name in ("best/mood", "predictions"):
                shutil.copytree(run / name, kept / name)
        return evaluate(self)

    def dying(self: Any, step: int, task: str) -> None:
        if step == 10 and value == 0.3:
            raise RuntimeError
        progress(self, step, task)

    monkeypatch.setattr(hooks, "score", as_good)
    monkeypatch.setattr(hooks.RunHooks, "evaluate", evaluated)
    monkeypatch.setattr(hooks.RunHooks, "progress", dying)
    more = ("--set", "evaluation.every=3", "--set", "checkpoint.every=3", "--no-smart", "--no-proximal")
    assert main(arguments(corpus, encoder_dir, run, *more)) == 1
    newest = run / "checkpoints" / "step-0000009"
    for path in newest.glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    assert main(["train", "--output", str(run), "--resume"]) == 0
    assert set(json.loads((run / "results.json").read_text())["best_steps"].values()) == {6}
    for path in kept.rglob("*.*"):
        if path.is_file() and path.name != "README.md" and ("mood" in path.name or "best" in path.parts):
            assert (run / path.relative_to(kept)).read_bytes() == path.read_bytes(), path
    assert sorted(path.name for path in (run / "best").iterdir()) == ["answer", "mood", "strength"]
