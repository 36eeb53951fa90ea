"""One shared encoder and, for each task, the sequence-classification head of the encoder's own architecture.

Legend: B rows, T tokens, D width of the word embedding, C outputs of a head.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from mtl.batch import Batch
from mtl.dropout import quicken_attention, quicken_layers
from mtl.errors import UserError, load_failure
from mtl.native_head import (
    HEAD_DROPOUT_KEYS,
    head_of,
    keep_output_precise,
    last_linear,
    pretrained_head,
    quiet_transformers,
    set_dropout,
    start_with,
)
from mtl.sampling import derive_seed
from mtl.scale import Scale
from mtl.taskdef import TaskDef
from mtl.tokenizer import COUNT_FROM_PADDING

PROBLEM_TYPES = {
    "classification": "single_label_classification",
    "regression": "regression",
    "ranking": "regression",
}
HEADS_FILE = "heads.safetensors"
PRETRAINED = ".pretrained."  # prefix, in this file, of the pretrained layers that fresh heads take; no task's name


class MultiTaskModel(nn.Module):
    """Several native Transformers models that share one base model.

    Each task has a complete `…ForSequenceClassification` whose base model is the shared one, so that an export is that
    model itself. Parameters are registered once, under `encoder` and under `heads` by task.

    Args:
        encoder: The shared base model.
        task_models: Task name to its model, all built around `encoder`.
        pretrained: Pretrained parameters of layers before the output, with which a fresh head starts.
    """

    def __init__(
        self,
        encoder: PreTrainedModel,
        task_models: Mapping[str, PreTrainedModel],
        pretrained: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.pretrained = dict(pretrained or {})
        self.heads = nn.ModuleDict({head_key(task): head_of(model) for task, model in task_models.items()})
        self._task_models = dict(task_models)  # a plain dict, so that shared parameters are not registered again
        self.scales: dict[str, float] = {}  # name in `named_tensors` to magnitude, where not about 1; see `scale`

    @property
    def tasks(self) -> list[str]:
        return list(self._task_models)

    @property
    def device(self) -> torch.device:
        return next(self.encoder.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.encoder.parameters()).dtype

    @property
    def word_embeddings(self) -> nn.Embedding:
        """The table that turns token ids into vectors, before positions, types and normalisation."""
        table: Any = None
        with suppress(NotImplementedError):
            table = self.encoder.get_input_embeddings()
        if not hasattr(table, "weight"):  # Perceiver's is a bare parameter
            message = f"{self.encoder.config.model_type} has no table of word embeddings, which SMART perturbs"
            raise UserError.of("--encoder", f"{message}; use --no-smart")
        module: nn.Embedding = table
        return module

    @property
    def width(self) -> int:
        """D, the size of the word embeddings."""
        return int(self.word_embeddings.weight.shape[-1])

    def task_model(self, task: str) -> PreTrainedModel:
        return self._task_models[task]

    def pad_with(self, pad_id: int) -> None:
        """Set the tokenizer's padding id in all configurations: some architectures find the last real token by it.

        Where positions are counted from the padding id, the encoder's own stays, as it is part of the weights' meaning.
        """
        for model in (self.encoder, *self._task_models.values()):
            counts = model.config.model_type in COUNT_FROM_PADDING
            for config in (model.config, getattr(model.config, "text_config", model.config)):
                if not counts or getattr(config, "pad_token_id", None) is None:
                    config.pad_token_id = pad_id

    @torch.no_grad()
    def scale_output(self, task: str, scale: Scale, *, fresh: bool) -> None:
        """Prepare a regression's last layer for labels of another magnitude; see `scale`.

        Args:
            task: The task's name.
            scale: Scale of its training labels.
            fresh: Whether its head is new; if so, its last layer is multiplied by s and its bias shifted by the mean.

        Raises:
            UserError: The labels are far from 0, and a fresh head has no bias that could start at their mean.
        """
        name, last = last_linear(self.heads[head_key(task)]) or ("", None)
        if fresh and scale.is_far and (last is None or last.bias is None):
            told = f"labels have a mean of {scale.mean:.4g} and a standard deviation of {scale.size:.4g}"
            why = f"which the head of {self.encoder.config.model_type}, having no bias, cannot reach"
            raise UserError.of(task, f"{told}, {why}; subtract a constant from all labels")
        if last is None:  # such a head is left as it is
            return
        self.scales |= {f"heads.{task}.{name}.{key}": scale.size for key, _ in last.named_parameters()}
        if fresh:
            for parameter in last.parameters():
                parameter.mul_(scale.size)
            if last.bias is not None:
                last.bias.add_(scale.mean)

    def train(self, mode: bool = True) -> MultiTaskModel:
        super().train(mode)
        for model in self._task_models.values():
            model.training = mode
        return self

    def forward(self, task: str, batch: Batch, delta: Tensor | None = None) -> Tensor:
        """The task's logits.

        Args:
            task: The task's name.
            batch: Its rows.
            delta: Perturbation of the word embeddings, (B, T, D). It is added inside the architecture's own forward
                pass, so that positions, types and normalisation are applied once, whatever the architecture.

        Returns:
            (B, C).
        """
        inputs = batch.inputs
        if delta is None:
            logits: Tensor = self._task_models[task](**inputs).logits
            return logits
        types = inputs.get("token_type_ids")

        def perturb(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            # GPT-2 looks token types up here too.
            of_types = types is not None and any(ids.data_ptr() == types.data_ptr() for ids in args[:1])
            return output if of_types else _perturbed(output, delta)

        handle = self.word_embeddings.register_forward_hook(perturb)
        try:
            logits = self._task_models[task](**inputs).logits
        finally:
            handle.remove()
        return logits

    def named_tensors(self) -> dict[str, Tensor]:
        """All parameters by names that do not depend on the other tasks: `encoder.…`, `heads.TASK.…`."""
        tensors = {f"encoder.{name}": tensor for name, tensor in self.encoder.named_parameters()}
        for task in self.tasks:
            head = self.heads[head_key(task)]
            tensors |= {f"heads.{task}.{name}": tensor for name, tensor in head.named_parameters()}
        return tensors

    @torch.no_grad()
    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy tensors into the parameters of the same names.

        Raises:
            ValueError: A name or shape differs.
        """
        own = self.named_tensors()
        if own.keys() != tensors.keys():
            raise ValueError(f"the names differ: {sorted(own.keys() ^ tensors.keys())[:4]}")
        for name, parameter in own.items():
            if parameter.shape != tensors[name].shape:
                raise ValueError(
                    f"{name}: expected the shape {tuple(parameter.shape)}, got {tuple(tensors[name].shape)}"
                )
            parameter.copy_(tensors[name])


