"""Regressions with labels of any size train as on standardised labels, and speak in the labels' own units."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_jsonl
from safetensors.torch import load_file
from test_mixed_steps import make_setup
from test_model import TASKS
from torch import nn
from transformers import AutoModelForSequenceClassification, Qwen3Config

from mtl.cli import main
from mtl.errors import UserError
from mtl.model import build_model
from mtl.native_head import FullLinear, quiet_transformers
from mtl.optimizer import OPTIMIZERS
from mtl.run_log import Log
from mtl.run_setup import RunSetup
from mtl.scale import Scale, scale_of
from mtl.trainer import Hooks

LAST = "heads.price.classifier"
MEAN, SIZE = 34_000.0, 12_000.0


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([0.0, 5.0], Scale()),
        ([0.0, 1.0], Scale()),
        ([-30.0, 10.0], Scale(-10.0, 20.0)),
        ([2000.0, 2002.0], Scale(2001.0, 1.0)),
        ([0.01, 0.03], Scale(0.02, 0.01)),
        ([12345.6, 12345.6], Scale()),
        ([0.0, 0.0], Scale()),
        ([float("nan"), 0.0, 100.0], Scale(50.0, 50.0)),
    ],
)
def test_scales_by_hand(labels: list[float], expected: Scale) -> None:
    found = scale_of(np.array(labels))
    assert (found.mean, found.size) == pytest.approx((expected.mean, expected.size))


@pytest.mark.parametrize(("labels", "standardize"), [([0.0, 5.0], True), ([0.0, 500.0], False), ([7.0, 7.0], True)])
def test_scales_that_are_asked_for(labels: list[float], standardize: bool) -> None:
    wide = standardize and labels[0] != labels[1]
    assert scale_of(np.array(labels), standardize) == (Scale(2.5, 2.5) if wide else Scale())


def prices(folder: Path, mean: float, size: float) -> Path:
    """A regression that a model learns from single words; its labels have about this mean and spread."""
    draw = random.Random(0)
    words = {"shack": -1.5, "flat": -0.5, "house": 0.5, "palace": 1.5}
    for split, rows in (("train", 96), ("validation", 24)):
        found = [draw.choice(list(words)) for _ in range(rows)]
        write_jsonl(folder / f"{split}.jsonl", [{"text": f"a {w}", "label": mean + size * words[w]} for w in found])
    path = folder / "tasks.yml"
    data = "{files: {train: train.jsonl, validation: validation.jsonl}, columns: {text_a: text}}"
    path.write_text(f"price: {{type: regression, data: {data}, metrics: [rmse, pearson], dropout: 0.0}}\n")
    return path


def trained(setup: RunSetup, steps: int) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    """The terms of some steps, and the weights after them."""
    trainer = setup.trainer(Log(), Hooks())
    trainer.objective.eval()
    trainer.objective.train = lambda mode=True: trainer.objective
    for step in range(steps):
        trainer.step(step)
    terms = [{key: float(record[key]) for key in ("loss", "smart", "proximal")} for record in trainer._unwritten]
    return terms, {name: tensor.detach() for name, tensor in trainer.student.named_tensors().items()}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("mean", "size"), [(34_000.0, 12_000.0), (0.02, 0.001)])
def test_it_is_training_on_standardised_labels(
    mean: float, size: float, optimizer: str, encoder_dir: Path, tmp_path: Path
) -> None:
    settings = ["train.clip_norm=0.5", f"optimizer.name={optimizer}", "defaults.batch_size=8"]
    settings += ["optimizer.weight_decay=0.1", "optimizer.epsilon=1e-6"]
    settings += ["defaults.smart.epsilon=0.5", "defaults.learning_rate=1e-3"]
    large = make_setup(prices(tmp_path / "large", mean, size), encoder_dir, tmp_path, *settings)
    labels = large.splits["price"]["train"].labels
    scale = Scale(float(labels.mean()), float(labels.std()))
    assert large.splits["price"]["train"].label_scale == scale.size
    standard = prices(tmp_path / "standard", (mean - scale.mean) / scale.size, size / scale.size)
    plain = make_setup(standard, encoder_dir, tmp_path, *settings)
    assert plain.splits["price"]["train"].label_scale == 1 and plain.objective.model.scales == {}
    expected_terms, expected = trained(plain, 6)
    terms, found = trained(large, 6)
    for one, other in zip(terms, expected_terms, strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-6)
    assert expected_terms[-1]["proximal"] > 0 < expected_terms[-1]["smart"]
    found[f"{LAST}.weight"] = found[f"{LAST}.weight"] / scale.size
    found[f"{LAST}.bias"] = (found[f"{LAST}.bias"] - scale.mean) / scale.size
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-4, msg=name)


def test_labels_of_usual_size_are_trained_on_as_they_are(encoder_dir: Path, tmp_path: Path) -> None:
    setup = make_setup(prices(tmp_path / "usual", 2.5, 1.5), encoder_dir, tmp_path)
    assert setup.splits["price"]["train"].label_scale == 1 and setup.objective.model.scales == {}
    assert setup.objective.model.named_tensors()[f"{LAST}.bias"].tolist() == [0], (
        "a fresh head does not start at the mean"
    )
    path = prices(tmp_path / "usual", 2.5, 1.5)
    asked = make_setup(path, encoder_dir, tmp_path, "tasks.price.standardize=true").splits["price"]["train"]
    assert asked.label_scale == pytest.approx(asked.labels.std()) and asked.label_scale != 1


def test_a_head_without_bias_cannot_start_far_from_0(tmp_path: Path) -> None:
    config = Qwen3Config(
        **{"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 16},
        **{"num_key_value_heads": 1, "intermediate_size": 32, "pad_token_id": 1, "max_position_embeddings": 64},
    )
    with quiet_transformers():
        AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    model = build_model(str(tmp_path), {"price": TASKS["degree"]}, seed=0)
    weight = model.named_tensors()["heads.price.score.weight"].detach().clone()
    with pytest.raises(UserError, match="a mean of 2000 and a standard deviation of 10, which the head of qwen3"):
        model.scale_output("price", Scale(2000.0, 10.0), fresh=True)
    model.scale_output("price", Scale(2000.0, 10.0), fresh=False)  # a trained head got there
    model.scale_output("price", Scale(20.0, 10.0), fresh=True)
    assert torch.equal(model.named_tensors()["heads.price.score.weight"], 10 * weight)


def test_half_precision_keeps_the_digits_of_an_output(encoder_dir: Path, tmp_path: Path) -> None:
    model = make_setup(prices(tmp_path / "years", 2000.0, 8.0), encoder_dir, tmp_path).objective.model
    last = next(module for module in model.modules() if isinstance(module, FullLinear))
    hidden = torch.randn(3, last.in_features)
    with torch.autocast("cpu", torch.bfloat16):
        exact, rounded = last(hidden.bfloat16()), nn.Linear.forward(last, hidden.bfloat16())
    assert exact.dtype == torch.float32 and (exact - rounded.float()).abs().max() > 1
    torch.testing.assert_close(exact, nn.functional.linear(hidden.bfloat16().float(), last.weight, last.bias))


@pytest.mark.parametrize(("mean", "size"), [(2010.0, 5.0), (0.5, 0.001)])
def test_years_are_trained_on_and_predicted_in_half_precision(
    mean: float, size: float, encoder_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Outputs of a fresh head differ little relative to their mean, and bf16 has three digits."""
    path, run = prices(tmp_path / "data", mean, size), tmp_path / "run"
    words = ["--max-steps", "60", "--batch-size", "16", "--learning-rate", "3e-3", "--set", "evaluation.every=30"]
    assert main(["train", str(path), "--encoder", str(encoder_dir), "--output", str(run), *words]) == 0
    capsys.readouterr()
    assert main(["export", str(run), "--output", str(tmp_path / "export")]) == 0
    file = tmp_path / "houses.jsonl"
    write_jsonl(file, [{"text": f"a {word}"} for word in ("shack", "flat", "house", "palace")])
    for source, weights in ((run, "best"), (run, "final"), (tmp_path / "export" / "price", "best")):
        values = {}
        for precision in ("fp32", "bf16"):
            output = tmp_path / f"{source.name}-{weights}-{precision}.jsonl"
            more = ["--weights", weights] if source == run else []
            more = [*more, "--precision", precision, "--output", str(output)]
            assert main(["predict", str(source), "--input", str(file), *more]) == 0, capsys.readouterr().err
            values[precision] = [json.loads(line)["value"] for line in output.read_text().splitlines()]
        assert max(values["fp32"]) - min(values["fp32"]) > size
        assert values["bf16"] == pytest.approx(values["fp32"], abs=size / 5)


