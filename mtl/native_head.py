"""The head of a native sequence-classification model: every module outside the base model."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from transformers.utils import logging as transformers_logging

from mtl.errors import UserError

# Configuration keys of the head's dropout, by architecture; all of them that a configuration has are set.
HEAD_DROPOUT_KEYS = ("classifier_dropout", "cls_dropout", "seq_classif_dropout", "classifier_dropout_prob")


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hide the library's loading reports and progress bars, because a fresh head is expected here."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def head_of(model: PreTrainedModel) -> nn.ModuleDict:
    """The modules of a model outside its base model, by name."""
    head = nn.ModuleDict({name: child for name, child in model.named_children() if name != model.base_model_prefix})
    shared = {id(p) for p in model.base_model.parameters()}
    assert {id(p) for p in model.parameters()} == shared | {id(p) for p in head.parameters()}, "parameters outside both"
    return head


class FullLinear(nn.Linear):
    """Linear layer that stays in float32 under autocast, since bf16 rounds a year such as 2019 to a multiple of 8."""

    def forward(self, input: Tensor) -> Tensor:
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.to(self.weight.dtype))


def last_linear(head: nn.Module) -> tuple[str, nn.Linear] | None:
    """Name and module of the last linear layer with a single output, None if there is none."""
    layers = head.named_modules()
    linear = [(name, layer) for name, layer in layers if isinstance(layer, nn.Linear) and layer.out_features == 1]
    return linear[-1] if linear else None


def keep_output_precise(model: PreTrainedModel) -> None:
    """Let the last layer of a regression compute in float32 under autocast."""
    found = last_linear(head_of(model))
    if found is not None and type(found[1]) is nn.Linear:
        found[1].__class__ = FullLinear


def set_dropout(head: nn.Module, probability: float) -> None:
    """Set the probability of a head's dropout layers, except where the architecture has others and this one is off."""
    layers = [module for module in head.modules() if isinstance(module, nn.Dropout)]
    for layer in [layer for layer in layers if layer.p > 0] or layers:
        layer.p = probability


def pretrained_head(
    loaded: PreTrainedModel, config: Any, fresh: set[str], *, trust_remote_code: bool
) -> dict[str, Tensor]:
    """Parameters of head layers that the checkpoint holds completely and that do not depend on the labels."""
    layers = [
        {f"{name}.{key}": tensor for key, tensor in child.named_parameters()}
        for name, child in loaded.named_children()
        if name != loaded.base_model_prefix
    ]
    known = [layer for layer in layers if layer and not layer.keys() & fresh]
    if not known:
        return {}
    other = copy.deepcopy(config)
    other.num_labels = loaded.config.num_labels + 1
    with torch.device("meta"), quiet_transformers():
        model = AutoModelForSequenceClassification.from_config(other, trust_remote_code=trust_remote_code)
    shapes = {key: parameter.shape for key, parameter in model.named_parameters()}
    free = [layer for layer in known if all(tensor.shape == shapes[key] for key, tensor in layer.items())]
    return {key: tensor.detach() for layer in free for key, tensor in layer.items()}


@torch.no_grad()
def start_with(model: PreTrainedModel, known: Mapping[str, Tensor]) -> None:
    """Copy pretrained layers into a fresh head.

    Args:
        model: The model.
        known: The layers' parameters, by their names in the model.

    Raises:
        UserError: The head has no such parameter, or one of another shape.
    """
    own = dict(model.named_parameters())
    for name, tensor in known.items():
        if name not in own or own[name].shape != tensor.shape:
            raise UserError.of(
                "--encoder", f"its stored layer {name} does not fit the head of {model.config.model_type}"
            )
        own[name].copy_(tensor)
