"""What a run or a study records of the machine: versions, revision, hardware and memory."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # studies read summaries without it
    import torch

RECORDED_PACKAGES = (
    "mtl-toolkit",
    "torch",
    "transformers",
    "accelerate",
    "datasets",
    "tokenizers",
    "numpy",
    "scikit-learn",
)


def installed_version(package: str) -> str | None:
    """A package's version, None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def git_revision() -> str | None:
    """Git revision of this code, if it runs from its own checkout and is not a package inside another repository."""
    here = Path(__file__)
    try:
        for command in (("ls-files", "--error-unmatch", here.name), ("rev-parse", "HEAD")):
            done = subprocess.run(
                ["git", *command], cwd=here.parent, capture_output=True, text=True, timeout=5, check=False
            )
            if done.returncode != 0:
                return None
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip()


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def device_name(device: torch.device) -> str:
    """Name of a device: the processor's, or the accelerator's."""
    import torch

    if device.type == "cpu":
        return processor()
    name = getattr(torch.get_device_module(device), "get_device_name", None)
    return device.type if name is None else str(name(device))


def system() -> str:
    """Operating system and architecture, which do not identify the machine."""
    return f"{platform.system()} {platform.machine()}"


def peak_memory() -> int:
    """Peak memory of this process so far, in bytes, on the host.

    Read from `/proc` where available, as `getrusage` starts from the peak of the parent process.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) * 1024
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
