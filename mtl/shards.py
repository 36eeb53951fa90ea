"""A model in pieces, one for each process: weights, gradients and optimizer state by FSDP2 (`fully_shard` of PyTorch).

The launcher's own flags ask for it (`accelerate launch --use_fsdp --fsdp_version 2`). The model itself is FSDP's root,
not the objective: that passes through the model several times and differentiates by δ in between, each of which is a
forward or backward pass of its own to FSDP. Weights are gathered in float32, and autocast converts them: a sharded run
computes what an unsharded one does.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from mtl.config import PrecisionName
from mtl.errors import Problem
from mtl.launch import PROCESSES, SHARDED
from mtl.model import MultiTaskModel, layers

_MESHES: dict[str, DeviceMesh] = {}  # one for all models of a process, by the kind of device


def shard_problems(precision: PrecisionName) -> list[Problem]:
    """What the launcher was asked for that does not work here."""
    if not SHARDED:
        return []
    problems = [] if PROCESSES > 1 else [Problem("--use_fsdp", "needs two processes or more")]
    if precision == "fp16":
        problems.append(Problem("--precision", "fp16 does not work with FSDP; bf16 does"))
    for variable, wanted, problem in REFUSED:
        if os.environ.get(variable, wanted).lower() != wanted:
            problems.append(problem)
    return problems


REFUSED = (
    ("FSDP_VERSION", "2", Problem("--fsdp_version", "1 is not supported; use --fsdp_version 2")),
    ("FSDP_OFFLOAD_PARAMS", "false", Problem("--fsdp_offload_params", "is not supported")),
    (
        "FSDP_ACTIVATION_CHECKPOINTING",
        "false",
        Problem("--fsdp_activation_checkpointing", "is not supported; use --set train.gradient_checkpointing=true"),
    ),
)


def shard(model: MultiTaskModel) -> None:
    """Leaves of every parameter a piece in each process, in place; layers are gathered one by one when they compute.

    Nothing stays gathered after a forward pass: a teacher, and a student under evaluation, have no backward pass that
    would let go of it, and the next step would see old weights.
    """
    device = model.device.type
    mesh = _MESHES[device] = _MESHES.get(device) or init_device_mesh(device, (PROCESSES,))
    for module in (*layers(model.encoder), model):
        fully_shard(module, mesh=mesh, reshard_after_forward=True)


def let_go() -> None:
    """Lets go of the groups of processes that meshes hold.

    DTensor's caches keep a mesh for as long as the interpreter lives, and no public name of PyTorch clears them.
    """
    for mesh in _MESHES.values():
        getattr(mesh, "_pg_registry", {}).clear()
    _MESHES.clear()


def is_sharded(module: nn.Module) -> bool:
    """Whether every process has to take part in all that a module does."""
    return isinstance(module, FSDPModule)


def own_piece(tensor: Tensor) -> Tensor:
    """This process's piece of a parameter, sharing its memory; an unsharded one as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def pieces_like(tensors: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Cuts whole tensors as the parameters of the same names are cut, without an exchange.

    Raises:
        ValueError: A shape differs.
    """
    return {
        name: piece_like(tensor, parameters[name]) if name in parameters else tensor for name, tensor in tensors.items()
    }


def piece_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Cuts a whole tensor as a parameter of its shape is cut.

    Raises:
        ValueError: The shapes differ.
    """
    if not isinstance(parameter, DTensor):
        return tensor
    if tensor.shape != parameter.shape:
        raise ValueError(f"expected the shape {tuple(parameter.shape)}, got {tuple(tensor.shape)}")
    mesh = parameter.device_mesh
    pieces, rank = tensor.chunk(mesh.size()), mesh.get_local_rank()
    own = (pieces[rank] if rank < len(pieces) else tensor[:0]).to(parameter.device)
    return DTensor.from_local(
        own, mesh, parameter.placements, run_check=False, shape=tensor.shape, stride=tensor.stride()
    )


def whole(tensor: Tensor) -> Tensor:
    """A tensor with the pieces of all processes, each of which has to call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def gather(model: MultiTaskModel, target: MultiTaskModel | None) -> None:
    """Copies a sharded model into a whole one, a parameter at a time; without a target a process only takes part."""
    targets = {} if target is None else target.named_tensors()
    for name, parameter in model.named_tensors().items():
        tensor = whole(parameter)
        if targets:
            targets[name].copy_(tensor)
