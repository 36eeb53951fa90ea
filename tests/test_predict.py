"""Several tasks over the same input: the encoder runs once, and the predictions are those of each task alone."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from architectures import CONFIGS, PADDING, VOCABULARY, save_random_encoder
from conftest import write_jsonl
from torch.utils._python_dispatch import TorchDispatchMode

from mtl.batch import Batch
from mtl.cli import main
from mtl.data import SCHEMA, Examples
from mtl.evaluate import BATCH_TOKENS, split_outputs
from mtl.export import Loaded
from mtl.inference import outputs_of
from mtl.model import build_model
from mtl.plain_data import dump_yaml
from mtl.precision import autocast
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


LENGTHS = [4, 9, 3, 12, 7] * 30


@pytest.mark.parametrize("tokens", [1, 40, 100, 10**6])
def test_outputs_are_in_the_order_of_the_rows_however_they_are_batched(
    tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = random_examples(LENGTHS)
    expected = [[examples.tokens("input_ids", row).sum(), row, length] for row, length in enumerate(LENGTHS)]
    copies: list[int] = []
    cpu = torch.Tensor.cpu

    def counting(tensor: torch.Tensor) -> torch.Tensor:
        copies.append(1)
        return cpu(tensor)

    monkeypatch.setattr(torch.Tensor, "cpu", counting)

    def forward(batch: Batch) -> torch.Tensor:
        assert len(batch) == 1 or batch.input_ids.numel() <= tokens
        sums = (batch.input_ids * batch.attention_mask).sum(dim=1)
        return torch.stack([sums, batch.rows, batch.attention_mask.sum(dim=1)], dim=1)

    module = torch.nn.Linear(1, 1).train()
    outputs = split_outputs(module, forward, examples, TASKS["colour"], PADDING, batch_tokens=tokens)
    np.testing.assert_array_equal(outputs, np.array(expected, dtype=np.float32))
    assert outputs.dtype == np.float32 and module.training
    assert len(copies) == 1, "one copy to the host, of everything"


def test_rounding_alone_depends_on_the_batches(tmp_path: Path) -> None:
    save_random_encoder("bert", tmp_path)
    model = build_model(str(tmp_path), TASKS, seed=0).double()

    def outputs(tokens: int) -> Any:
        def forward(batch: Batch) -> torch.Tensor:
            logits: torch.Tensor = model("colour", batch)
            return logits

        return split_outputs(model, forward, random_examples(LENGTHS), TASKS["colour"], PADDING, batch_tokens=tokens)

    for tokens in (40, 10**6):  # computed in float64, stored in float32
        np.testing.assert_allclose(outputs(tokens), outputs(1), rtol=3e-7)


def test_half_precision_changes_outputs_a_little_and_weights_not_at_all(tmp_path: Path) -> None:
    save_random_encoder("bert", tmp_path)
    model = build_model(str(tmp_path), TASKS, seed=0)
    tokenizer: Any = SimpleNamespace(pad_token_id=PADDING)
    items = [Loaded(task, model.task_model(name), tokenizer) for name, task in TASKS.items()]
    before = {name: tensor.clone() for name, tensor in model.named_tensors().items()}
    examples = random_examples(LENGTHS)
    full, half, again = (outputs_of(items, examples, precision) for precision in ("fp32", "bf16", "fp32"))
    for one, other, third in zip(full, half, again, strict=True):
        assert other.dtype == np.float32
        assert np.any(one != other)
        assert np.abs(one - other).max() < 0.1 * np.abs(one).max()
        np.testing.assert_array_equal(one, third)
    for name, tensor in model.named_tensors().items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, before[name]), name


class Conversions(TorchDispatchMode):
    """Counts by address what is converted."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[int] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten._to_copy.default:
            self.counts[args[0].data_ptr()] += 1
        return function(*args, **(kwargs or {}))


def test_half_precision_converts_each_weight_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for device in BATCH_TOKENS:
        monkeypatch.setitem(BATCH_TOKENS, device, 40)
    layer, examples = torch.nn.Linear(1, 3), random_examples(LENGTHS)
    with Conversions() as seen, autocast("bf16", torch.device("cpu")):
        outputs = split_outputs(
            layer, lambda batch: layer(batch.input_ids[:, :1].float()), examples, TASKS["colour"], PADDING
        )
    assert outputs.dtype == np.float32
    assert [seen.counts[tensor.data_ptr()] for tensor in (layer.weight, layer.bias)] == [1, 1]
    assert len(seen.counts) > 2, "the batches were converted too"


