"""Faster dropout on the CPU, where drawing masks by `bernoulli_` takes a good part of a training step.

Random numbers are drawn 64 bits at a time, with 16 bits per element. Rates are therefore rounded to multiples of 2⁻¹⁶,
and kept elements are divided by the exact probability of being kept. Other devices use PyTorch's own dropout.

Legend: B rows, T tokens, D width of the layer, H attention heads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "sdpa_quick_dropout"
LEVELS = 1 << 16


def quick_dropout(values: Tensor, rate: float) -> Tensor:
    """Each element independently becomes 0 with probability `rate`, else v/(1 − rate); uses the CPU's global generator.

    Args:
        values: v, on the CPU.
        rate: Dropout probability, above 0 and below 1.
    """
    levels = min(max(1, round(rate * LEVELS)), LEVELS - 1)
    numbers = values.numel()
    bits = torch.empty((numbers + 3) // 4, dtype=torch.int64).random_(-(1 << 63), None)
    dropped = bits.view(torch.int16)[:numbers].view(values.shape) < levels - LEVELS // 2
    # masked_fill saves only the mask for the backward pass, one byte per element; a product would save its factor.
    return values.masked_fill(dropped, 0.0).mul_(LEVELS / (LEVELS - levels))


class QuickDropout(nn.Dropout):
    """`nn.Dropout`, faster on the CPU."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or input.device.type != "cpu" or not 0 < self.p < 1:
            return super().forward(input)
        return quick_dropout(input, self.p)


def quick_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """Scaled dot-product attention, written out for dropout on the CPU, where PyTorch has no fused kernel.

    In all other cases, among them causal attention, PyTorch's `scaled_dot_product_attention` is used.

    Args:
        module: The attention layer.
        query: (B, H, T, D/H), as `key` and `value`.
        key: Keys.
        value: Values.
        attention_mask: True where a query may attend, broadcastable to (B, H, T, T).
        dropout: Dropout probability of the attention weights.
        scaling: Factor of the scores; 1/√(D/H) when None.
        is_causal: Whether queries attend to earlier positions only.
        options: Further arguments that some architectures pass to `sdpa`.

    Returns:
        Outputs (B, T, H, D/H), and None in place of attention weights.
    """
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal  # as in Transformers
    plain = (
        query.shape == key.shape and not causal and not any(o is not None and o is not False for o in options.values())
    )
    readable = attention_mask is None or attention_mask.dtype == torch.bool
    if query.device.type != "cpu" or not 0 < dropout < 1 or not plain or not readable:
        found: tuple[Tensor, Tensor | None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **options
        )
        return found
    scores = (query * (query.shape[-1] ** -0.5 if scaling is None else scaling)) @ key.transpose(2, 3)
    if attention_mask is not None:
        scores.masked_fill_(~attention_mask, -torch.inf)
    weights = quick_dropout(scores.softmax(dim=-1), dropout)
    return (weights @ value).transpose(1, 2).contiguous(), None


def quicken_layers(module: nn.Module) -> None:
    """Replace all dropout layers in a module by the faster ones."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Dropout and not child.inplace:
                setattr(parent, name, QuickDropout(child.p).train(child.training))


def quicken_attention(model: PreTrainedModel) -> None:
    """Use the faster dropout in a model's attention too, if that is PyTorch's scaled dot-product attention."""
    if model.config._attn_implementation == "sdpa":
        AttentionInterface.register(ATTENTION, quick_attention)
        AttentionMaskInterface.register(ATTENTION, sdpa_mask)
        model.set_attn_implementation(ATTENTION)