def _perturbed(embedded: Tensor, delta: Tensor) -> Tensor:
    """Add δ to word embeddings; padding that an architecture itself appends is not perturbed.

    Raises:
        ValueError: The embeddings have another shape than δ.
    """
    more = embedded.shape[1] - delta.shape[1] if embedded.dim() == 3 else 0
    if more > 0:
        delta = nn.functional.pad(delta, (0, 0, 0, more))
    if embedded.shape != delta.shape:
        raise ValueError(f"expected word embeddings of shape {tuple(delta.shape)}, got {tuple(embedded.shape)}")
    return embedded + delta


def layers(encoder: nn.Module) -> list[nn.Module]:
    """Layers of an encoder: the entries of its first `ModuleList`, with nested lists flattened."""
    found = next(module for module in encoder.modules() if isinstance(module, nn.ModuleList))
    while any(isinstance(child, nn.ModuleList) for child in found):  # blocks of layers
        found = nn.ModuleList(
            layer for block in found for layer in (block if isinstance(block, nn.ModuleList) else [block])
        )
    return list(found)


def head_key(task: str) -> str:
    """Name of the head's module; a bare task name could clash with an attribute of `ModuleDict`."""
    return f"{task}_head"


def build_model(
    encoder: str, tasks: Mapping[str, TaskDef], *, seed: int, trust_remote_code: bool = False
) -> MultiTaskModel:
    """Load a pretrained encoder and give every task a fresh head.

    A head depends only on the seed and its task's name, not on the other tasks. Its layers before the output layer take
    pretrained weights if the checkpoint has them (ModernBERT's `head`), as in Transformers.

    Args:
        encoder: Directory or hub id, as returned by `encoder.find_encoder`.
        tasks: Task name to definition.
        seed: The run's seed.
        trust_remote_code: Whether the encoder's repository may run code of its own.

    Raises:
        UserError: The encoder cannot be loaded, or its architecture has no sequence-classification class.
    """
    try:
        with quiet_transformers(), torch.random.fork_rng(devices=[]):
            config = AutoConfig.from_pretrained(encoder, trust_remote_code=trust_remote_code)
            loaded, report = AutoModelForSequenceClassification.from_pretrained(
                encoder,
                num_labels=1,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
            )
    except (OSError, ValueError, ImportError, KeyError, RuntimeError, SafetensorError, UnpicklingError) as error:
        raise UserError.of(encoder, f"cannot be loaded as a text encoder: {load_failure(error)}") from error
    base = loaded.base_model
    if getattr(config, "attention_type", None) == "block_sparse":  # BigBird switches by itself, and for good
        (base.get_encoder() if config.is_encoder_decoder else base).set_attention_type("original_full")
        base.config.attention_type = config.attention_type = "original_full"
    quicken_attention(base)
    fresh = {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}
    known = pretrained_head(loaded, config, fresh, trust_remote_code=trust_remote_code)
    if (heads := Path(encoder) / HEADS_FILE).is_file():
        known |= _of(PRETRAINED, _read_heads(heads))
    task_models = {
        name: _task_model(base, config, name, task, seed, known, trust_remote_code=trust_remote_code)
        for name, task in tasks.items()
    }
    return MultiTaskModel(base, task_models, known)


