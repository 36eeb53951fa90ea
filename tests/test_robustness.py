"""Typos, calibration and smoothness of a study's models; RESULTS.md from summaries."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import chance, questions, results, robustness, summary
from benchmarks.robustness import calibration_error, with_typos
from mtl import paired
from mtl.cli import main


@given(st.text(), st.integers(0, 5))
def test_typos_leave_as_many_words(text: str, seed: int) -> None:
    misspelt = with_typos(text, seed)
    before, after = text.split(" "), misspelt.split(" ")
    assert misspelt == with_typos(text, seed)
    assert len(before) == len(after)
    able = [word for word in before if len(word) > 2 and word.isalpha()]
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert len(changed) == math.ceil(0.1 * len(able))
    for old, new in changed:
        assert old in able and new[0] == old[0] and abs(len(new) - len(old)) <= 1


def test_other_seeds_make_other_typos() -> None:
    text = " ".join(["reading", "weather", "because", "another"] * 10)
    assert len({with_typos(text, seed) for seed in range(20)}) > 15
    assert with_typos("a to 42 x1y", 0) == "a to 42 x1y"
    assert with_typos("book", 0, share=1.0) != "book"


def test_calibration_by_hand() -> None:
    shares = np.array([[0.75, 0.25], [0.75, 0.25], [0.1, 0.9], [0.4, 0.6]])
    labels = np.array([0, 1, 1, 1])
    # Ten bins: two at 0.75 of which one is right, one right at 0.9, one right at 0.6.
    assert calibration_error(shares, labels, bins=10) == pytest.approx((2 * 0.25 + 0.1 + 0.4) / 4)
    assert calibration_error(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, 1])) == 0
    assert calibration_error(np.array([[1.0, 0.0]]), np.array([1])) == 1


@given(st.integers(1, 40), st.integers(1, 20), st.integers(0, 99))
def test_calibration_agrees_with_a_loop(rows: int, bins: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    shares = draw.dirichlet(np.ones(3), size=rows)
    labels = draw.integers(3, size=rows)
    expected = 0.0
    for number in range(bins):
        inside = [r for r in range(rows) if number / bins < max(shares[r]) <= (number + 1) / bins]
        if inside:
            right = sum(int(np.argmax(shares[r]) == labels[r]) for r in inside) / len(inside)
            expected += len(inside) / rows * abs(right - sum(max(shares[r]) for r in inside) / len(inside))
    assert calibration_error(shares, labels, bins) == pytest.approx(expected, abs=1e-9)


STUDY = """\
encoder: {encoder}
task_defs: [{corpus}]
tasks: [mood, strength]
seeds: [1]
keep: best
settings: {{train: {{max_steps: 4, batch_size: 8, learning_rate: 2e-3}}}}
arms:
  plain: [{{phase: train, settings: {{train: {{smart: false, proximal: false}}}}}}]
