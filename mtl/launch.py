"""What a launcher of several processes (`accelerate launch`, `torchrun`) says to each of them."""

from __future__ import annotations

import os

PROCESSES = int(os.environ.get("WORLD_SIZE", "1"))
RANK = int(os.environ.get("RANK", "0"))
LOCAL_RANK = int(os.environ.get("LOCAL_RANK", "0"))
SHARDED = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"  # whether FSDP was asked for