def _task_model(
    base: PreTrainedModel,
    config: Any,
    name: str,
    task: TaskDef,
    seed: int,
    known: Mapping[str, Tensor],
    *,
    trust_remote_code: bool,
) -> PreTrainedModel:
    config = copy.deepcopy(config)
    labels = task.labels if task.type == "classification" else [name]
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}
    config.problem_type = PROBLEM_TYPES[task.type]
    config.sentence_transformers = {"activation_fn": "torch.nn.modules.linear.Identity"}  # CrossEncoder's is a sigmoid
    for key in HEAD_DROPOUT_KEYS:
        if hasattr(config, key):
            setattr(config, key, task.dropout)
    with torch.device("meta"), quiet_transformers():
        model = AutoModelForSequenceClassification.from_config(config, trust_remote_code=trust_remote_code)
    setattr(model, model.base_model_prefix, base)
    for child_name, child in model.named_children():
        if child_name != model.base_model_prefix:
            child.to_empty(device="cpu")
    with torch.random.fork_rng(devices=[]):
        # Only the CPU's generator, as fork_rng does not restore an accelerator's here.
        torch.default_generator.manual_seed(derive_seed(seed, "head", name))
        model.initialize_weights()  # leaves the base model alone, which is marked as initialised
    if not list(head_of(model).parameters()):  # Perceiver
        message = f"{config.model_type} keeps its head inside the encoder, so that tasks cannot have heads of their own"
        raise UserError.of("--encoder", message)
    start_with(model, known)
    set_dropout(head_of(model), task.dropout)
    if task.type == "regression":
        keep_output_precise(model)
    quicken_layers(model)
    model.float().train(base.training)
    return model


def load_model(
    folder: str | Path,
    tasks: Mapping[str, TaskDef],
    heads: Mapping[str, str | None] | None = None,
    *,
    seed: int = 0,
    trust_remote_code: bool = False,
) -> MultiTaskModel:
    """Load the shared encoder and the heads that `save_model` wrote.

    Args:
        folder: A run's `model` directory.
        tasks: Tasks to give a head.
        heads: Task to the task whose stored head it takes, or None for a fresh one; by default each takes its own.
        seed: Seed of the fresh heads.
        trust_remote_code: Whether the directory may run code of its own.

    Raises:
        UserError: The directory holds no such model, lacks a head, or does not fit the task definitions.
    """
    model = build_model(str(folder), tasks, seed=seed, trust_remote_code=trust_remote_code)
    path = Path(folder) / HEADS_FILE
    stored = _read_heads(path)
    own = {f"encoder.{name}": parameter for name, parameter in model.encoder.named_parameters()}
    for task in tasks:
        prefix, taken = f"heads.{task}.", (heads or {}).get(task, task)
        if taken is None:
            own |= {name: tensor for name, tensor in model.named_tensors().items() if name.startswith(prefix)}
            continue
        head = _of(f"{taken}.", stored)
        if not head:
            raise UserError.of(str(path), f"holds no head of the task {taken!r}")
        own |= {prefix + name: tensor for name, tensor in head.items()}
    try:
        model.load_tensors(own)
    except ValueError as error:
        raise UserError.of(str(path), f"does not fit the task definitions: {error}") from None
    return model


def _read_heads(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError.of(str(path), f"cannot be read: {error}") from None


def _of(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names have a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def head_tensors(model: MultiTaskModel) -> dict[str, Tensor]:
    """Tensors of `HEADS_FILE`, on the CPU: all heads' parameters, named `TASK.…`, and the pretrained layers."""
    heads = _of("heads.", model.named_tensors()) | {PRETRAINED + name: t for name, t in model.pretrained.items()}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in heads.items()}
