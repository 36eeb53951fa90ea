"""Graceful stop: SIGINT and SIGTERM are recorded, so that the loop can finish its step and save."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from mtl.errors import Interrupted

ECHO = 2.0  # seconds within which a launcher forwards a signal that its processes have already received


@contextlib.contextmanager
def handling(handler: Callable[[int, Any], None], *numbers: signal.Signals) -> Iterator[None]:
    """Handle signals within the context; does nothing outside the main thread, where Python allows no handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


class StopSignal:
    """Record SIGINT and SIGTERM, so that the loop can finish its step; a second one interrupts at once.

    Args:
        launched: Whether a launcher forwards signals; within `ECHO` seconds, a second one is then taken for a copy.

    Attributes:
        received: Number of the first signal, None before.
    """

    def __init__(self, *, launched: bool = False) -> None:
        self.received: int | None = None
        self._launched, self._at = launched, 0.0

    @contextlib.contextmanager
    def installed(self) -> Iterator[StopSignal]:
        with handling(self._note, signal.SIGINT, signal.SIGTERM):
            yield self

    def _note(self, number: int, frame: Any) -> None:
        if self.received is None:
            self.received, self._at = number, time.monotonic()
        elif not self._launched or time.monotonic() - self._at > ECHO:
            raise Interrupted(number, "stopped at once; the checkpoints written before are intact")
