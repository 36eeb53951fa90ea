"""Half precision: whether a device supports it, and whether perturbations survive it in a given encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mtl.batch import Batch, BatchStream, collate
from mtl.config import PrecisionName
from mtl.errors import Problem
from mtl.launch import cpu_only
from mtl.model import layers
from mtl.smart import Ball, draw_noise

if TYPE_CHECKING:  # for annotations only: prediction needs neither
    from accelerate import Accelerator

    from mtl.objective import Objective

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
SURVIVES = 0.9  # minimum cosine between the changes after the first layer in half precision and in float32
# The same without ascent, where R_s is so small that rounding in later layers matters: with MiniLM in bf16, 0.975
# tripled it, 0.999 added 15 %.
SURVIVES_AT_RANDOM = 0.998
RADII = [digit * 10.0**exponent for exponent in range(-6, 3) for digit in (1, 2, 5)]  # to try, in the task's own unit
OUTSIDE = 1e6  # standard deviation of the noise, in radii, that is projected to the boundary
ROWS = 4  # rows to measure on


def best_device() -> torch.device:
    """The accelerator, or the CPU if there is none or the launcher asks for the CPU."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found if found is not None and not cpu_only() else torch.device("cpu")


def precision_problems(precision: PrecisionName, device: torch.device) -> list[Problem]:
    """Problems, if any, that rule out a precision on a device."""
    if precision == "fp16" and device.type == "cpu":
        return [Problem("--precision", "fp16 needs a GPU; bf16 works on the CPU")]
    return []


def precision_warnings(precision: PrecisionName, device: torch.device) -> list[str]:
    """Warnings, if any, that a precision is slow on a device."""
    if precision != "bf16" or _has_bf16(device):
        return []
    where = "processor" if device.type == "cpu" else "GPU"
    return [f"this {where} has no instructions for bf16 and emulates them, which can take many times as long as fp32"]


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return True
    try:
        supported: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()  # PyTorch's own check before a matrix product
    except AttributeError:  # a build without oneDNN, where support is unknown
        return True
    return supported


def autocast(precision: PrecisionName, device: torch.device) -> AbstractContextManager[Any]:
    """Context that computes in a precision; weights stay in float32, and converted copies are cached until its end."""
    return nullcontext() if precision == "fp32" else torch.autocast(device.type, HALVES[precision])


def survival(objective: Objective, task: str, batch: Batch, radius: float, accelerator: Accelerator) -> float:
    """Cosine between the changes that a perturbation causes after the first layer in a run's precision and in float32.

    Near 1 if half precision keeps the perturbation, near 0 if it rounds it away.

    Args:
        objective: The objective, with its model.
        task: The task's name.
        batch: A few rows of it.
        radius: Radius of the perturbation, which is a random point on the boundary of the task's ball.
        accelerator: Device and precision.
    """
    model = objective.model
    shape = (*batch.input_ids.shape, model.width)
    noise = draw_noise(batch.rows.tolist(), batch.lengths.tolist(), shape, seed=0, device=model.device)
    settings = objective.tasks[task].smart
    delta = Ball(settings.norm, radius, settings.scope).project(noise * (radius * OUTSIDE))
    real = batch.attention_mask[..., None].bool()
    training = model.training
    model.eval()
    try:
        changes = []
        for context in (accelerator.autocast(), _full_products(model.device)):
            with torch.no_grad(), context:
                clean, moved = (
                    _after_first_layer(model.encoder, partial(model, task, batch, d)) for d in (None, delta)
                )
            change = moved.cpu().double() - clean.cpu().double()
            changes.append((change[:, : real.shape[1]] * real.cpu()).flatten())  # an encoder may add padding of its own
    finally:
        model.train(training)
    return float(torch.nn.functional.cosine_similarity(changes[0], changes[1], dim=0))


def _products(device: torch.device) -> dict[str, Any]:
    """PyTorch's settings for products in float32 on a device, by name; none before PyTorch 2.9."""
    if not hasattr(torch.backends, "fp32_precision"):
        return {}
    names = ("cuda.matmul", "cudnn.conv") if device.type == "cuda" else ("mkldnn.matmul", "mkldnn.conv")
    return {f"torch.backends.{name}": attrgetter(name)(torch.backends) for name in names}


