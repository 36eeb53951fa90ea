"""What a study will take: what steps cost on average, and a study whose runs, steps and tokens are counted by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mtl.cli import main
from mtl.config import Run, RunConfig
from mtl.cost import forward_passes, mean_relative_cost
from mtl.ledger import Ledger
from mtl.outcomes import Outcome, outcome_key
from mtl.study import StudyRun, read_study
from mtl.study_cost import Cost, study_costs
from mtl.summary import store_summary
from mtl.taskdef import TaskDef

OFF = {"weight": 0}


def step(*, steps: int = 1, smart: bool = False, perturbed: bool = True, proximal: bool = False) -> int:
    return forward_passes(steps, smart=smart, perturbed=perturbed, proximal=proximal)


# Settings of R_s and of D, and the forward passes of as many steps as it takes until they repeat.
TURNS: dict[str, tuple[dict[str, Any], dict[str, Any], list[int]]] = {
    "plain": (OFF, OFF, [step()]),
    "R_s": ({}, OFF, [step(smart=True)]),
    "R_s, K = 2": ({"steps": 2}, OFF, [step(smart=True, steps=2)]),
    "R_s, K = 0": ({"steps": 0}, OFF, [step(smart=True, steps=0)]),
    "R_s, ε = 0": ({"epsilon": 0, "steps": 2}, OFF, [step(smart=True, steps=2, perturbed=False)]),
    "R_s in every fourth step": ({"every": 4}, OFF, [step(smart=True), *3 * [step()]]),
    "D": (OFF, {}, [step(proximal=True)]),
    "both": ({}, {}, [step(smart=True, proximal=True)]),
    "both, R_s in every fourth step": ({"every": 4}, {}, [step(smart=True, proximal=True), *3 * [step(proximal=True)]]),
}


def run(smart: dict[str, Any], proximal: dict[str, Any], train: dict[str, bool] | None = None) -> Run:
    files = {"files": {"train": "t.jsonl", "validation": "v.jsonl"}, "columns": {"text_a": "a", "label": "b"}}
    settings = {"type": "classification", "data": files, "labels": ["x", "y"], "metrics": ["accuracy"]}
    task = TaskDef.model_validate({**settings, "smart": smart, "proximal": proximal})
    return Run(RunConfig.model_validate({"encoder": "x", "train": train or {}}), {"t": task})


def cost(found: Run) -> float:
    return mean_relative_cost(found.as_trained("t"))


@pytest.mark.parametrize("name", TURNS)
def test_a_step_costs_the_mean_over_a_turn(name: str) -> None:
    smart, proximal, turn = TURNS[name]
    assert cost(run(smart, proximal)) == pytest.approx(sum(turn) / len(turn) / step(), rel=1e-12)


def test_what_a_run_switches_off_costs_nothing() -> None:
    for terms in (("smart",), ("proximal",), ("smart", "proximal")):
        smart, proximal = (OFF if term in terms else {} for term in ("smart", "proximal"))
        assert cost(run({}, {}, dict.fromkeys(terms, False))) == cost(run(smart, proximal))


STUDY = """\
encoder: {encoder}
task_defs: [{corpus}]
tasks: [mood, strength]
seeds: [1, 2, 3]
settings:
  train: {{batch_size: 8, learning_rate: 2e-3, smart: false, proximal: false}}
arms:
  plain: [{{phase: train, settings: {{train: {{epochs: 1}}}}}}]
  same: [{{phase: train, settings: {{train: {{epochs: 1}}}}}}]
  first:
    - {{phase: train, tasks: all, settings: {{train: {{max_steps: 12}}}}}}
    - {{phase: adapt, settings: {{train: {{max_steps: 7}}, evaluation: {{every: 3}}}}}}
"""


def tokens(encoder: Path, file: Path) -> list[int]:
    """Of each row of a data file, special tokens included."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(encoder)
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    texts = [(row["text"],) if "text" in row else (row["first"], row["second"]) for row in rows]
    return [len(tokenizer(*text)["input_ids"]) for text in texts]


