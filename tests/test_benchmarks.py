"""The benchmarks run, and measure what they say; how fast decides no test."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from forked import Forked

from benchmarks import growth


@pytest.mark.slow
@pytest.mark.parametrize("num_proc", ["1", "2"])
def test_preparation(num_proc: str, tmp_path: Path, encoder_dir: Path) -> None:
    output = tmp_path / "figures.json"
    words = ["--rows", "12000", "--encoder", str(encoder_dir), "--num-proc", num_proc, "--output", str(output)]
    done = Forked(words, os.environ, "benchmarks.preparation")
    printed, error = done.communicate()
    assert done.returncode == 0, error
    assert "peak memory grows by" in printed
    figures = json.loads(output.read_text())
    assert [(run["what"], run["rows"]) for run in figures["runs"]] == [
        ("prepare", 10_000),
        ("prepare", 12_000),
        ("map", 12_000),
    ]
    assert figures["ratio"] == figures["runs"][2]["seconds"] / figures["runs"][1]["seconds"]


def run(name: str, output: Path, *words: str, env: Mapping[str, str] | None = None) -> dict[str, Any]:
    done = Forked(["--output", str(output), *words], env or os.environ, f"benchmarks.{name}")
    printed, error = done.communicate()
    assert done.returncode == 0, error
    assert "target" in printed
    figures: dict[str, Any] = json.loads(output.read_text())
    assert figures["machine"]["versions"]["torch"] and figures["machine"]["cores"] >= 1
    return figures


@pytest.mark.slow
def test_steps(tmp_path: Path, encoder_dir: Path) -> None:
    words = ["--encoder", str(encoder_dir), "--data-root", str(tmp_path / "none"), "--repetitions", "2"]
    words += ["--no-checkpointing"]
    no_compiler = {key: value for key, value in os.environ.items() if key != "CXX"} | {"PATH": ""}  # it takes a minute
    figures = run("steps", tmp_path / "f.json", *words, env=no_compiler)
    assert {"R_s", "R3F", "R-Drop", "R_s + D", "plain, bf16", "bare loop"} < set(figures["seconds"])
    assert all(len(values) == 2 for values in figures["seconds"].values())
    assert set(figures["over_bare"]) == {"bare loop", "bare loop, clipping", "bare loop, our dropout"}
    assert all(found["peak"] > found["weights"] > 0 for found in figures["memory"].values())


@pytest.mark.slow
@pytest.mark.data
def test_batches(data_root: Path, tmp_path: Path) -> None:
    figures = run("batches", tmp_path / "f.json", "--data-root", str(data_root))
    assert figures["figures"]["32 rows/all"]["real"] >= 0.95  # no time in it, so it may decide
    for name, found in figures["figures"].items():
        assert "order" not in found or abs(found["order"]) < 0.3, name


@pytest.mark.slow
def test_startup(tmp_path: Path, encoder_dir: Path) -> None:
    words = ["--encoder", str(encoder_dir), "--data-root", str(tmp_path / "none"), "--repetitions", "1"]
    figures = run("startup", tmp_path / "f.json", *words)
    assert {"--help", "validate, cached", "train, to the first step"} < set(figures["seconds"])


@pytest.mark.slow
@pytest.mark.data
def test_prediction(data_root: Path, tmp_path: Path, encoder_dir: Path) -> None:
    words = ["--encoder", str(encoder_dir), "--data-root", str(data_root), "--repetitions", "1"]
    check_prediction(run("prediction", tmp_path / "f.json", *words)["figures"], {"sst2", "mrpc"})


@pytest.mark.slow
def test_prediction_without_a_mirror(tmp_path: Path, encoder_dir: Path) -> None:
    words = ["--encoder", str(encoder_dir), "--data-root", str(tmp_path / "none"), "--repetitions", "2"]
    check_prediction(run("prediction", tmp_path / "f.json", *words)["figures"], {"intent", "paraphrase"})


def check_prediction(figures: dict[str, Any], sets: set[str]) -> None:
    assert set(figures) == sets
    for found in figures.values():
        assert set(found["seconds"]) == {"fp32", "bf16", "fp32, two tasks", "pipeline", "pipeline, bf16"}
        assert set(found["model_alone"]) == {"fp32", "bf16", "pipeline", "pipeline, bf16"}
        count = len(found["seconds"]["fp32"])
        assert all(len(times) == count and min(times) > 0 for times in found["model_alone"].values())
        for whole, alone in (("pipeline", "pipeline"), ("pipeline, bf16", "pipeline, bf16")):
            pairs = zip(found["model_alone"][alone], found["seconds"][whole], strict=True)
            assert all(inner < outer for inner, outer in pairs), "the model is a part of the pipeline"
        assert set(found["rate"]) == {"fp32 over pipeline", "bf16 over pipeline", "bf16 over pipeline, bf16"}
        assert found["two_tasks"]["median"] > 0 and found["second_head"] > 0


@pytest.mark.slow
def test_growth(tmp_path: Path, encoder_dir: Path) -> None:
    words = ["--encoder", str(encoder_dir), "--data-root", str(tmp_path / "none"), "--repetitions", "2"]
    figures = run("growth", tmp_path / "f.json", *words, "--only", "full")
    found = figures["measured"]["full"]
    assert found["buckets"] == 4 * found["weights"]  # each gradient once, also in a full step
    assert found["formula"] == 4 * found["weights"]
    assert found["bytes"]["median"] > 4 * found["weights"]
    assert len(figures["predicted"]) == 12


def test_growth_formulas() -> None:
    given = {name: value for name, value, _ in growth.ASSUMPTIONS}
    assert growth.ring_bytes(1000, 1) == 0 and growth.ring_bytes(1000, 2) == 4000
    free = given | {"outside": math.inf, "latency": 0.0}
    slow = given | {"outside": 1.0}
    assert growth.efficiency(12, 768, 64, 3, free, overlap=False) == 1.0
    assert growth.efficiency(12, 768, 64, 3, slow, overlap=False) < 1e-6
    # One layer of width 1 by hand: 12 weights and a vocabulary, one bucket, W = 16.
    hand = {
        "flops": 10.0,
        "share": 0.5,
        "inside": 1.0,
        "outside": 4.0,
        "link-share": 0.25,
        "latency": 3.0,
        "machine": 8,
    }
    compute, exchange = 9 * 2 * 12 * 7 / 5.0, 4 * (12 + growth.VOCABULARY) * 2 * 15 / 16 + 2 * 4 * 3.0
    expected = compute / (compute + exchange)
    assert growth.efficiency(1, 1, 16, 9, hand | {"tokens": 7.0}, overlap=False) == pytest.approx(expected, rel=1e-12)
    for row in growth.predictions(given):
        assert 0 < row["apart"] <= row["overlapped"] <= 1


@pytest.mark.slow
def test_peers(tmp_path: Path, encoder_dir: Path) -> None:
    pytest.importorskip("sentence_transformers")
    words = ["--encoder", str(encoder_dir), "--data-root", str(tmp_path), "--rows", "128", "--repetitions", "2"]
    figures = run("peers", tmp_path / "f.json", *words)["figures"]
    assert [len(figures[kind]["rates"]) for kind in ("classification", "ranking")] == [3, 4]
    for found in figures.values():
        assert all(len(rates) == 2 and min(rates) > 0 for rates in found["rates"].values())
        assert found["over"]["ours"]["median"] == 1.0
