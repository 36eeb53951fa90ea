"""The short form of `soak.py`: a killed run ends as one that was left alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from soak import soak


@pytest.mark.slow
def test_a_killed_run_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    done = soak(tmp_path, 3, 1, [])
    assert any("writing" in line for line in done)
