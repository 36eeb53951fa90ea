"""Whether an encoder's architecture keeps rows apart, from padding and from each other, and lets perturbations in.

Most do; the rest would train on something else than what was asked for without a word.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from mtl.batch import Batch, BatchStream, collate
from mtl.errors import UserError, first_line
from mtl.model import MultiTaskModel
from mtl.objective import Objective
from mtl.tokenizer import usable_length

CHANGE = 1e-3  # of the greatest logit, from which outputs differ by more than rounding
ROOM = 4  # columns of padding that are tried


@torch.no_grad()
def architecture_warnings(objective: Objective, streams: Mapping[str, BatchStream], tokenizer: Any) -> list[str]:
    """Tries the model on two short training rows, without dropout; no generator is consumed.

    Args:
        objective: Student on its device, and the tasks.
        streams: Training batches.
        tokenizer: Whose padding is tried.

    Returns:
        What a user should know: outputs that depend on padding.

    Raises:
        UserError: The encoder expects padding on the left, or does not let its word embeddings be perturbed.
    """
    name, stream = next(iter(streams.items()))
    model, kind, examples = objective.model, objective.model.encoder.config.model_type, stream.examples
    rows, pad_id = np.argsort(examples.lengths, kind="stable")[:2], int(tokenizer.pad_token_id)
    batch = collate(examples, rows, pad_id, objective.tasks[name].type).to(model.device)
    room = usable_length(tokenizer, model.encoder.config) - batch.input_ids.shape[1]
    padded = _padded(batch, max(0, min(ROOM, room)), pad_id)
    training = model.training
    model.eval()
    try:
        clean = _first_outputs(model, name, batch)
        mixes = _differ(model(name, padded), clean)
        if mixes and tokenizer.padding_side == "left":
            raise UserError.of("--encoder", f"{kind} expects padding on the left, which is not supported")
        smooth = any(task.smart.weight > 0 and task.smart.epsilon > 0 for task in objective.tasks.values())
        if smooth and not _lets_in(objective, name, batch, clean):
            message = f"the word embeddings of {kind} cannot be perturbed, as SMART does; use --no-smart"
            raise UserError.of("--encoder", message)
    finally:
        model.train(training)
    return [f"outputs of {kind} depend on how far a batch is padded, and so on the other rows of it"] if mixes else []


def _first_outputs(model: MultiTaskModel, name: str, batch: Batch) -> Tensor:
    try:
        outputs: Tensor = model(name, batch)
    except torch.OutOfMemoryError:
        raise
    except (ValueError, TypeError, NotImplementedError, RuntimeError, IndexError) as error:
        message = f"{model.encoder.config.model_type} cannot be run on texts alone: {first_line(error)}"
        raise UserError.of("--encoder", message) from error
    return outputs


def _padded(batch: Batch, more: int, pad_id: int) -> Batch:
    """The batch with further columns of padding."""
    types = batch.token_type_ids
    return replace(
        batch,
        input_ids=pad(batch.input_ids, (0, more), value=pad_id),
        attention_mask=pad(batch.attention_mask, (0, more)),
        token_type_ids=None if types is None else pad(types, (0, more)),
    )


def _differ(one: Tensor, other: Tensor) -> bool:
    scale = torch.maximum(one.abs().max(), other.abs().max())
    return bool((one - other).abs().max() > CHANGE * scale)


def _lets_in(objective: Objective, name: str, batch: Batch, clean: Tensor) -> bool:
    """Whether a perturbation of the first row changes its outputs and no other row's."""
    delta = torch.zeros(*batch.input_ids.shape, objective.model.width, device=clean.device)
    delta[0] = torch.linspace(-1, 1, delta.shape[-1], device=clean.device) * objective.embedding_rms * 10
    try:
        moved = objective.model(name, batch, delta)
    except (ValueError, AttributeError, TypeError):  # the table gives something else than vectors
        return False
    return _differ(moved[0], clean[0]) and not any(map(_differ, moved[1:], clean[1:]))