def _fewer_digits(device: torch.device) -> tuple[str, str] | None:
    """The setting that lets products in float32 use fewer digits (TF32) on a device, and its value for full precision.

    PyTorch does so by default in convolutions on GPUs, in matrix products only if the calling program asks for it.
    """
    with suppress(RuntimeError):  # the program used the newer settings, after which PyTorch refuses to read this one
        if (products := torch.get_float32_matmul_precision()) != "highest":
            return f"torch.set_float32_matmul_precision({products!r})", "'highest'"
    settings = _products(device)
    for name, setting in settings.items():
        if setting.fp32_precision not in ("ieee", "none"):
            return f"{name}.fp32_precision = {setting.fp32_precision!r}", "'ieee'"
    if not settings and device.type == "cuda" and torch.backends.cudnn.allow_tf32:
        return "torch.backends.cudnn.allow_tf32 = True", "False"
    return None


@contextmanager
def _full_products(device: torch.device) -> Iterator[None]:
    """Compute products in float32 in full precision, whatever the calling program has set."""
    with ExitStack() as changed:
        settings = list(_products(device).values())
        for setting in settings:
            changed.callback(_restore, setting, setting.fp32_precision)
            setting.fp32_precision = "ieee"
        if not settings:
            changed.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
            changed.callback(setattr, torch.backends.cudnn, "allow_tf32", torch.backends.cudnn.allow_tf32)
            torch.set_float32_matmul_precision("highest")
            torch.backends.cudnn.allow_tf32 = False
        yield


def _restore(setting: Any, value: str) -> None:
    setting.fp32_precision = "none"  # which follows a more general setting, as it may have done before
    if setting.fp32_precision != value:
        setting.fp32_precision = value


def _after_first_layer(encoder: nn.Module, forward: Callable[[], Tensor]) -> Tensor:
    """Output of the encoder's first layer or, if the encoder does not call it as a module, of the whole encoder."""
    seen: list[Tensor] = []

    def note(module: nn.Module, args: object, output: Tensor | tuple[Tensor, ...]) -> None:
        seen.append(output if isinstance(output, Tensor) else output[0])

    handles = [module.register_forward_hook(note) for module in (layers(encoder)[0], encoder)]
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    return seen[0]


def erased_perturbations(
    objective: Objective, streams: Mapping[str, BatchStream], pad_id: int, accelerator: Accelerator
) -> list[Problem]:
    """Problems for tasks whose perturbation is rounded away, each with the smallest radius that survives.

    Args:
        objective: Student on its device, and the tasks.
        streams: Training batches; a few rows of each task's first one are used.
        pad_id: The tokenizer's padding id.
        accelerator: Device and precision. In float32 nothing is measured, unless products use fewer digits (TF32).
    """
    problems: list[Problem] = []
    if accelerator.mixed_precision != "no":
        what, instead = accelerator.mixed_precision, "--precision fp32"
    elif fewer := _fewer_digits(accelerator.device):
        what, instead = fewer
    else:
        return problems
    for name, stream in streams.items():
        settings, unit = objective.tasks[name].smart, objective.radius_unit(name)
        if settings.weight == 0 or settings.epsilon == 0:
            continue
        batch = collate(stream.examples, stream[0][:ROWS], pad_id, objective.tasks[name].type).to(accelerator.device)
        least = SURVIVES if settings.steps else SURVIVES_AT_RANDOM
        if survival(objective, name, batch, settings.epsilon * unit, accelerator) >= least:
            continue
        enough = (r for r in RADII if survival(objective, name, batch, r * unit, accelerator) >= least)
        smallest = next(enough, None)
        advice = (
            "no radius that survives was found" if smallest is None else f"the smallest that survives is {smallest:g}"
        )
        message = (
            f"{what} rounds away the perturbation of {name} "
            f"(smart.epsilon {settings.epsilon:g}, {settings.unit}); {advice}. "
            f"Set tasks.{name}.smart.epsilon, or use {instead} or --no-smart"
        )
        problems.append(Problem("--precision", message))
    return problems
