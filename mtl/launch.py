"""What `accelerate launch` and `torchrun` set in the environment: number and ranks of the processes, and options."""

from __future__ import annotations

import os

from mtl.errors import Problem

PROCESSES = int(os.environ.get("WORLD_SIZE", "1"))
RANK = int(os.environ.get("RANK", "0"))
LOCAL_RANK = int(os.environ.get("LOCAL_RANK", "0"))
SHARDED = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"  # whether FSDP was requested


def cpu_only() -> bool:
    """Whether `accelerate launch --cpu` was asked for, in the spellings that Accelerate reads."""
    return os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("y", "yes", "t", "true", "on", "1")


# Options that Accelerate would act on by itself: variable → option and what to do instead.
UNSUPPORTED = {
    "ACCELERATE_DYNAMO_BACKEND": ("--dynamo_backend", "compiled layers do not see the perturbation of SMART"),
    "ACCELERATE_USE_DEEPSPEED": ("--use_deepspeed", "use --use_fsdp --fsdp_version 2"),
    "ACCELERATE_USE_MEGATRON_LM": ("--use_megatron_lm", "use --use_fsdp --fsdp_version 2"),
    "ACCELERATE_USE_PARALLELISM_CONFIG": ("--use_parallelism_config", "use --use_fsdp --fsdp_version 2"),
}


def launcher_problems() -> list[Problem]:
    """Problems with options of `accelerate launch`, or of its configuration file, that are not supported."""
    return [
        Problem(option, f"is not supported: {told} ({variable} is {value})")
        for variable, (option, told) in UNSUPPORTED.items()
        if (value := os.environ.get(variable, "no")).lower() not in ("no", "false", "0", "")
    ]


def launcher_warnings(precision: str) -> list[str]:
    """Warnings about options of `accelerate launch` that have no effect.

    Args:
        precision: The run's precision: fp32, bf16 or fp16.
    """
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if asked in ("no", "", precision):
        return []
    return [f"--mixed_precision {asked} of accelerate launch has no effect, use --precision: this run is {precision}"]