"""


@pytest.mark.usefixtures("forked_runs")
def test_a_study_is_measured_and_written_up(encoder_dir: Path, corpus: Path, tmp_path: Path) -> None:
    studies = tmp_path / "studies"
    studies.mkdir()
    path = studies / "tiny.yml"
    path.write_text(STUDY.format(encoder=encoder_dir, corpus=corpus), encoding="utf-8")
    (studies / "other.yml").write_text("never run", encoding="utf-8")
    words = ["--studies", str(studies), "--output", str(tmp_path / "RESULTS.md")]
    assert results.main(words) == 1 and not (tmp_path / "RESULTS.md").exists(), "no figures, no file"
    assert main(["compare", str(path), "--output", str(tmp_path / "out")]) == 0
    kept = studies / "tiny.robustness.json"
    robustness.main([str(path), "--runs", str(tmp_path / "out"), "--output", str(kept)])
    figures = json.loads(kept.read_text())["robustness"]
    robustness.main([str(path), "--runs", str(tmp_path / "gone"), "--output", str(kept)])
    assert json.loads(kept.read_text())["robustness"] == figures, "what was measured before stays"
    kept.write_text(kept.read_text().replace('"radius": 0.01', '"radius": 0.02'))
    with pytest.raises(ValueError, match=r"radius 0\.02, not 0\.01"):
        robustness.main([str(path), "--runs", str(tmp_path / "out"), "--output", str(kept)])
    found = {(g["task"], g["metric"]): g["arms"]["plain"]["mean"] for g in figures}
    assert {metric for task, metric in found if task == "mood"} == {
        *("accuracy", "accuracy with typos", "macro_f1", "macro_f1 with typos"),
        *("lost to typos", "calibration error", "R_s"),
    }
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    measured = {g["task"]: g["arms"]["plain"]["mean"] for g in summary["groups"] if g["first"]}
    assert found["mood", "accuracy"] == pytest.approx(measured["mood"], abs=1e-6)
    assert found["strength", "pearson"] == pytest.approx(measured["strength"], abs=1e-6)
    assert 0 < found["mood", "R_s"] < 1 and found["strength", "R_s"] > 0
    assert results.main(words) == 0
    written = (tmp_path / "RESULTS.md").read_text()
    assert all(f"\n- `{name}`: " in written for name in ("other", "tiny")), "not run"
    assert f"{found['mood', 'R_s']:.4f}" in written


@pytest.mark.data
def test_answers_that_ignore_the_text_are_of_the_data(data_root: Path) -> None:
    stored = json.loads(results.CHANCE.read_text(encoding="utf-8"))["tasks"]
    found = chance.measure([results.STUDIES / "g_precision.yml"], str(data_root))
    assert found.keys() == {"mrpc", "stsb"}
    for task, facts in found.items():
        assert facts["counts"] == stored[task]["counts"]
        assert facts["metrics"] == pytest.approx(stored[task]["metrics"])
    assert chance.measure([results.STUDIES / "d_weights.yml"], str(data_root)) == {}, "judged by other rows"


def test_less_wins_where_less_is_better() -> None:
    arms = {"plain": {1: 0.2, 2: 0.3}, "smart": {1: 0.1, 2: 0.4}}
    names = ("f1 with typos", "mse", "mse with typos", "calibration error", "R_s", "lost to typos")
    groups = robustness.grouped({("mood", None, name): arms for name in names}, ["plain", "smart"])
    less = [group["metric"] for group in groups if not group["higher_is_better"]]
    assert less == list(names[1:])
    arms["smart"][2] = 0.2
    for group in robustness.grouped({("mood", None, name): arms for name in names}, ["plain", "smart"]):
        difference, up = group["arms"]["smart"]["difference"], group["higher_is_better"]
        assert (difference["wins"], difference["losses"]) == ((0, 2) if up else (2, 0))


def test_one_seed_alone_is_told_nothing_of() -> None:
    """Of two studies with one seed in common, of an arm with one, and of a first arm with one."""
    file = ROOT / "benchmarks" / "studies" / "c_scitail_23.json"
    study = json.loads(file.read_text(encoding="utf-8"))
    large = json.loads(file.with_name("c_scitail_large.json").read_text(encoding="utf-8"))
    both = {"c_scitail_23": study, "c_scitail_large": large}
    assert "`mt-dnn-1e-4` of c_scitail_23" in results.document(results.Gathered(both))
    for group in study["groups"]:
        values = group["arms"]["mt-dnn-1e-4"]["values"]
        group["arms"]["mt-dnn-1e-4"]["values"] = {"1": values["1"]}
    assert "of c_scitail_23 |" not in results.document(results.Gathered(both))
    files = {"c_scitail_23": study, "c_scitail_235": study, "chance": {"tasks": {}}}
    assert "| the pretrained encoder | " in summary.few_examples(files)
    for group in study["groups"]:
        group["arms"]["single"] |= {"n": 1}
        for facts in group["arms"].values():
            if "difference" in facts:
                facts["difference"] |= {"n": 1, "t": None, "std": None}
    assert "mean of no seeds" in summary.few_examples(files)


def test_a_comparison_is_of_its_arms_and_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Differences 0.1, 0.2 and 0.3 of seeds that both arms have: 0.2 ± t(0.975, 2) · 0.1/√3; spreads 0.2 and 0.1."""
    values = {
        "first": {"1": 9.0, "2": 9.0, "3": 9.0},
        "base": {"1": 0.1, "2": 0.2, "3": 0.3, "4": 9.0},
        "other": {"1": 0.2, "2": 0.4, "3": 0.6},
    }
    arms = {name: {"values": found} for name, found in values.items()}
    shared: dict[str, Any] = {"size": 10, "metric": "f1", "first": True, "higher_is_better": True}
    error = {**shared, "metric": "error", "first": False, "higher_is_better": False}
    groups = [
        {"task": "a", "arms": arms, **shared},
        {"task": "b", "arms": dict.fromkeys(arms, arms["first"]), **shared},
        {"task": "a", "arms": arms, **error},
    ]
    summaries = {"s": {"groups": groups}}
    asked = questions.Comparison("s", 10, "other", "base", tasks=("a",))
    few = questions.look_up(summaries, asked)
    assert few is not None and few.spread is None, "three seeds"
    monkeypatch.setattr(paired, "FEWEST", 3)
    found = questions.look_up(summaries, asked)
    assert found is not None
    assert found.of == "a, f1" and found.size == "10 rows" and found.spread == pytest.approx(2.0)
    assert found.difference["mean"] == pytest.approx(0.2) and found.difference["n"] == 3
    assert found.difference["t"] == pytest.approx([0.2 - 4.302653 * 0.1 / 3**0.5, 0.2 + 4.302653 * 0.1 / 3**0.5])
    assert found.verdict == "no clear difference", "the interval is from -0.05 to 0.45"
    both = questions.look_up(summaries, asked._replace(base="first", tasks=()))
    assert both is not None and both.of == "mean of a, b"
    assert both.difference["mean"] == pytest.approx((0.4 + 9.0) / 2 - 9.0) and both.verdict == "worse"
    errors = questions.look_up(summaries, asked._replace(base="first", metric="error"))
    assert errors is not None and errors.verdict == "better", "less error"
    swapped = questions.look_up(summaries, asked._replace(arm="first", base="other"))
    assert swapped is not None and swapped.verdict == "better"
    for missing in ({"size": 99}, {"arm": "none"}, {"study": "none"}, {"base_study": "none"}, {"metric": "none"}):
        assert questions.look_up(summaries, asked._replace(**missing)) is None


