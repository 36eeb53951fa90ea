"""A run in miniature: token lengths of the data, and one real training step of every task."""

from __future__ import annotations

import resource
import sys
import time
from typing import Any

import torch

from mtl.architecture import architecture_warnings
from mtl.batch import collate
from mtl.data import Examples, load_tokenizer
from mtl.errors import UserError
from mtl.objective import Share
from mtl.optimizer import make_optimizer
from mtl.preflight import Checked
from mtl.processes import Processes
from mtl.ready import get_ready, longest_input, prepare_splits
from mtl.trainer import TERM_NAMES


def lengths(checked: Checked) -> dict[tuple[str, str], dict[str, Any]]:
    """Token figures of every split: of how many examples, total, mean, longest, how many are truncated to what."""
    tokenizer = load_tokenizer(checked.encoder, trust_remote_code=checked.run.config.trust_remote_code)
    limit = longest_input(checked, tokenizer)
    splits = prepare_splits(checked, tokenizer, limit)
    return {
        (name, split): {
            "examples": len(part),
            "tokens": int(part.lengths.sum()),
            "mean_length": float(part.lengths.mean()),
            "longest": int(part.lengths.max()),
            "truncated": int(part.truncated.sum()),
            "max_length": min(checked.run.tasks[name].max_length, limit),
        }
        for name, parts in splits.items()
        for split, part in parts.items()
    }


def try_steps(checked: Checked) -> dict[str, Any]:
    """Runs one forward, backward and optimizer step of every task on its largest batch, all its terms on.

    Returns:
        `plan` (see `make_plan`), its `steps` and `epoch_steps`; of each task `batch` (its shape), `loss`, `terms` and
        `seconds`; of the whole run about how many `seconds` and, so far, bytes of `peak_memory`.

    Raises:
        UserError: A loss is not finite.
    """
    ready = get_ready(checked, Processes.current())
    run, plan, objective, accelerator = ready.run, ready.plan, ready.objective, ready.accelerator
    architecture_warnings(objective, ready.streams, ready.tokenizer)
    if objective.teacher is not None:
        objective.teacher.to(accelerator.device)
    optimizer = make_optimizer(objective.model.named_tensors(), run.config.optimizer)
    rows, seconds = [], 0.0
    for row, (name, stream) in zip(plan.rows, ready.streams.items(), strict=True):
        chosen = max((stream[turn] for turn in range(stream.per_pass)), key=lambda c: _padded(stream.examples, c))
        batch = collate(stream.examples, chosen, ready.pad_id, run.tasks[name].type).to(accelerator.device)
        objective.train()
        start = time.perf_counter()
        with accelerator.autocast():
            loss, terms = objective(name, batch, 0, Share.whole(batch))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        value = float(loss.detach())
        took = time.perf_counter() - start
        if not torch.isfinite(torch.tensor(value)):
            raise UserError.of(name, f"the loss of a first step is {value}")
        mean = row["tokens"] / max(1, row["steps"])
        seconds += row["steps"] * took * min(1.0, mean / _padded(stream.examples, chosen))
        rows.append(
            {
                "task": name,
                "batch": list(batch.input_ids.shape),
                "loss": value,
                "terms": [term for term in terms if term in TERM_NAMES],
                "seconds": took,
            }
        )
    return {
        "plan": plan.rows,
        "steps": plan.steps,
        "epoch_steps": plan.epoch_steps,
        "tasks": rows,
        "seconds": seconds,
        "peak_memory": _peak_memory(accelerator.device),
    }


def _padded(examples: Examples, chosen: Any) -> int:
    return int(examples.lengths[chosen].max()) * len(chosen)


def _peak_memory(device: torch.device) -> int:
    """Bytes: the device's peak where it counts one, else the process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
