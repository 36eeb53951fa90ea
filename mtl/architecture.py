"""Checks of an encoder's architecture: outputs independent of padding and of other rows, and perturbable embeddings.

Most architectures pass. Without the checks, the others would silently train on something else than was asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from mtl.batch import Batch, BatchStream, collate
from mtl.data import Examples
from mtl.errors import UserError, first_line, listed
from mtl.model import MultiTaskModel
from mtl.objective import Objective
from mtl.tokenizer import usable_length

CHANGE = 1e-3  # relative difference of outputs that is more than rounding
ROOM = 4  # columns of padding to add


@torch.no_grad()
def architecture_warnings(objective: Objective, streams: Mapping[str, BatchStream], tokenizer: Any) -> list[str]:
    """Test the model on two short training rows, without dropout; no generator is advanced.

    Args:
        objective: Student on its device, and the tasks.
        streams: Training batches.
        tokenizer: The encoder's tokenizer, for its padding.

    Returns:
        Warnings for the user, if outputs depend on padding or the texts of a pair are not told apart.

    Raises:
        UserError: The encoder cannot be run on texts alone, expects padding on the left, or does not let its word
            embeddings be perturbed.
    """
    name, stream = next(iter(streams.items()))
    model, kind, examples = objective.model, objective.model.encoder.config.model_type, stream.examples
    rows, pad_id = np.argsort(examples.lengths, kind="stable")[:2], int(tokenizer.pad_token_id)
    batch = collate(examples, rows, pad_id, objective.tasks[name].type).to(model.device)
    room = usable_length(tokenizer, model.encoder.config) - batch.input_ids.shape[1]
    padded = _padded(batch, max(0, min(ROOM, room)), pad_id)
    # The outputs of a regression may all be near a large mean, such as that of years.
    spread = float(np.nanstd(examples.labels)) if objective.tasks[name].type == "regression" else math.inf
    training = model.training
    model.eval()
    try:
        clean = _first_outputs(model, name, batch)
        mixes = _differ(model(name, padded), clean, spread)
        if mixes and tokenizer.padding_side == "left":
            raise UserError.of("--encoder", f"{kind} expects padding on the left, which is not supported")
        smooth = any(task.smart.weight > 0 and task.smart.epsilon > 0 for task in objective.tasks.values())
        if smooth and not _lets_in(objective, name, batch, clean, spread):
            message = f"the word embeddings of {kind} cannot be perturbed, as SMART requires; use --no-smart"
            raise UserError.of("--encoder", message)
    finally:
        model.train(training)
    warnings = [f"outputs of {kind} depend on how far a batch is padded, thus on its other rows"] if mixes else []
    pairs = [name for name, task in objective.tasks.items() if task.is_pair]
    if pairs and _runs_together(tokenizer):
        warnings.append(f"{listed(pairs)}: the tokenizer of {kind} marks no boundary between the texts of a pair")
    return warnings


def require_known_tokens(model: MultiTaskModel, splits: Mapping[str, Mapping[str, Examples]], tokenizer: Any) -> None:
    """Refuse token ids beyond the embeddings, on which a GPU would stop at some batch with hardly a message.

    Only ids that occur are looked at: some tokenizers have more tokens than their encoder has embeddings.

    Raises:
        UserError: A token of the data, or the padding token, has no embedding.
    """
    try:
        rows = len(model.word_embeddings.weight)
    except UserError:  # no table
        return
    found = [examples.largest_id for parts in splits.values() for examples in parts.values()]
    largest = max(int(tokenizer.pad_token_id), *found)
    if largest >= rows:
        token = tokenizer.convert_ids_to_tokens(largest)
        message = f"the id of {token!r} is {largest:,} in the tokenizer, but there are only {rows:,} embeddings"
        raise UserError.of("--encoder", f"{message}; enlarge them (resize_token_embeddings) and save the model again")


def _runs_together(tokenizer: Any) -> bool:
    """Whether a pair of texts is encoded as one text after the other, with nothing that tells them apart."""
    pair = tokenizer("one", "two")
    single = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("one", "two")]
    ids, joined = list(pair["input_ids"]), [*single[0], *single[1]]
    adjacent = bool(joined) and any(ids[start : start + len(joined)] == joined for start in range(len(ids)))
    return adjacent and len(set(pair.get("token_type_ids", [0]))) == 1


def _first_outputs(model: MultiTaskModel, name: str, batch: Batch) -> Tensor:
    try:
        outputs: Tensor = model(name, batch)
    except torch.OutOfMemoryError:
        raise
    except (ValueError, TypeError, NotImplementedError, RuntimeError, LookupError, AttributeError) as error:
        message = f"{model.encoder.config.model_type} cannot be run on texts alone: {first_line(error)}"
        raise UserError.of("--encoder", message) from error
    return outputs


def _padded(batch: Batch, more: int, pad_id: int) -> Batch:
    """The batch with `more` further columns of padding."""
    types = batch.token_type_ids
    return replace(
        batch,
        input_ids=pad(batch.input_ids, (0, more), value=pad_id),
        attention_mask=pad(batch.attention_mask, (0, more)),
        token_type_ids=None if types is None else pad(types, (0, more)),
    )


def _differ(one: Tensor, other: Tensor, spread: float) -> bool:
    """Whether outputs differ by more than rounding, relative to the largest or to the spread of the labels."""
    scale = torch.maximum(one.abs().max(), other.abs().max())
    return bool((one - other).abs().max() > CHANGE * (scale.clamp(max=spread) if spread > 0 else scale))


def _lets_in(objective: Objective, name: str, batch: Batch, clean: Tensor, spread: float) -> bool:
    """Whether a perturbation of the first row's embeddings changes the outputs of that row and of no other."""
    delta = torch.zeros(*batch.input_ids.shape, objective.model.width, device=clean.device)
    delta[0] = torch.linspace(-1, 1, delta.shape[-1], device=clean.device) * objective.embedding_rms * 10
    try:
        moved = objective.model(name, batch, delta)
    except (ValueError, AttributeError, TypeError):  # the embedding module does not return vectors of this shape
        return False
    changed = [_differ(one, other, spread) for one, other in zip(moved, clean, strict=True)]
    return changed[0] and not any(changed[1:])