@pytest.mark.parametrize("name", CONFIGS)
def test_tasks_of_one_encoder_encode_once_whatever_the_architecture(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for device in BATCH_TOKENS:
        monkeypatch.setitem(BATCH_TOKENS, device, 360)
    save_random_encoder(name, tmp_path)
    model = build_model(str(tmp_path), TASKS, seed=0)
    tokenizer: Any = SimpleNamespace(pad_token_id=PADDING)
    items = [Loaded(task, model.task_model(task_name), tokenizer) for task_name, task in TASKS.items()]
    examples = random_examples(LENGTHS)
    alone = [outputs_of([item], examples)[0] for item in items]
    calls: list[int] = []
    handle = model.encoder.register_forward_hook(lambda *_: calls.append(1))
    together = outputs_of(items, examples)
    handle.remove()
    # 30 rows of 12 tokens, 40 that begin with 9, 51 that begin with 7, and what is left.
    assert len(calls) == 4
    assert [outputs.shape for outputs in together] == [(150, 3), (150, 1), (150, 2)]
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)
    assert all(item.model.base_model is model.encoder for item in items), "the models are left as they were"


@pytest.fixture(scope="module")
def run_dir(encoder_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tasks on the same texts, one of which reads fewer tokens, and one on another column."""
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
        "size": {**task("regression", "text", "size"), "metrics": ["mse"]},
        "title": {**task("regression", "title", "size"), "metrics": ["mse"]},
        "start": {**task("regression", "text", "size"), "metrics": ["mse"], "max_length": 4},
    }
    (folder / "tasks.yml").write_text(dump_yaml(tasks))
    words = ["train", str(folder / "tasks.yml"), "--encoder", str(encoder_dir), "--output", str(folder / "run")]
    assert main([*words, "--max-steps", "6", "--leaks", "ignore"]) == 0
    return folder / "run"


def predicted(run_dir: Path, tasks: str, weights: str, output: Path, *more: str) -> list[dict[str, Any]]:
    file = run_dir.parent / "rows.jsonl"
    words = ["predict", str(run_dir), "--task", tasks, "--input", str(file), "--output", str(output)]
    assert main([*words, "--weights", weights, *more]) == 0
    return [json.loads(line) for line in output.read_text().splitlines()]


@pytest.mark.parametrize("weights", ["best", "final", "teacher"])
def test_several_tasks_give_what_each_gives_alone(weights: str, run_dir: Path, tmp_path: Path) -> None:
    together = predicted(run_dir, "size,good,title,start", weights, tmp_path / "all.jsonl")
    assert [list(record) for record in together] == [["row", "size", "good", "title", "start"]] * 24
    for task in ("size", "good", "title", "start"):
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


def test_half_precision_predicts_the_same_labels_where_the_case_is_clear(
    corpus: Path, encoder_dir: Path, tmp_path: Path
) -> None:
    run_dir, (full, half) = tmp_path / "run", (tmp_path / f"{precision}.jsonl" for precision in ("fp32", "bf16"))
    words = ["--encoder", str(encoder_dir), "--output", str(run_dir), "--tasks", "mood", "--no-smart", "--no-proximal"]
    assert main(["train", str(corpus), *words, "--max-steps", "40", "--learning-rate", "3e-3"]) == 0
    files = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    words = [str(run_dir), "--weights", "final", "--input", str(corpus.parent / "mood" / "validation.jsonl")]
    for output in (full, half):
        assert main(["predict", *words, "--output", str(output), "--precision", output.stem]) == 0
    records = [[json.loads(line) for line in output.read_text().splitlines()] for output in (full, half)]
    clear = [pair for pair in zip(*records, strict=True) if max(pair[0]["probabilities"].values()) > 0.6]
    assert len(clear) > 12 and len({one["label"] for one, _ in clear}) > 1, "of 24"
    assert all(one["label"] == other["label"] for one, other in clear)
    assert records[0] != records[1]
    for record in records[1]:  # of float32: bfloat16 would leave three digits of them
        assert sum(record["probabilities"].values()) == pytest.approx(1.0, abs=1e-6)
    assert files == {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}


def test_half_precision_scores(run_dir: Path, tmp_path: Path) -> None:
    scores = {}
    for precision in ("fp32", "bf16"):
        output = tmp_path / f"{precision}.json"
        words = ["--weights", "final", "--output", str(output), "--precision", precision]
        assert main(["evaluate", str(run_dir), *words]) == 0
        tasks = json.loads(output.read_text())["tasks"]
        scores[precision] = tasks["good"]["validation"], tasks["size"]["validation"]["mse"]
    (labels, value), (half_labels, half_value) = scores["fp32"], scores["bf16"]
    assert half_labels == labels
    assert half_value != value
    assert half_value == pytest.approx(value, abs=0.1)


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("command", ["train", "evaluate", "predict"])
def test_emulated_half_precision_is_told(
    command: str,
    native: bool,
    run_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("mtl.precision._has_bf16", lambda device: native)
    output, rows = str(tmp_path / "out.jsonl"), str(run_dir.parent / "rows.jsonl")
    words = {
        "train": ["--config", str(run_dir / "run.yml"), "--output", str(tmp_path / "run"), "--max-steps", "1"],
        "evaluate": [str(run_dir)],
        "predict": [str(run_dir), "--task", "good", "--input", rows, "--output", output],
    }
    for precision in ("fp32", "bf16"):
        overwrite = ["--overwrite"] if (tmp_path / "run").exists() else []
        assert main([command, *words[command], *overwrite, "--precision", precision]) == 0
        told = "no instructions for bf16" in capsys.readouterr().out
        assert told == (precision == "bf16" and not native)


@pytest.mark.parametrize("precision", ["fp16", "fp8"])
def test_a_precision_that_cannot_be_is_told(
    precision: str, run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if precision == "fp16" and torch.accelerator.is_available():
        pytest.skip("for CPUs")
    output = tmp_path / "out.jsonl"
    predicting = ["predict", str(run_dir), "--task", "good", "--input", str(run_dir.parent / "rows.jsonl")]
    for words in ([*predicting, "--output", str(output)], ["evaluate", str(run_dir), "--output", str(output)]):
        try:
            status = main([*words, "--precision", precision])
        except SystemExit as error:  # a word that the parser does not know
            status = int(error.code or 0)
        assert status == 2
        told = {
            "fp16": "--precision: fp16 needs a GPU; bf16 works on the CPU",
            "fp8": "--precision: got 'fp8'; allowed: ",
        }
        assert told[precision] in capsys.readouterr().err
        assert not output.exists()


def test_a_task_that_is_not_there_is_told(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--input", str(run_dir.parent / "rows.jsonl"), "--output", str(tmp_path / "out.jsonl")]
    assert main(["predict", str(run_dir), "--task", "good,siez", *words]) == 2
    assert "has no task 'siez'; it has: good, size, title, start; did you mean 'size'?" in capsys.readouterr().err
    assert main(["predict", str(run_dir), *words]) == 2
    assert "name one of the tasks, or several with commas: good, size, title, start" in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()


def test_input_is_read_in_the_encoding_of_the_tasks_data(encoder_dir: Path, tmp_path: Path) -> None:
    rows = [f"the café was {word},{label}" for word, label in (("good", "good"), ("bad", "bad"))] * 4
    for name in ("train.csv", "dev.csv"):
        (tmp_path / name).write_bytes("\n".join(["text,mood", *rows]).encode("cp1252"))
    (tmp_path / "t.yml").write_text(
        "t:\n  type: classification\n  data:\n    files: {train: train.csv, validation: dev.csv}\n"
        "    columns: {text_a: text, label: mood}\n    encoding: cp1252\n  labels: [bad, good]\n",
        encoding="utf-8",
    )
    output, predictions = tmp_path / "run", tmp_path / "out.jsonl"
    words = ["train", str(tmp_path / "t.yml"), "--encoder", str(encoder_dir), "--output", str(output)]
    assert main([*words, "--max-steps", "1", "--leaks", "ignore", "--no-smart", "--no-proximal"]) == 0
    assert main(["predict", str(output), "--input", str(tmp_path / "dev.csv"), "--output", str(predictions)]) == 0
    told = predictions.read_text()
    assert len(told.splitlines()) == len(rows)
    lines = [json.dumps({"text": row.rpartition(",")[0]}, ensure_ascii=False) for row in rows]
    (tmp_path / "dev.jsonl").write_text("\n".join(lines), encoding="utf-8")  # as JSON is, whatever the task's CSV
    assert main(["predict", str(output), "--input", str(tmp_path / "dev.jsonl"), "--output", str(predictions)]) == 0
    assert predictions.read_text() == told