def test_questions_and_targets_are_of_the_studies() -> None:
    """A study, arm or size that no study file has would never be answered."""
    asked = [comparison for comparisons in questions.QUESTIONS.values() for comparison in comparisons]
    for one in [*asked, *(aim.asked for aim in questions.AIMS)]:
        for study, arm in ((one.study, one.arm), (one.base_study or one.study, one.base)):
            file = yaml.safe_load((results.STUDIES / f"{study.removesuffix('.robustness')}.yml").read_text("utf-8"))
            assert arm in file["arms"] and one.size in file.get("train_sizes", [None]), one
            assert set(one.tasks) <= set(file["tasks"]), one


def arm(mean: float, t: list[float] | None, n: int = 5) -> dict[str, Any]:
    difference = {"n": n, "mean": mean, "std": 0.1, "t": t, "bootstrap": t, "wins": 4, "ties": 0, "losses": 1}
    return {"values": {}, "n": n, "mean": mean, "std": 0.1, "difference": difference}


NOT_RUN = {"values": {}, "n": 0, "mean": None, "std": None, "difference": {"n": 0, "t": None}}


def test_figures_stand_beside_the_papers() -> None:
    first = {**arm(0.5, None), "difference": None}
    groups = [
        {
            **{"task": "scitail", "size": 23, "metric": "accuracy", "first": True, "higher_is_better": True},
            "arms": {
                "single": first,
                "mt-dnn": arm(0.7, [0.1, 0.3]),
                "mt-dnn-smart": arm(0.49, [-0.2, 0.1]),
                "later": NOT_RUN,
            },
            "contrasts": [
                {"arm": "mt-dnn-smart", "base": "mt-dnn", **arm(-0.21, [-0.3, -0.1])},
                {"arm": "mt-dnn", "base": "too-few", **arm(-0.2, [-0.3, -0.1], n=2)},
            ],
        }
    ]
    summary = {
        **{"groups": groups, "across": [], "tasks": ["scitail"], "seeds": [*range(8)], "cells": 4, "finished": 3},
        "select": "validation",
        "settings": {},
        "arms": {
            "single": [{"phase": "train", "tasks": [], "sizes": {}, "settings": {}}],
            "mt-dnn": [
                {
                    "phase": "train",
                    "tasks": ["rte", "mrpc"],
                    "sizes": {},
                    "settings": {"sampling": {"strategy": "sqrt"}},
                },
                {"phase": "adapt", "tasks": [], "sizes": {}, "settings": {}},
            ],
        },
        **{"step": "last", "encoder": "e", "git_revision": None, "versions": {"torch": "2"}},
        "machine": {"cores": 2},
        "processors": ["p"],
        # The first run was evaluated on two tasks, but took its time once.
        "runs": {key: {"seconds": 3600.0, "shared_seconds": 1800.0} for key in ("0a/scitail", "0a/rte", "1b/scitail")},
    }
    for group in groups:  # what a summary of an arm that is the first holds
        del group["arms"]["single"]["difference"]  # type: ignore[index]
    chance = {"scitail": {"counts": {"n": 1304}, "metrics": {"accuracy": 0.4962}}}
    notes = {"c_scitail": "Few rows.", "other": "Many rows."}
    text = results.document(results.Gathered({"c_scitail": summary}, ["other"], notes, chance))
    assert "\nFew rows.\n" in text and "- `other`: Many rows." in text
    assert "On 1,304 rows. An answer that ignores the text" in text and "order): 0.4962." in text
    assert "- `single`: train\n- `mt-dnn`: train on rte, mrpc, `{sampling: {strategy: sqrt}}`; then adapt\n" in text
    assert "| `single` | 5 | 0.5000 |" in text and text.count("| 0.512 |") == 1 and "| 0.823 |" in text
    assert "3 of 4 cells (**unfinished**: fewer seeds of `later`), 5 of 8 seeds, validation rows" in text
    assert "2.0 h and 0.5 h of pre-fine-tuning" in text and "took 2 hours" in text  # 2.5 to the even number
    assert "| `later`" not in text, "an arm that was not run has no line"
    less = {**summary, "seeds": [*range(5)]}
    assert "`later`), 5 seeds, " in results.document(results.Gathered({"c_scitail": less}))
    assert "not clearly better than `single`: `mt-dnn-smart`" in text
    assert "worse than `mt-dnn`: `mt-dnn-smart`" in text and "than `too-few`" not in text
    assert "| `mt-dnn-smart` over `mt-dnn` | 5 |  |  | -0.2100 | -0.3000 to -0.1000 |" in text
    assert "Not run" not in results.document(results.Gathered({"c_scitail": summary}))
