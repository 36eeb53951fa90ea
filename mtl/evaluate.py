"""Outputs of a model over a whole split, in source order, and the metrics and predictions computed from them.

Legend: N examples, C outputs of the head.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mtl.batch import Batch, collate, evaluation_batches, send
from mtl.data import Examples, Ints
from mtl.errors import UserError
from mtl.files import new_file
from mtl.intervals import Interval, intervals
from mtl.metrics import baseline, compute
from mtl.predictions import Predictions
from mtl.processes import Processes
from mtl.ranking_metrics import candidate_ranks
from mtl.shards import is_sharded
from mtl.taskdef import TaskDef

Outputs: TypeAlias = npt.NDArray[np.float32]

# Tokens of a batch, padding included: few enough for the caches of a CPU, enough to keep an accelerator busy.
BATCH_TOKENS = {"cpu": 2_048, "accelerator": 16_384}


@torch.no_grad()  # not inference_mode, in which autocast would convert the weights again for every batch
def split_outputs(
    module: nn.Module,
    forward: Callable[[Batch], Tensor],
    examples: Examples,
    task: TaskDef,
    pad_id: int,
    *,
    batch_tokens: int | None = None,
    width: int | None = None,
    processes: Processes | None = None,
) -> Outputs:
    """Compute the head's raw outputs on a split, in evaluation mode and returned as float32.

    They stay on the device until all are computed, so that an accelerator never waits for a copy.

    Args:
        module: The module that `forward` runs; its training mode is restored.
        forward: Computes the outputs of a batch.
        examples: The split.
        task: Its task.
        pad_id: The tokenizer's padding id.
        batch_tokens: Maximum tokens of a batch, padding included; by default that of the device in `BATCH_TOKENS`.
        width: C, if `forward` returns more than the task's own outputs.
        processes: Processes that share the work; each returns all outputs.

    Returns:
        (N, C), in the order of the split.
    """
    device = next(module.parameters()).device
    outputs = torch.zeros(len(examples), width or task.num_labels, device=device)
    tokens = batch_tokens or BATCH_TOKENS["cpu" if device.type == "cpu" else "accelerator"]
    rank, count = (0, 1) if processes is None else (processes.rank, processes.count)
    training = module.training
    module.eval()
    try:
        batches = evaluation_batches(examples.lengths, tokens)
        for chosen in batches[rank::count]:
            batch = collate(examples, chosen, pad_id, task.type).to(device)
            places = send(torch.from_numpy(chosen), device)  # before the forward pass, or it would wait for that
            outputs[places] = forward(batch).float()
        if is_sharded(module) and 0 < len(batches) % count <= rank:
            # Lower ranks compute one batch more, for which they need this process's shards.
            forward(collate(examples, batches[0], pad_id, task.type).to(device))
    finally:
        module.train(training)
    if processes is not None:
        outputs = processes.total(outputs)  # each row is 0 in all processes but one
    return outputs.cpu().numpy()


def score(task: TaskDef, outputs: Outputs, examples: Examples) -> dict[str, float]:
    """The task's metrics on a split and its number of rows, `n`; in ranking also its number of `queries`.

    `queries_without_relevant` of them have no relevant candidate: they count as 0, except in the metrics of answerable
    queries, which leave them out.
    """
    return counts(task, examples) | compute(task.metrics, task.type, outputs, *_truth(task, examples))


def score_intervals(task: TaskDef, predictions: Predictions, examples: Examples) -> dict[str, Interval]:
    """95 % intervals of the metrics that `score` computes, from stored predictions.

    Raises:
        UserError: The predictions are of other rows.
    """
    if not np.array_equal(predictions.rows, examples.rows):
        raise UserError.of("predictions", f"are of {len(predictions.rows):,} rows, but not the evaluated ones")
    return intervals(task.metrics, task.type, predictions.outputs, *_truth(task, examples))


def _truth(task: TaskDef, examples: Examples) -> tuple[npt.NDArray[Any], Ints | None]:
    """Class indices, values or relevances, (N,), and in ranking the query numbers, (N,)."""
    labels = examples.labels if task.type != "classification" else examples.labels.astype(np.int64)
    return labels, examples.groups if task.type == "ranking" else None


def counts(task: TaskDef, examples: Examples) -> dict[str, float]:
    """Number of rows of a split and, in ranking, of its queries."""
    if task.type != "ranking":
        return {"n": len(examples)}
    queries = len(np.unique(examples.groups))
    without = queries - len(np.unique(examples.groups[examples.labels > 0]))
    return {"n": len(examples), "queries": queries, "queries_without_relevant": without}


def score_baseline(task: TaskDef, train: Examples, examples: Examples) -> dict[str, float]:
    """Metrics of a baseline that reads no text: majority class, mean value or random order."""
    return baseline(task.type, task.metrics, _truth(task, train)[0], *_truth(task, examples))


def prediction_records(task: TaskDef, outputs: Outputs, examples: Examples) -> Iterator[dict[str, Any]]:
    """One record per row, in source order.

    Classification gives `label` and `probabilities`, regression `value`, ranking `score` and `rank` among the query's
    candidates (1 is best; of equal scores the later row ranks first, as in the metrics).
    """
    if task.type == "ranking":
        ranks = candidate_ranks(outputs[:, 0], examples.groups)
        for row, value, rank in zip(examples.rows.tolist(), outputs[:, 0].tolist(), ranks.tolist(), strict=True):
            yield {"row": row, "score": value, "rank": rank}
    elif task.type == "regression":
        for row, value in zip(examples.rows.tolist(), outputs[:, 0].tolist(), strict=True):
            yield {"row": row, "value": value}
    else:
        probabilities = torch.from_numpy(outputs).softmax(dim=-1).numpy()
        for row, shares in zip(examples.rows.tolist(), probabilities.tolist(), strict=True):
            best = max(range(len(shares)), key=shares.__getitem__)
            yield {"row": row, "label": task.labels[best], "probabilities": dict(zip(task.labels, shares, strict=True))}


def write_predictions(path: Path, records: Iterator[dict[str, Any]]) -> None:
    """Write records as JSON lines, completely or not at all."""
    with new_file(path) as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
