"""Sharding of weights, gradients and optimizer state over processes by FSDP2 (PyTorch's `fully_shard`).

It is enabled by the launcher's own flags (`accelerate launch --use_fsdp --fsdp_version 2`). FSDP's root is the model,
not the objective: the objective runs the model several times and differentiates with respect to δ in between, and to
FSDP each of these is a forward or backward pass of its own. Weights are gathered in float32 and converted by autocast,
so that a sharded run computes the same as an unsharded one.
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

_MESHES: dict[str, DeviceMesh] = {}  # device type to the mesh that all models of a process share


def shard_problems(precision: PrecisionName) -> list[Problem]:
    """Problems with launcher options that are not supported."""
    if not SHARDED:
        return []
    problems = [] if PROCESSES > 1 else [Problem("--use_fsdp", "needs two processes or more")]
    if torch.__version__ < NEEDED:
        problems.append(Problem("--use_fsdp", f"needs PyTorch {NEEDED} or newer; this is {torch.__version__}"))
    if precision == "fp16":
        problems.append(Problem("--precision", "fp16 does not work with FSDP; bf16 does"))
    for variable, wanted, problem in REFUSED:
        if os.environ.get(variable, wanted).lower() != wanted:
            problems.append(problem)
    return problems


# The first version of PyTorch in which FSDP2 works on CPUs. Up to 2.7, the root module was not resharded after a
# forward pass, whatever was asked for (pytorch issue 154655): embeddings and heads would not be trained.
NEEDED = "2.10"

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
    """Shard every parameter over the processes, in place; layers are gathered one at a time for computation.

    Weights are resharded after every forward pass: the teacher, and the student in evaluation, have no backward pass
    that would reshard them, and the next step would use stale weights.
    """
    device = model.device.type
    mesh = _MESHES[device] = _MESHES.get(device) or init_device_mesh(device, (PROCESSES,))
    for module in (*layers(model.encoder), model):
        fully_shard(module, mesh=mesh, reshard_after_forward=True)


def let_go() -> None:
    """Release the process groups that meshes hold.

    DTensor's caches keep a mesh for as long as the interpreter lives, and no public function of PyTorch clears them.
    """
    for mesh in _MESHES.values():
        getattr(mesh, "_pg_registry", {}).clear()
    _MESHES.clear()


def is_sharded(module: nn.Module) -> bool:
    """Whether a module is sharded, so that every process has to take part in all its computations."""
    return isinstance(module, FSDPModule)


def own_piece(tensor: Tensor) -> Tensor:
    """This process's shard of a parameter, sharing its memory; an unsharded parameter is returned as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def pieces_like(tensors: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Shard full tensors like the parameters of the same names, without communication.

    Raises:
        ValueError: A shape differs.
    """
    return {
        name: piece_like(tensor, parameters[name]) if name in parameters else tensor for name, tensor in tensors.items()
    }


def piece_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Shard a full tensor like a parameter of its shape, without communication.

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
    """The full tensor, gathered from all processes, each of which has to call this; an unsharded one as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def gather(model: MultiTaskModel, target: MultiTaskModel | None) -> None:
    """Copy a sharded model into a full one, one parameter at a time; processes without a target have to call it too."""
    targets = {} if target is None else target.named_tensors()
    for name, parameter in model.named_tensors().items():
        tensor = whole(parameter)
        if targets:
            targets[name].copy_(tensor)
