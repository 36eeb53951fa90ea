"""Exports: one directory per task that plain Transformers loads, verified by reloading it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from transformers.dynamic_module_utils import custom_object_save

from mtl.batch import collate
from mtl.card import CARD_FILE, model_card
from mtl.checks import Row
from mtl.config import dump_tasks
from mtl.data import encode
from mtl.errors import UserError, load_failure
from mtl.facts import Facts
from mtl.files import new_directory, write_file
from mtl.model import HEADS_FILE, MultiTaskModel, build_model, head_tensors, load_model
from mtl.native_head import keep_output_precise, quiet_transformers
from mtl.run_files import TASK_FILE
from mtl.taskdef import TaskDef
from mtl.tokenizer import load_tokenizer, usable_length
from mtl.trained_tasks import WEIGHTS, TrainedTasks

TOLERANCE = 1e-5  # maximum absolute difference between the logits of a model and of its export

PROBE = (
    ("A man is playing the guitar.", "Somebody makes music."),
    ("The committee has not reached a decision yet, although it met twice in March.", "It decided in March."),
    ("Is this 42 or 4.2 %? – naïve café", "?"),
)


class ExportError(Exception):
    """An export does not reproduce the logits of its model."""


@dataclass(frozen=True)
class Loaded:
    """One task's model, definition and tokenizer.

    Attributes:
        task: The task definition.
        model: A Transformers sequence-classification model.
        tokenizer: Its tokenizer.
    """

    task: TaskDef
    model: PreTrainedModel
    tokenizer: Any

    @property
    def limit(self) -> int:
        """Maximum input length in tokens."""
        return min(self.task.max_length, usable_length(self.tokenizer, self.model.config))


def save_model(model: MultiTaskModel, tokenizer: Any, folder: Path) -> None:
    """Writes the encoder as a Transformers base model, and all heads in one safetensors file."""
    task_model = model.task_model(model.tasks[0])
    with new_directory(folder) as new:
        if task_model._auto_class is not None:  # custom code, which the encoder's save_pretrained would not write
            custom_object_save(task_model, new, model.encoder.config)
        with quiet_transformers():
            model.encoder.save_pretrained(new)
        padding_on_the_right(tokenizer).save_pretrained(new)
        save_file(head_tensors(model), new / HEADS_FILE)


def save_export(
    loaded: Loaded, name: str, folder: Path, facts: Facts, *, verify: bool, trust_remote_code: bool = False
) -> None:
    """Writes one task as a plain Transformers model, atomically.

    Args:
        loaded: Model, tokenizer and task.
        name: Name of the task.
        folder: Target directory; an earlier export there is replaced.
        facts: Information for the model card.
        verify: Whether to reload the export and compare logits.
        trust_remote_code: Whether the model may run its own code when it is reloaded.

    Raises:
        ExportError: The reloaded logits differ by more than `TOLERANCE`.
    """
    with new_directory(folder) as new:
        with quiet_transformers():
            loaded.model.save_pretrained(new)
        padding_on_the_right(loaded.tokenizer).save_pretrained(new)
        (new / TASK_FILE).write_text(dump_tasks({name: loaded.task}), encoding="utf-8")
        card = model_card(name, loaded.task, facts, loaded.limit, own_code=_has_code(new))
        (new / CARD_FILE).write_text(card, encoding="utf-8")
        difference = largest_difference(loaded, new, trust_remote_code=trust_remote_code) if verify else 0.0
        if not difference <= TOLERANCE:
            raise ExportError(
                f"{name}: the reloaded export differs by {difference:.2g} in its logits; nothing was written"
            )


def renew_card(folder: Path, name: str, task: TaskDef, facts: Facts, limit: int) -> None:
    """Rewrites the model card of an export, if the export exists."""
    if (folder / TASK_FILE).is_file():
        write_file(folder / CARD_FILE, model_card(name, task, facts, limit, own_code=_has_code(folder)))


def _has_code(folder: Path) -> bool:
    """Whether Transformers saved Python files with the model, as it does for classes outside the library."""
    return any(folder.glob("*.py"))


@torch.inference_mode()
def largest_difference(loaded: Loaded, folder: Path, *, trust_remote_code: bool = False) -> float:
    """Reloads an export with plain Transformers; largest absolute difference of logits on `PROBE`.

    The trained model gets batches of this package, the export those of its own tokenizer, as its users will.
    """
    again = _load_export(folder, loaded.task, trust_remote_code=trust_remote_code)
    pair = loaded.task.is_pair
    rows = [Row(index, a, b if pair else None, None, None) for index, (a, b) in enumerate(PROBE)]
    examples = encode(rows, loaded.tokenizer, loaded.tokenizer.model_max_length)
    batch = collate(examples, np.arange(len(rows)), loaded.tokenizer.pad_token_id, "classification")
    first, second = [row.text_a for row in rows], [row.text_b for row in rows] if pair else None
    inputs = again.tokenizer(first, second, padding=True, truncation=True, return_tensors="pt")
    names = set(again.tokenizer.model_input_names)
    logits = _logits(loaded.model, batch.inputs)
    others = _logits(again.model, {name: tensor for name, tensor in inputs.items() if name in names})
    return float((logits - others).abs().max())


def _logits(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> Tensor:
    training, device = model.training, next(model.parameters()).device
    model.eval()
    try:
        logits: Tensor = model(**{name: tensor.to(device) for name, tensor in inputs.items()}).logits
    finally:
        model.train(training)
    return logits.float().cpu()


def padding_on_the_right(tokenizer: Any) -> Any:
    """A copy of a tokenizer that pads as training does."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.padding_side = "right"
    tokenizer.init_kwargs["padding_side"] = "right"  # what is saved: some classes pad on the left by default
    return tokenizer


