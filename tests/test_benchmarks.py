"""The benchmarks run, and measure what they say; how fast decides no test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT


@pytest.mark.slow
@pytest.mark.parametrize("num_proc", ["1", "2"])
def test_preparation(num_proc: str, tmp_path: Path, encoder_dir: Path) -> None:
    output = tmp_path / "figures.json"
    words = ["--rows", "20000", "--encoder", str(encoder_dir), "--num-proc", num_proc, "--output", str(output)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.preparation", *words], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "peak memory grows by" in done.stdout
    figures = json.loads(output.read_text())
    assert [(run["what"], run["rows"]) for run in figures["runs"]] == [
        ("prepare", 10_000),
        ("prepare", 20_000),
        ("map", 20_000),
    ]
    assert figures["ratio"] == figures["runs"][2]["seconds"] / figures["runs"][1]["seconds"]
