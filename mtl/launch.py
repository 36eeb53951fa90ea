"""Number and ranks of the processes, as `accelerate launch` and `torchrun` set them in the environment."""

from __future__ import annotations

import os

PROCESSES = int(os.environ.get("WORLD_SIZE", "1"))
RANK = int(os.environ.get("RANK", "0"))
LOCAL_RANK = int(os.environ.get("LOCAL_RANK", "0"))
SHARDED = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"  # whether FSDP was requested
