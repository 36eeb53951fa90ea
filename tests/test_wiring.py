"""Settings, seeds and numbers of steps reach the functions that are tested by themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_mixed_steps import make_setup, require_momenta, with_scaler

from mtl.batch import collate
from mtl.cli import main
from mtl.losses import LOSSES
from mtl.objective import by_example
from mtl.run_log import Log
from mtl.sampling import task_sequence
from mtl.subsets import repeated
from mtl.trainer import Hooks


def test_the_plan_is_drawn_as_the_settings_say(corpus: Path, encoder_dir: Path, tmp_path: Path) -> None:
    """By the batches of a pass, the run's seed and temperature, and in epochs of all tasks of their steps."""
    for strategy, temperature in (("temperature", 2.0), ("annealed", 5.0)):
        settings = [f"sampling.strategy={strategy}", f"sampling.temperature={temperature}", "train.max_steps=60"]
        settings += ["train.seed=7", "train.tasks_per_step=2", "tasks.mood.batch_size=4"]
        setup = make_setup(corpus, encoder_dir, tmp_path, *settings)
        sizes = [stream.per_pass for stream in setup.streams.values()]
        expected = task_sequence(
            sizes, strategy, 7, 120, epoch_steps=2 * setup.plan.epoch_steps, temperature=temperature
        )
        assert np.array_equal(setup.plan.sequence.ravel(), expected)


def test_runs_are_evaluated_after_each_epoch(corpus: Path, encoder_dir: Path, tmp_path: Path) -> None:
    plan = make_setup(corpus, encoder_dir, tmp_path).plan
    assert plan.evaluate_every == plan.epoch_steps < plan.steps


def test_settings_of_data_and_batches_reach_them(corpus: Path, encoder_dir: Path, tmp_path: Path) -> None:
    settings = ["train.train_fraction=0.5", "tasks.mood.max_length=5", "tasks.strength.batch_tokens=64"]
    setup = make_setup(corpus, encoder_dir, tmp_path, *settings)
    assert [len(setup.splits[name]["train"]) for name in ("mood", "strength")] == [45, 40]
    assert setup.splits["mood"]["train"].lengths.max() == 5 < setup.splits["strength"]["train"].lengths.max()
    lengths = setup.splits["strength"]["train"].lengths
    stream = setup.streams["strength"]
    assert all(len(b) * lengths[b].max() <= 64 for b in (stream[turn] for turn in range(stream.per_pass)))
    assert setup.plan.evaluate_every == min(setup.plan.epoch_steps, setup.plan.steps)


def test_everything_that_is_drawn_follows_the_seed(corpus: Path, encoder_dir: Path, tmp_path: Path) -> None:
    def draws(seed: int) -> dict[str, Any]:
        settings = [f"train.seed={seed}", "train.holdout=0.2", "sampling.strategy=sqrt"]
        with torch.random.fork_rng(devices=[]):
            setup = make_setup(corpus, encoder_dir, tmp_path, *settings)
            dropout = torch.rand(8).tolist()
        few = make_setup(corpus, encoder_dir, tmp_path, f"train.seed={seed}", "train.train_size=10")
        mood, strength = setup.splits["mood"], setup.streams["strength"]
        tensors = setup.objective.model.named_tensors()
        return {
            "dropout": dropout,
            "noise": setup.objective.seed,
            "few-shot rows": few.splits["mood"]["train"].rows.tolist(),
            "held-out rows": mood["holdout"].rows.tolist(),
            "batches": np.concatenate([strength[turn] for turn in range(strength.per_pass)]).tolist(),
            "tasks": setup.plan.sequence.tolist(),
            "heads": next(t for name, t in tensors.items() if name.startswith("heads.mood.")).tolist(),
        }

    first, again, other = draws(1), draws(1), draws(2)
    assert first == again
    assert [what for what, drawn in first.items() if drawn == other[what]] == []


