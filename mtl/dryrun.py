"""Dry run: token lengths of the data, and one real training step of every task."""

from __future__ import annotations

import math
import time
from typing import Any

import torch

from mtl.batch import collate, micro_batches
from mtl.data import Examples, Ints
from mtl.errors import UserError
from mtl.objective import Share
from mtl.optimizer import make_optimizer
from mtl.preflight import Checked
from mtl.processes import Processes
from mtl.run_setup import RunSetup, check_model, longest_input, prepare_splits, set_up
from mtl.rundir import peak_memory
from mtl.tokenizer import load_tokenizer
from mtl.trainer import TERM_NAMES


def lengths(checked: Checked) -> dict[tuple[str, str], dict[str, Any]]:
    """Token statistics of every split: number of examples, total, mean and longest, and truncation."""
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


def try_steps(checked: Checked) -> tuple[dict[str, Any], list[str]]:
    """Run one forward, backward and optimizer step of every task on its largest batch, with all its terms on.

    Returns:
        The facts: rows of the `plan` (see `make_plan`), its `steps` and `epoch_steps`; for each of the `tasks` the
        shape of its `batch`, the number of `parts` it is split into, `loss`, `terms` and `seconds`; an estimate of
        the run's `seconds`, and the `peak_memory` so far, in bytes. Then the warnings that a run would show.

    Raises:
        UserError: A loss is not finite, or the run would be refused for another reason.
    """
    setup = set_up(checked, Processes.current())
    run, plan, objective, accelerator = setup.run, setup.plan, setup.objective, setup.accelerator
    warnings = check_model(setup)
    optimizer = make_optimizer(objective.model.named_tensors(), run.config.optimizer, objective.model.units)
    rows, seconds, on_accelerator = [], 0.0, accelerator.device.type != "cpu"
    for row, (name, stream) in zip(plan.rows, setup.streams.items(), strict=True):
        chosen = max((stream[turn] for turn in range(stream.per_pass)), key=lambda c: _padded(stream.examples, c))
        for _ in range(1 + on_accelerator):  # an accelerator's first step also loads its kernels
            start = time.perf_counter()
            loss, terms, parts = _step(setup, name, chosen)
            optimizer.step()
            optimizer.zero_grad()
            if on_accelerator:
                torch.accelerator.synchronize()
            took = time.perf_counter() - start
        if not math.isfinite(loss):
            raise UserError.of(name, f"the loss of a first step is {loss}")
        mean = row["tokens"] / max(1, row["steps"])
        every = min(run.tasks[name].smart.every, max(1, row["steps"]))
        cost = sum(objective.cost(name, turn) for turn in range(every)) / every / objective.cost(name, 0)
        seconds += row["steps"] * took * min(1.0, mean / _padded(stream.examples, chosen)) * cost
        rows.append(
            {
                "task": name,
                "batch": [len(chosen), int(stream.examples.lengths[chosen].max())],
                "parts": parts,
                "loss": loss,
                "terms": terms,
                "seconds": took,
            }
        )
    facts = {
        "plan": plan.rows,
        "steps": plan.steps,
        "epoch_steps": plan.epoch_steps,
        "tasks": rows,
        "seconds": seconds,
        "peak_memory": _peak_memory(accelerator.device),
    }
    return facts, warnings


def _step(setup: RunSetup, name: str, chosen: Ints) -> tuple[float, list[str], int]:
    """Forward and backward pass of a task's step; returns the objective, the names of its terms and the parts."""
    run, objective, accelerator = setup.run, setup.objective, setup.accelerator
    examples, kind = setup.streams[name].examples, run.tasks[name].type
    ranking, total, terms = kind == "ranking", 0.0, list[str]()
    share = Share.of(examples, chosen, ranking=ranking)
    pieces = [p for p in micro_batches(examples, chosen, run.config.train.accumulation, ranking=ranking) if len(p)]
    objective.train()
    for piece in pieces:
        batch = collate(examples, piece, setup.pad_id, kind).to(accelerator.device)
        with accelerator.autocast():
            loss, found = objective(name, batch, 0, share)
        loss.backward()
        total, terms = total + float(loss.detach()), [term for term in found if term in TERM_NAMES]
    return total, terms, len(pieces)


def _padded(examples: Examples, chosen: Any) -> int:
    return int(examples.lengths[chosen].max()) * len(chosen)


def _peak_memory(device: torch.device) -> int:
    """Peak memory in bytes: of the device with CUDA, else of the process."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_memory()