def task_of(model: MultiTaskModel, name: str, task: TaskDef, tokenizer: Any) -> Loaded:
    """One task of a multi-task model, in the form in which it is exported."""
    task_model = model.task_model(name)
    tokenizer = padding_on_the_right(tokenizer)  # a copy, as model_max_length is set per task
    tokenizer.model_max_length = min(task.max_length, usable_length(tokenizer, task_model.config))
    return Loaded(task, task_model, tokenizer)


def load_tasks(trained: TrainedTasks, *, trust_remote_code: bool = False) -> dict[str, Loaded]:
    """Loads the models of tasks.

    Args:
        trained: The tasks, from `find_tasks`.
        trust_remote_code: Whether the models may run their own code.

    Raises:
        UserError: A model cannot be loaded.
    """
    if trained.shared is None:
        load = partial(_load_export, trust_remote_code=trust_remote_code)
        return {name: load(trained.folders[name], task) for name, task in trained.tasks.items()}
    model = load_model(trained.shared, trained.tasks, trust_remote_code=trust_remote_code)
    tokenizer = load_tokenizer(str(trained.shared), trust_remote_code=trust_remote_code)
    return {name: task_of(model, name, task, tokenizer) for name, task in trained.tasks.items()}


def _load_export(path: Path, task: TaskDef, *, trust_remote_code: bool) -> Loaded:
    try:
        with quiet_transformers():
            model = AutoModelForSequenceClassification.from_pretrained(
                path, dtype=torch.float32, use_safetensors=True, trust_remote_code=trust_remote_code
            )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise UserError.of(str(path), f"cannot be loaded: {load_failure(error)}") from error
    if task.type == "regression":
        keep_output_precise(model)
    return Loaded(task, model, load_tokenizer(str(path), trust_remote_code=trust_remote_code))


def load_encoder(run_dir: Path, *, trust_remote_code: bool = False) -> tuple[PreTrainedModel, Any]:
    """A run's shared encoder after the last step, with its tokenizer.

    Args:
        run_dir: The run.
        trust_remote_code: Whether the encoder may run its own code.

    Raises:
        UserError: The run has none, because it is not finished.
    """
    folder = run_dir / WEIGHTS["final"]
    if not folder.is_dir():
        raise UserError.of(
            str(run_dir), "has no shared encoder yet: the run is not finished; continue it with --resume"
        )
    encoder = build_model(str(folder), {}, seed=0, trust_remote_code=trust_remote_code).encoder
    return encoder, load_tokenizer(str(folder), trust_remote_code=trust_remote_code)