def test_a_fresh_head_of_an_adaptation_follows_the_seed(corpus: Path, encoder_dir: Path, tmp_path: Path) -> None:
    start, short = tmp_path / "start", ["--max-steps", "1", "--batch-size", "8", "--no-smart", "--no-proximal"]
    words = ["train", str(corpus), "--encoder", str(encoder_dir), "--tasks", "mood", *short]
    assert main([*words, "--output", str(start)]) == 0
    heads = []
    for seed in ("1", "2"):
        words = ["adapt", str(start), "--task", "mood", "--head", "fresh", "--seed", seed, *short]
        assert main([*words, "--learning-rate", "1e-12", "--output", str(tmp_path / seed)]) == 0
        heads.append(load_file(tmp_path / seed / "model" / "heads.safetensors")["mood.classifier.weight"])
    assert (heads[0] - heads[1]).abs().max() > 1e-3


def test_rows_like_held_out_ones_are_not_trained_on(corpus: Path, encoder_dir: Path, tmp_path: Path) -> None:
    for policy, trained_on in (("warn", True), ("drop", False)):
        setup = make_setup(corpus, encoder_dir, tmp_path, f"leaks={policy}", "train.holdout=0.2")
        mood = setup.splits["mood"]
        assert bool(repeated(mood["train"], [mood["holdout"]])) == trained_on


def test_a_steps_rate_is_the_mean_of_its_tasks_and_a_multiple_in_the_heads(
    corpus: Path, encoder_dir: Path, tmp_path: Path
) -> None:
    settings = ["train.smart=false", "train.proximal=false", "train.tasks_per_step=2", "optimizer.head_factor=4"]
    settings += ["tasks.mood.learning_rate=1e-3", "tasks.strength.learning_rate=3e-3", "schedule.warmup=0.25"]
    trainer = make_setup(corpus, encoder_dir, tmp_path, *settings).trainer(Log(), Hooks())
    trainer.step(0)
    rate = 2e-3 / 3  # the first of three steps of warm-up
    assert [record["learning_rate"] for record in trainer._unwritten] == pytest.approx([rate, rate])
    rates = {id(p): group["lr"] for group in trainer.optimizer.param_groups for p in group["params"]}
    for name, parameter in trainer.student.named_tensors().items():
        behind = name.startswith(("heads.", "encoder.pooler."))
        assert rates[id(parameter)] == pytest.approx(rate * 4 if behind else rate), name


def test_a_steps_loss_is_the_mean_over_its_examples(corpus: Path, encoder_dir: Path, tmp_path: Path) -> None:
    """In ranking over the queries that have a relevant candidate, into however many pieces a batch is cut."""
    setup = make_setup(
        corpus, encoder_dir, tmp_path, "train.smart=false", "train.proximal=false", "train.accumulation=2"
    )
    trainer = setup.trainer(Log(), Hooks())
    trainer.objective.eval()
    trainer.objective.train = lambda mode=True: trainer.objective
    for step, (name, task) in enumerate(setup.run.tasks.items()):
        batch = collate(setup.splits[name]["train"], setup.streams[name][0], setup.pad_id, task.type)
        assert task.loss is not None
        with torch.no_grad():
            logits, mask = by_example(setup.objective.model(name, batch), batch)
        losses = LOSSES[task.loss](logits, batch.labels, mask)
        counted = (batch.labels > 0).any(dim=1) if task.type == "ranking" else torch.ones(len(batch)).bool()
        trainer.step(step)
        assert float(trainer._unwritten[-1]["loss"]) == pytest.approx(float(losses[counted].mean()), rel=1e-4), name


def test_the_momentum_of_the_teacher_switches_after_the_step_that_was_done(
    corpus: Path, encoder_dir: Path, tmp_path: Path
) -> None:
    settings = ["train.smart=false", "defaults.proximal.switch=0.25"]  # of 12 steps
    settings += ["defaults.proximal.beta_early=0.5", "defaults.proximal.beta_late=0.75"]
    trainer = make_setup(corpus, encoder_dir, tmp_path, *settings).trainer(Log(), Hooks())
    require_momenta(trainer, (0.5, 0.5, 0.5, 0.75))


