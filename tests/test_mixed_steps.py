"""Steps of several tasks: their order, their length, and that their gradient is the mean of the tasks'."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mtl.cli import main
from mtl.config import command_line
from mtl.errors import NonFiniteError, UserError
from mtl.optimizer import OPTIMIZERS
from mtl.preflight import Request, check_train
from mtl.processes import Processes
from mtl.run_log import Log
from mtl.run_setup import RunSetup, set_up
from mtl.study import read_study
from mtl.trainer import Hooks, Trainer


def make_setup(corpus: Path, encoder: Path, tmp_path: Path, *settings: str) -> RunSetup:
    flags = {"encoder": ("--encoder", str(encoder)), "leaks": ("--leaks", "ignore"), "train.max_steps": ("", 12)}
    request = Request(tmp_path / "run", [str(corpus)], overrides=command_line(flags, ["defaults.dropout=0", *settings]))
    return set_up(check_train(request), Processes.current())


def gradients(setup: RunSetup, steps: int) -> list[dict[str, torch.Tensor]]:
    """What the optimizer would have got in each of the first steps; no step changes the weights."""
    trainer: Trainer = setup.trainer(Log(), Hooks())
    trainer.student.double()
    trainer.student.eval()
    found: list[dict[str, torch.Tensor]] = []

    def take() -> None:
        tensors = trainer.student.named_tensors()
        found.append({name: p.grad.clone() for name, p in tensors.items() if p.grad is not None})

    trainer.optimizer.step = take
    trainer._clip = lambda: torch.tensor(0.0)  # type: ignore[method-assign]
    trainer.objective.train = lambda mode=True: trainer.objective
    for step in range(steps):
        trainer.step(step)
    return found


@pytest.mark.parametrize("together", [2, 3])
def test_gradient_is_the_mean_of_the_tasks(corpus: Path, encoder_dir: Path, tmp_path: Path, together: int) -> None:
    off = ("train.smart=false", "train.proximal=false")
    single = gradients(make_setup(corpus, encoder_dir, tmp_path, *off), together)
    (mixed,) = gradients(make_setup(corpus, encoder_dir, tmp_path, *off, f"train.tasks_per_step={together}"), 1)
    names = {name for gradient in single for name in gradient}
    assert mixed.keys() == names
    for name in names:
        mean = sum(gradient[name] for gradient in single if name in gradient) / together
        torch.testing.assert_close(mixed[name], mean, rtol=1e-9, atol=1e-12)


def test_teacher_follows_by_the_mean_momentum_of_the_tasks_that_move_it(
    corpus: Path, encoder_dir: Path, tmp_path: Path
) -> None:
    """Whichever task a step is of; one whose term is off has no say."""
    betas = {"mood": 0.5, "strength": 0.75, "answer": 1.0}
    settings = [
        f"tasks.{name}.proximal.{key}={beta}" for name, beta in betas.items() for key in ("beta_early", "beta_late")
    ]
    settings += ["train.smart=false", "tasks.strength.proximal.inner_steps=2", "tasks.answer.proximal.weight=0"]
    trainer: Trainer = make_setup(corpus, encoder_dir, tmp_path, *settings).trainer(Log(), Hooks())
    require_momenta(trainer, (0.5, (0.5 + 0.75) / 2, 0.5))


def require_momenta(trainer: Trainer, betas: Sequence[float]) -> None:
    """That the teacher follows by these momenta in the first steps."""
    assert trainer.teacher is not None
    for step, beta in enumerate(betas):
        before = {name: tensor.clone() for name, tensor in trainer.teacher.named_tensors().items()}
        trainer.step(step)
        after = trainer.student.named_tensors()
        for name, tensor in trainer.teacher.named_tensors().items():
            expected = beta * before[name] + (1 - beta) * after[name].detach()
            torch.testing.assert_close(tensor, expected, rtol=1e-5, atol=1e-7)


def with_scaler(setup: RunSetup, monkeypatch: pytest.MonkeyPatch) -> tuple[Trainer, torch.amp.GradScaler]:
    """A trainer as under fp16, with a scaler of the CPU."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    monkeypatch.setattr(setup.accelerator, "scaler", scaler)
    trainer: Trainer = setup.trainer(Log(), Hooks())
    monkeypatch.setattr(  # which Accelerate does under fp16 only
        setup.accelerator, "unscale_gradients", lambda *_: scaler.unscale_(trainer.optimizer.optimizer)
    )
    return trainer, scaler


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_a_loss_scaler_does_not_hide_a_loss_that_is_not_finite(
    corpus: Path, encoder_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    setup = make_setup(
        corpus, encoder_dir, tmp_path, f"train.on_nonfinite={policy}", "train.max_skipped=1", "train.smart=false"
    )
    trainer, scaler = with_scaler(setup, monkeypatch)
    forward, broken = trainer.objective.forward, {1, 3}

    def poisoned(task: str, batch: Any, turn: int, share: Any) -> Any:
        loss, terms = forward(task, batch, turn, share)
        factor = math.inf if len(trainer._unwritten) in broken else 1.0
        return loss * factor, terms | {"loss": terms["loss"] * factor}

    monkeypatch.setattr(trainer.objective, "forward", poisoned)
    for step in range(3):
        before = {n: t.detach().clone() for n, t in (*named(trainer.student), *named(trainer.teacher))}
        trainer.step(step)
        same = all(torch.equal(t, before[n]) for n, t in (*named(trainer.student), *named(trainer.teacher)))
        assert same == (step == 1)
    assert scaler.get_scale() == 1.0, "it was lowered once"
    assert (trainer.state.nonfinite, trainer.state.skipped) == ((0, 1) if policy == "stop" else (1, 0))
    with pytest.raises(NonFiniteError, match="the task loss is inf"):
        if policy == "skip":
            trainer.step(3)
        trainer._flush()


@pytest.mark.parametrize("policy", ["stop", "skip"])
@pytest.mark.parametrize(
    ("term", "told"),
    {
        "loss": ["task 'strength', step 1: the task loss is nan; training rows"],
        "gradient": [f"task '{name}', step 1: the gradient is nan; training rows" for name in ("mood", "strength")],
    }.items(),
)
def test_of_a_step_s_tasks_the_one_whose_term_is_not_finite_is_named(
    corpus: Path, encoder_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str, term: str, told: Any
) -> None:
    settings = (f"train.on_nonfinite={policy}", "train.max_skipped=0", "train.smart=false", "train.tasks_per_step=2")
    trainer: Trainer = make_setup(corpus, encoder_dir, tmp_path, *settings).trainer(Log(), Hooks())
    forward = trainer.objective.forward

    def poisoned(task: str, batch: Any, turn: int, share: Any) -> Any:
        loss, terms = forward(task, batch, turn, share)
        factor = math.nan if task == "strength" else 1.0
        return loss * factor, terms | ({"loss": terms["loss"] * factor} if term == "loss" else {})

    monkeypatch.setattr(trainer.objective, "forward", poisoned)
    with pytest.raises(NonFiniteError) as error:
        trainer.step(0)
        trainer._flush()
    found = re.findall(r"task '\w+', step 1: the [a-z ]+ is nan; training rows", str(error.value))
    assert found == told


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_steps_that_a_loss_scaler_leaves_out_are_counted(
    corpus: Path, encoder_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Gradients overflow in the second step of three, on a scaler of the CPU: nothing moves, the teacher neither."""
    setup = make_setup(
        corpus, encoder_dir, tmp_path, f"optimizer.name={name}", "train.smart=false", "optimizer.weight_decay=0.5"
    )
    trainer, scaler = with_scaler(setup, monkeypatch)
    scale = scaler.scale
    moved, skipped = [], []
    for step in range(3):
        factor = math.inf if step == 1 else 1.0
        monkeypatch.setattr(scaler, "scale", lambda loss, factor=factor: scale(loss) * factor)
        before = {n: t.detach().clone() for n, t in (*named(trainer.student), *named(trainer.teacher))}
        trainer.step(step)
        after = dict((*named(trainer.student), *named(trainer.teacher)))
        moved.append({n.split(".")[0] for n, tensor in before.items() if not torch.equal(tensor, after[n])})
        skipped.append(trainer.state.skipped)
    assert skipped == [0, 1, 1]
    assert moved[1] == set() and moved[0] and moved[2]
    assert ["skipped" in record for record in trainer._unwritten] == [False, True, False]


@pytest.mark.parametrize("key", ["epsilon", "noise_std"])
def test_a_smoothness_that_is_always_0_is_refused(corpus: Path, encoder_dir: Path, tmp_path: Path, key: str) -> None:
    idle = (f"defaults.smart.{key}=0", "defaults.smart.steps=3")
    with pytest.raises(UserError, match=f"mood.smart.{key}: 0 makes R_s always 0"):
        make_setup(corpus, encoder_dir, tmp_path, *idle)
    for more in ("train.smart=false", "defaults.smart.dropout=independent"):
        make_setup(corpus, encoder_dir, tmp_path, *idle, more)
    assert main(["validate", str(corpus), "--leaks", "ignore", "--set", *idle]) == 2
    assert main(["validate", str(corpus), "--leaks", "ignore", "--set", *idle, "train.smart=false"]) == 0
    study = tmp_path / "study.yml"
    arm = {"phase": "train", "settings": {"defaults": {"smart": {key: 0}}}}
    grid = {"encoder": str(encoder_dir), "task_defs": [str(corpus)], "tasks": ["mood"], "seeds": [1]}
    study.write_text(json.dumps({**grid, "arms": {"plain": [{"phase": "train"}], "idle": [arm]}}))
    with pytest.raises(UserError, match=f"mood.smart.{key}: 0 makes R_s always 0"):
        read_study(study)


def named(model: Any) -> list[tuple[str, torch.Tensor]]:
    return [(f"{id(model)}.{name}", tensor) for name, tensor in model.named_tensors().items()]


def test_plan_counts_batches_not_steps(corpus: Path, encoder_dir: Path, tmp_path: Path) -> None:
    setup = make_setup(corpus, encoder_dir, tmp_path, "train.tasks_per_step=2")
    alone = make_setup(corpus, encoder_dir, tmp_path)
    assert setup.plan.sequence.shape == setup.plan.turns.shape == (12, 2)
    assert np.array_equal(setup.plan.sequence.ravel(), np.arange(24) % 3)
    assert setup.plan.turns[-1].tolist() == [7, 7]
    assert setup.plan.epoch_steps == math.ceil(alone.plan.epoch_steps / 2)
    assert sum(task.steps for task in setup.plan.tasks) == 24


def test_loss_scaling_makes_classifications_begin_at_one(corpus: Path, encoder_dir: Path, tmp_path: Path) -> None:
    run = make_setup(corpus, encoder_dir, tmp_path, "train.loss_scaling=log_classes", "tasks.mood.weight=2").run
    weights = {name: run.as_trained(name).weight for name in run.tasks}
    assert weights == {"mood": 2 / math.log(3), "strength": 1.0, "answer": 1.0}