def test_a_run_learns_prices_and_its_export_gives_them(
    encoder_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, run = prices(tmp_path / "data", MEAN, SIZE), tmp_path / "run"
    words = ["--max-steps", "40", "--batch-size", "16", "--learning-rate", "3e-3", "--set", "evaluation.every=20"]
    assert main(["train", str(path), "--encoder", str(encoder_dir), "--output", str(run), *words]) == 0
    out = capsys.readouterr().out
    assert "note: price: labels have a standard deviation of " in out
    results = json.loads((run / "results.json").read_text())
    rmse, guess = (results[key]["price"]["validation"]["rmse"] for key in ("tasks", "baselines"))
    assert rmse < guess / 2
    losses = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(record["loss"] < 30 for record in losses if record["event"] == "step"), "in units of the spread"
    assert main(["export", str(run), "--output", str(tmp_path / "export")]) == 0, "which compares the logits"
    bias = load_file(tmp_path / "export" / "price" / "model.safetensors")["classifier.bias"]
    assert bias == pytest.approx(MEAN, rel=0.5)

    capsys.readouterr()
    short = ["--max-steps", "1", "--learning-rate", "1e-9", "--no-smart", "--no-proximal"]
    assert main(["adapt", str(run), "--task", "price", "--output", str(tmp_path / "few"), *short]) == 0
    again = json.loads((tmp_path / "few" / "results.json").read_text())["tasks"]["price"]["validation"]["rmse"]
    last = results["last"]["price"]["validation"]["rmse"]
    assert again == pytest.approx(last, rel=1e-3), "a head that is kept starts where it was"
    words = ["adapt", str(run), "--task", "price", "--head", "fresh", "--output", str(tmp_path / "fresh"), *short]
    assert main(words) == 0
    heads = load_file(tmp_path / "fresh" / "model" / "heads.safetensors")
    assert float(heads["price.classifier.bias"]) == pytest.approx(MEAN, rel=0.2), "a fresh one at the labels' mean"
