"""The short form of `soak.py`: a killed run ends as one that was left alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from soak import soak


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--no-smart", "--no-proximal"]], ids=["regularized", "plain"])
def test_a_killed_run_ends_as_an_undisturbed_one(options: list[str], tmp_path: Path) -> None:
    done = soak(tmp_path, 3, 1, options)
    assert any("writing" in line for line in done)