class Scripted(Hooks):
    """Hooks whose evaluations are known beforehand."""

    def __init__(self, *results: Any) -> None:
        self.results = iter(results)

    def evaluate(self) -> Any:
        return next(self.results)


def test_the_first_metric_of_the_first_split_selects_the_best_step(
    corpus: Path, encoder_dir: Path, tmp_path: Path
) -> None:
    """By its direction, the earliest of equals; what was last is kept beside it."""

    def scores(accuracy: float, macro_f1: float, mse: float, of_test: float) -> dict[str, Any]:
        return {
            "mood": {
                "validation": {"accuracy": accuracy, "macro_f1": macro_f1},
                "test": {"accuracy": of_test, "macro_f1": of_test},
            },
            "strength": {"validation": {"mse": mse, "pearson": mse}},
        }

    script = [scores(0.5, 0.9, 2.0, 0.1), scores(0.7, 0.1, 1.0, 0.4), scores(0.6, 0.95, 3.0, 0.9)]
    script += [scores(0.65, 0.99, 2.5, 0.8), scores(0.7, 0.9, 1.0, 0.9)]
    setup = make_setup(corpus, encoder_dir, tmp_path, "tasks.strength.metrics=[mse, pearson]")
    hooks: Any = Scripted(*script)
    trainer = setup.trainer(Log(), hooks)
    stale = []
    for step in range(1, 6):
        trainer.state.step = step
        trainer._evaluate()
        stale.append(trainer.state.stale)
    assert {name: best.step for name, best in trainer.state.best.items()} == {"mood": 2, "strength": 2}
    assert trainer.state.best["mood"].splits == script[1]["mood"] and trainer.state.last == script[-1]
    assert stale == [0, 0, 1, 2, 3]


def test_a_run_goes_on_while_any_task_improves(corpus: Path, encoder_dir: Path, tmp_path: Path) -> None:
    values = [(0.5, 0.5), (0.6, 0.4), (0.5, 0.6), (0.6, 0.6)]
    script = [{"mood": {"validation": {"accuracy": a}}, "strength": {"validation": {"pearson": b}}} for a, b in values]
    trainer = make_setup(corpus, encoder_dir, tmp_path).trainer(Log(), Scripted(*script))
    stale = []
    for step in range(1, 5):
        trainer.state.step = step
        trainer._evaluate()
        stale.append(trainer.state.stale)
    assert stale == [0, 0, 0, 1]


def test_balanced_class_weights_are_of_the_rows_trained_on(corpus: Path, encoder_dir: Path, tmp_path: Path) -> None:
    """Of ten rows, whose classes are not as frequent as those of the file or of the validation rows."""
    setup = make_setup(corpus, encoder_dir, tmp_path, "tasks.mood.class_weights=balanced", "train.train_size=10")
    labels = setup.splits["mood"]["train"].labels
    expected = [len(labels) / 3 / (labels == index).sum() for index in range(3)]
    assert len(set(expected)) > 1
    assert setup.objective.tasks["mood"].class_weights == pytest.approx(expected)


def test_the_loss_scaler_goes_on_from_a_checkpoint(
    corpus: Path, encoder_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = make_setup(corpus, encoder_dir, tmp_path, "train.smart=false", "train.proximal=false")
    trainer, scaler = with_scaler(setup, monkeypatch)
    trainer.step(0)
    scaler.update(8.0)
    checkpoint = trainer.tensors.snapshot(trainer.state)
    trainer.tensors.scaler = again = torch.amp.GradScaler("cpu", init_scale=2.0)
    trainer.tensors.restore(checkpoint)
    assert again.get_scale() == 8.0