def test_a_study_is_counted_before_it_runs(
    encoder_dir: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tiny.yml"
    path.write_text(STUDY.format(encoder=encoder_dir, corpus=corpus), encoding="utf-8")
    tasks, seeds = ("mood", "strength"), 3
    trained, evaluated = (
        {task: sum(tokens(encoder_dir, corpus.parent / task / f"{split}.jsonl")) for task in tasks}
        for split in ("train", "validation")
    )
    study = read_study(path)
    costs = study_costs(study, study.cells, StudyRun.chain)
    assert list(costs) == ["plain", "shared", "first"], "the runs of 'same' are those of 'plain'"
    both, rows = sum(trained.values()), {"mood": 90, "strength": 80}
    plain = costs["plain"]
    assert plain.runs == len(tasks) * seeds and plain.steps == seeds * sum(-(-rows[task] // 8) for task in tasks)
    assert plain.tokens == seeds * both
    assert plain.plain == pytest.approx(seeds * (both + sum(evaluated.values()) / 3), rel=1e-12)
    assert (costs["shared"].runs, costs["shared"].steps) == (seeds, seeds * 12), "one run a seed for both tasks"
    first = costs["first"]
    assert (first.runs, first.steps) == (len(tasks) * seeds, len(tasks) * seeds * 7)
    evaluations = 3  # after steps 3, 6 and 7
    assert first.plain - first.tokens == pytest.approx(seeds * evaluations * sum(evaluated.values()) / 3, rel=1e-9)

    monkeypatch.chdir(tmp_path)
    assert main(["compare", str(path), "--dry-run"]) == 0
    header, _, *lines, last = capsys.readouterr().out.splitlines()
    assert header.split() == ["arm", "runs", "steps", "tokens", "as", "plain", "tokens"]
    total = sum(costs.values(), Cost())
    printed = [(name, *map(str, (c.runs, c.steps, c.tokens, round(c.plain)))) for name, c in costs.items()]
    printed.append(("all", *map(str, (total.runs, total.steps, total.tokens, round(total.plain)))))
    assert [tuple(line.replace(",", "").split()) for line in lines] == printed
    assert total.runs == seeds * (2 + 1 + 2) and last.startswith("18 of 18 cells to do, in 15 runs: ")
    assert f"{total.plain / 1_000 / 3600:.1f} h at 1,000" in last
    assert [file.name for file in tmp_path.iterdir()] == ["tiny.yml"], "nothing was run"


def test_only_what_is_left_of_the_named_arms_is_counted(
    encoder_dir: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tiny.yml"
    path.write_text(STUDY.format(encoder=encoder_dir, corpus=corpus), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    study = read_study(path)
    outcomes = {
        outcome_key(cell): Outcome(
            metrics=dict.fromkeys(study.tasks[cell.task].metrics, 0.5), seconds=1, shared_seconds=1, processor="p"
        )
        for cell in study.cells
        if cell.arm == "first" and (cell.seed < 3 or cell.task == "mood")
    }
    store_summary(study, outcomes, tmp_path, tmp_path / "kept.json")

    def runs(*words: str) -> dict[str, str]:
        assert main(["compare", str(path), "--dry-run", *words]) == 0
        _, _, *lines, last = capsys.readouterr().out.splitlines()
        return {"cells": last.partition(" cell")[0], **{line.split()[0]: line.split()[1] for line in lines}}

    assert runs("--arms", "first") == {"cells": "6 of 6", "shared": "3", "first": "6", "all": "9"}
    kept = ["--summary", "kept.json"]
    assert runs("--arms", "first", *kept) == {"cells": "1 of 6", "shared": "1", "first": "1", "all": "2"}
    assert runs("--arms", "plain", *kept) == {"cells": "6 of 6", "plain": "6", "all": "6"}
    monkeypatch.setattr(Ledger, "results", lambda self, node: {} if node.name.startswith("shared-") else None)
    monkeypatch.setattr(Ledger, "has_model", lambda self, node: node.run.config.train.seed < 3)
    assert runs("--arms", "first") == {"cells": "6 of 6", "shared": "1", "first": "6", "all": "7"}, "two are finished"
    assert main(["compare", str(path), "--dry-run", "--arms", "frist"]) == 2
    assert "there is no arm 'frist'" in capsys.readouterr().err
