"""Several tasks over the same input: the encoder runs once, and the predictions are those of each task alone."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from architectures import CONFIGS, PADDING, VOCABULARY, save_random_encoder
from conftest import write_jsonl

from mtl.cli import main
from mtl.config import dump_yaml
from mtl.data import SCHEMA, Examples
from mtl.export import Loaded
from mtl.inference import outputs_of
from mtl.model import build_model
from mtl.taskdef import TaskDef

DATA = {"hub": "o/s", "columns": {"text_a": "a"}}
TASKS = {
    "colour": TaskDef.model_validate({"type": "classification", "labels": ["r", "g", "b"], "data": DATA}),
    "degree": TaskDef.model_validate({"type": "regression", "data": DATA}),
    "order": TaskDef.model_validate({"type": "classification", "labels": ["x", "y"], "data": DATA}),
}


def random_examples(lengths: list[int]) -> Examples:
    """Tokens of the vocabulary, none of them special."""
    draw, count = np.random.default_rng(0), len(lengths)
    ids = [draw.integers(5, VOCABULARY, length) for length in lengths]
    columns = {"input_ids": ids, "token_type_ids": [[]] * count, "label": [0.0] * count, "group": [-1] * count}
    table = pa.table(columns | {"row": range(count), "truncated": [False] * count}, schema=SCHEMA)
    rows, numbers = np.arange(count), np.array(lengths)
    return Examples(table, rows, numbers, np.zeros(count), rows, rows, "", 0, np.zeros(count, dtype=bool))


@pytest.mark.parametrize("name", CONFIGS)
def test_tasks_of_one_encoder_encode_once_whatever_the_architecture(name: str, tmp_path: Path) -> None:
    save_random_encoder(name, tmp_path)
    model = build_model(str(tmp_path), TASKS, seed=0)
    tokenizer: Any = SimpleNamespace(pad_token_id=PADDING)
    items = [Loaded(task, model.task_model(task_name), tokenizer) for task_name, task in TASKS.items()]
    examples = random_examples([4, 9, 3, 12, 7] * 30)
    alone = [outputs_of([item], examples)[0] for item in items]
    calls: list[int] = []
    handle = model.encoder.register_forward_hook(lambda *_: calls.append(1))
    together = outputs_of(items, examples)
    handle.remove()
    assert len(calls) == -(-len(examples) // 64)
    assert [outputs.shape for outputs in together] == [(150, 3), (150, 1), (150, 2)]
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)
    assert all(item.model.base_model is model.encoder for item in items), "the models are left as they were"


@pytest.fixture(scope="module")
def run_dir(encoder_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks on the same texts and one on another column."""
    folder = tmp_path_factory.mktemp("several")
    rows = [
        {"text": f"the film was {word}", "title": f"{word} book", "good": word == "great", "size": len(word)}
        for word in ("great", "awful") * 12
    ]
    write_jsonl(folder / "rows.jsonl", rows)
    files = {"train": "rows.jsonl", "validation": "rows.jsonl"}

    def task(kind: str, text: str, label: str) -> dict[str, Any]:
        return {"type": kind, "data": {"files": files, "columns": {"text_a": text, "label": label}}}

    tasks = {
        "good": {**task("classification", "text", "good"), "labels": ["false", "true"]},
        "size": task("regression", "text", "size"),
        "title": task("regression", "title", "size"),
    }
    (folder / "tasks.yml").write_text(dump_yaml(tasks))
    words = ["train", str(folder / "tasks.yml"), "--encoder", str(encoder_dir), "--output", str(folder / "run")]
    assert main([*words, "--max-steps", "6", "--leaks", "ignore"]) == 0
    return folder / "run"


def predicted(run_dir: Path, tasks: str, weights: str, output: Path) -> list[dict[str, Any]]:
    file = run_dir.parent / "rows.jsonl"
    words = ["predict", str(run_dir), "--task", tasks, "--input", str(file), "--output", str(output)]
    assert main([*words, "--weights", weights]) == 0
    return [json.loads(line) for line in output.read_text().splitlines()]


@pytest.mark.parametrize("weights", ["best", "final", "teacher"])
def test_several_tasks_give_what_each_gives_alone(weights: str, run_dir: Path, tmp_path: Path) -> None:
    together = predicted(run_dir, "size,good,title", weights, tmp_path / "all.jsonl")
    assert [list(record) for record in together] == [["row", "size", "good", "title"]] * 24
    for task in ("size", "good", "title"):
        alone = predicted(run_dir, task, weights, tmp_path / f"{task}.jsonl")
        assert [{"row": record["row"], **record[task]} for record in together] == alone


@pytest.mark.parametrize(("weights", "passes"), [("final", 2), ("best", 3)])
def test_the_encoder_runs_once_for_tasks_that_share_it(
    weights: str, passes: int, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import BertModel

    forward = BertModel.forward
    calls: list[int] = []

    def counting(self: Any, *words: Any, **keys: Any) -> Any:
        calls.append(1)
        return forward(self, *words, **keys)

    monkeypatch.setattr(BertModel, "forward", counting)
    predicted(run_dir, "good,size,title", weights, tmp_path / "out.jsonl")
    assert len(calls) == passes


def test_a_task_that_is_not_there_is_told(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--input", str(run_dir.parent / "rows.jsonl"), "--output", str(tmp_path / "out.jsonl")]
    assert main(["predict", str(run_dir), "--task", "good,siez", *words]) == 2
    assert "has no task 'siez'; it has: good, size, title; did you mean 'size'?" in capsys.readouterr().err
    assert main(["predict", str(run_dir), *words]) == 2
    assert "name one of the tasks, or several with commas: good, size, title" in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()
