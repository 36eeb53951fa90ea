"""The faster dropout: its masks, its attention, and that nothing changes where there is no dropout."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from mtl.dropout import LEVELS, QuickDropout, quick_attention, quick_dropout, quicken_layers
from mtl.model import build_model
from mtl.taskdef import TaskDef

DATA = {"hub": "of/none", "columns": {"text_a": "text"}}
TASK = TaskDef.model_validate({"type": "regression", "data": DATA, "dropout": 0.3})


def draw_mask(shape: tuple[int, ...], rate: float, dtype: torch.dtype) -> torch.Tensor:
    return quick_dropout(torch.ones(shape, dtype=dtype), rate)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9, 1e-9])
def test_masks_keep_the_mean(rate: float) -> None:
    torch.manual_seed(0)
    mask = draw_mask((1000, 1001), rate, torch.float64)
    dropped = max(1, round(rate * LEVELS)) / LEVELS
    assert set(mask.unique().tolist()) <= {0.0, 1 / (1 - dropped)}
    share = float((mask == 0).double().mean())
    assert abs(share - dropped) < 5 * math.sqrt(dropped * (1 - dropped) / mask.numel())
    assert abs(dropped - rate) <= 1 / LEVELS


def test_every_place_of_a_word_of_bits_is_fair() -> None:
    """Four numbers share a draw of the generator: each of them has the rate, and none goes with another."""
    torch.manual_seed(0)
    zero = (draw_mask((250_000, 4), 0.25, torch.float64) == 0).double()
    deviation = math.sqrt(0.25 * 0.75 / len(zero))
    assert bool(((zero.mean(dim=0) - 0.25).abs() < 5 * deviation).all())
    together = torch.corrcoef(zero.T) - torch.eye(4, dtype=torch.float64)
    assert float(together.abs().max()) < 5 / math.sqrt(len(zero))


def test_masks_come_from_the_global_generator() -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = draw_mask((7, 3), 0.5, torch.float32)
    assert not torch.equal(first, draw_mask((7, 3), 0.5, torch.float32))
    torch.set_rng_state(state)
    assert torch.equal(first, draw_mask((7, 3), 0.5, torch.float32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_layer_and_its_gradient_have_one_mask(dtype: torch.dtype) -> None:
    layer, values = QuickDropout(0.4), torch.full((64, 33), 2.0, dtype=dtype, requires_grad=True)
    torch.manual_seed(1)
    output = layer(values)
    output.sum().backward()
    torch.manual_seed(1)
    mask = draw_mask(values.shape, 0.4, dtype)
    assert output.dtype == dtype and torch.equal(output, 2.0 * mask)
    assert values.grad is not None and torch.equal(values.grad, mask)


@pytest.mark.parametrize(("rate", "training"), [(0.0, True), (1.0, True), (0.5, False)])
def test_layer_is_pytorchs_own_where_nothing_is_drawn(rate: float, training: bool) -> None:
    values = torch.randn(5, 4)
    own, quick = nn.Dropout(rate).train(training), QuickDropout(rate).train(training)
    assert torch.equal(own(values), quick(values))


def make_query(masked: bool) -> tuple[list[torch.Tensor], torch.Tensor | None]:
    random = torch.Generator().manual_seed(5)
    tensors = [torch.randn(2, 3, 6, 4, generator=random, dtype=torch.float64) for _ in range(3)]
    return tensors, (torch.arange(6) < torch.tensor([[[[6]]], [[[4]]]])) if masked else None


class Layer(nn.Module):
    """An attention layer, as far as the function reads it."""

    def __init__(self, *, is_causal: bool) -> None:
        super().__init__()
        self.is_causal = is_causal


@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_its_formula(masked: bool) -> None:
    (query, key, value), mask = make_query(masked)
    torch.manual_seed(2)
    found, _ = quick_attention(Layer(is_causal=False), query, key, value, mask, dropout=0.25)
    torch.manual_seed(2)
    drops = draw_mask((2, 3, 6, 6), 0.25, torch.float64)
    expected = torch.zeros(2, 6, 3, 4, dtype=torch.float64)
    for row, head, place in torch.cartesian_prod(torch.arange(2), torch.arange(3), torch.arange(6)).tolist():
        seen = 6 if mask is None or row == 0 else 4
        scores = [float(query[row, head, place] @ key[row, head, other]) / 2.0 for other in range(seen)]
        total = sum(math.exp(score) for score in scores)
        for other in range(seen):
            weight = math.exp(scores[other]) / total * float(drops[row, head, place, other])
            expected[row, place, head] += weight * value[row, head, other]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_without_dropout_is_pytorchs(masked: bool) -> None:
    (query, key, value), mask = make_query(masked)
    found, _ = quick_attention(nn.Module(), query, key, value, mask, is_causal=False)
    expected = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2)
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("layer", "asked"), [(Layer(is_causal=True), None), (Layer(is_causal=False), True), (nn.Module(), None)]
)
def test_attention_of_a_causal_layer_sees_no_later_token(layer: nn.Module, asked: bool | None) -> None:
    (query, key, value), _ = make_query(False)
    later = value.clone()
    later[:, :, 1:] += 100.0
    outputs = []
    for values in (value, later):
        torch.manual_seed(2)
        outputs.append(quick_attention(layer, query, key, values, None, dropout=0.25, is_causal=asked)[0])
    assert torch.equal(outputs[0][:, 0], outputs[1][:, 0])
    assert not torch.equal(outputs[0][:, 1], outputs[1][:, 1])


def test_attention_has_the_scale_of_its_layer() -> None:
    (query, key, value), mask = make_query(True)
    found = []
    for factor, scaling in ((1.0, 0.1), (0.2, None)):  # 1/√(D/H) is ½
        torch.manual_seed(2)
        layer = Layer(is_causal=False)
        found.append(quick_attention(layer, query * factor, key, value, mask, dropout=0.25, scaling=scaling)[0])
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


def test_encoder_and_heads_use_it_and_exports_do_not_know_of_it(encoder_dir: Path, tmp_path: Path) -> None:
    model = build_model(str(encoder_dir), {"t": TASK}, seed=0)
    layers = [module for module in model.modules() if isinstance(module, nn.Dropout)]
    assert len(layers) > 5 and all(type(layer) is QuickDropout for layer in layers)
    assert model.encoder.config._attn_implementation != "sdpa"
    model.task_model("t").save_pretrained(tmp_path)
    assert "attn" not in (tmp_path / "config.json").read_text()


def test_other_kinds_of_dropout_are_left_alone() -> None:
    model = nn.Sequential(nn.Dropout1d(0.5), nn.Dropout(0.5, inplace=True), nn.Dropout(0.5))
    quicken_layers(model)
    assert [type(layer) for layer in model] == [nn.Dropout1d, nn.Dropout, QuickDropout]
