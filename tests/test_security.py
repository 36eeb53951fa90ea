"""What a stranger may hand over runs no code, writes nowhere but the output, and steers neither terminal nor page."""

from __future__ import annotations

import ast
import io
import json
import os
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from conftest import ROOT, write_jsonl

import mtl
from mtl import file_formats
from mtl.card import code_span
from mtl.checkpoint import MANIFEST_FILE
from mtl.cli import main
from mtl.files import digest
from mtl.source import Source, read_rows


class Bomb:
    """Unpickling it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "executed"


def payloads(mark: Path, tmp_path: Path) -> dict[str, bytes]:
    """A pickle as it is, as torch saves it, and as numpy does."""
    torch.save({"weight": Bomb(mark)}, tmp_path / "torch.bin")
    np.save(tmp_path / "numpy.npy", np.array([Bomb(mark)], dtype=object), allow_pickle=True)
    return {
        "pickle": pickle.dumps(Bomb(mark)),
        "torch": (tmp_path / "torch.bin").read_bytes(),
        "numpy": (tmp_path / "numpy.npy").read_bytes(),
    }


def test_the_payloads_are_live(mark: Path, tmp_path: Path) -> None:
    for load in (
        lambda p: pickle.loads(p["pickle"]),
        lambda p: torch.load(tmp_path / "torch.bin", weights_only=False),
        lambda p: np.load(tmp_path / "numpy.npy", allow_pickle=True),
    ):
        load(payloads(mark, tmp_path))
        assert mark.is_dir()
        mark.rmdir()


@pytest.fixture(scope="module")
def run_dir(corpus: Path, encoder_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("security") / "run"
    assert main(train(corpus, encoder_dir, output)) == 0
    return output


def train(corpus: Path, encoder: Path, output: Path, *more: str) -> list[str]:
    words = ["train", str(corpus), "--encoder", str(encoder), "--output", str(output), "--batch-size", "8"]
    return [*words, "--max-steps", "3", *more]


def reseal(checkpoint: Path) -> None:
    """Makes a checkpoint's manifest fit what a stranger put into it."""
    found = {path.name: digest(path) for path in sorted(checkpoint.iterdir()) if path.name != MANIFEST_FILE}
    (checkpoint / MANIFEST_FILE).write_text(json.dumps(found, indent=1))


# A file of a run directory, and the commands that read it.
READ_BY = {
    "run.yml": ["resume", "evaluate", "export", "adapt"],
    "task_defs.yml": ["resume", "evaluate", "export", "adapt"],
    "provenance.json": ["resume", "report", "export"],
    "results.json": ["report", "export"],
    "metrics.jsonl": ["resume", "report"],
    "predictions/mood.validation.jsonl": ["report"],
    "model/config.json": ["final", "adapt"],
    "model/model.safetensors": ["final", "adapt"],
    "model/heads.safetensors": ["final", "adapt"],
    "model/tokenizer.json": ["final", "adapt"],
    "model/tokenizer_config.json": ["final", "adapt"],
    "teacher/heads.safetensors": ["teacher"],
    "best/mood/config.json": ["evaluate", "predict"],
    "best/mood/model.safetensors": ["evaluate", "predict", "export"],
    "best/mood/tokenizer.json": ["evaluate", "predict"],
    "best/mood/task.yml": ["predict"],
    **{
        f"checkpoints/step-0000003/{part}.safetensors": ["resume"]
        for part in ("model", "teacher", "optimizer", "random")
    },
    "checkpoints/step-0000003/state.json": ["resume"],
    "checkpoints/step-0000003/manifest.json": ["resume"],
}


def commands(run: Path, tmp_path: Path, corpus: Path) -> dict[str, list[str]]:
    rows = str(corpus.parent / "mood" / "validation.jsonl")
    return {
        "resume": ["train", "--output", str(run), "--resume"],
        "evaluate": ["evaluate", str(run), "--task", "mood"],
        "final": ["evaluate", str(run), "--task", "mood", "--weights", "final"],
        "teacher": ["evaluate", str(run), "--task", "mood", "--weights", "teacher"],
        "export": ["export", str(run), "--task", "mood", "--output", str(tmp_path / "exports"), "--overwrite"],
        "adapt": ["adapt", str(run), "--task", "mood", "--output", str(tmp_path / "adapted"), "--max-steps", "1"],
        "report": ["report", str(run)],
        "predict": ["predict", str(run / "best" / "mood"), "--input", rows, "--output", str(tmp_path / "out.jsonl")],
    }


@pytest.mark.parametrize("name", READ_BY)
def test_a_pickle_for_any_file_of_a_run_is_not_executed(
    name: str, run_dir: Path, corpus: Path, mark: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind, payload in payloads(mark, tmp_path).items():
        run = Path(shutil.copytree(run_dir, tmp_path / kind / "run"))
        (run / name).write_bytes(payload)
        if name.startswith("checkpoints") and not name.endswith(MANIFEST_FILE):
            reseal((run / name).parent)
        if name.endswith(".safetensors") and name.startswith(("model", "best")):  # what older versions would read
            (run / name).with_name("pytorch_model.bin").write_bytes(payload)
        for command in READ_BY[name]:
            status = main(commands(run, tmp_path, corpus)[command])
            captured = capsys.readouterr()
            assert not mark.exists(), (kind, command)
            assert "Traceback" not in captured.out + captured.err
            harmless = name in ("metrics.jsonl",) or name.startswith("checkpoints") or "tokenizer_config" in name
            assert status == 2 or (harmless and status == 0), (kind, command, captured.err)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("command", ["validate", "train", "init", "predict"])
def test_a_pickle_for_data_is_not_executed(
    command: str,
    suffix: str,
    encoder_dir: Path,
    run_dir: Path,
    mark: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for kind, payload in payloads(mark, tmp_path).items():
        path = tmp_path / f"{kind}{suffix}"
        path.write_bytes(payload)
        definition = tmp_path / "t.yml"
        data = {"files": {"train": str(path), "validation": str(path)}, "columns": {"text_a": "text"}}
        definition.write_text(yaml.safe_dump({"t": {"type": "regression", "data": data}}))
        words = {
            "validate": ["validate", str(definition)],
            "train": ["train", str(definition), "--encoder", str(encoder_dir), "--output", str(tmp_path / "out")],
            "init": ["init", str(path)],
            "predict": [
                "predict",
                str(run_dir / "best/mood"),
                "--input",
                str(path),
                "--output",
                str(tmp_path / "o.jsonl"),
            ],
        }[command]
        assert main(words) == 2
        captured = capsys.readouterr()
        assert not mark.exists() and "Traceback" not in captured.out + captured.err


def test_a_pickled_dataframe_s_metadata_is_not_executed(mark: Path, tmp_path: Path) -> None:
    payload = pickle.dumps(Bomb(mark))
    table = pa.table({"text": ["a"]}).replace_schema_metadata({b"pandas": payload, b"ARROW:schema": payload})
    pq.write_table(table, tmp_path / "a.parquet", store_schema=False)
    assert [cells for _, cells in read_rows(Source(path=tmp_path / "a.parquet"))] == [{"text": "a"}]
    assert not mark.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "model.safetensors", "tokenizer.json", "vocab.txt", "config.json"]
)
def test_a_pickle_for_any_file_of_an_encoder_is_not_executed(
    name: str, corpus: Path, encoder_dir: Path, mark: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind, payload in payloads(mark, tmp_path).items():
        encoder = Path(shutil.copytree(encoder_dir, tmp_path / kind / "encoder"))
        (encoder / "model.safetensors").unlink() if name == "pytorch_model.bin" else None
        (encoder / name).write_bytes(payload)
        status = main(train(corpus, encoder, tmp_path / "out", "--overwrite"))
        captured = capsys.readouterr()
        assert not mark.exists() and "Traceback" not in captured.out + captured.err
        assert status == (0 if name == "vocab.txt" else 2), captured.err  # tokenizer.json holds the vocabulary too


def with_code(encoder: Path, mark: Path) -> None:
    """Gives an encoder classes of its own, in files of which the first leaves a mark when it is imported."""
    (encoder / "own_config.py").write_text(
        f"import os\nos.makedirs({str(mark)!r}, exist_ok=True)\n"
        "from transformers import BertConfig\n"
        "class OwnConfig(BertConfig):\n    model_type = 'own'\n"
    )
    (encoder / "own_model.py").write_text(
        "from transformers import BertForSequenceClassification\n"
        "from .own_config import OwnConfig\n"
        "class OwnModel(BertForSequenceClassification):\n    config_class = OwnConfig\n"
    )
    config = json.loads((encoder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own_config.OwnConfig"}}
    config["auto_map"]["AutoModelForSequenceClassification"] = "own_model.OwnModel"
    (encoder / "config.json").write_text(json.dumps(config))


def say_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks on the terminal whether code may run gets a yes."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 100))


LOADING = ["evaluate", "final", "teacher", "export", "predict", "adapt"]
IN_A_FILE = ["configuration", "resume", "validate configuration"]


@pytest.mark.parametrize("how", ["nothing", "validate", "prepare", *IN_A_FILE, *LOADING])
def test_code_of_an_encoder_runs_with_the_flag_only(
    how: str,
    corpus: Path,
    encoder_dir: Path,
    run_dir: Path,
    mark: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    say_yes(monkeypatch)
    encoder = Path(shutil.copytree(encoder_dir, tmp_path / "encoder"))
    with_code(encoder, mark)
    run = Path(shutil.copytree(run_dir, tmp_path / "run"))
    settings = yaml.safe_load((run / "run.yml").read_text()) | {"trust_remote_code": True, "encoder": str(encoder)}
    (run / "run.yml").write_text(yaml.safe_dump(settings))
    for folder in ("model", "teacher", "best/mood"):
        with_code(run / folder, mark)
    words = {
        "nothing": train(corpus, encoder, tmp_path / "out"),
        "configuration": train(corpus, encoder, tmp_path / "out", "--config", str(run / "run.yml")),
        "validate": ["validate", str(corpus), "--encoder", str(encoder)],
        "validate configuration": ["validate", str(corpus), "--config", str(run / "run.yml")],
        "prepare": ["prepare", str(corpus), "--encoder", str(encoder)],
        **commands(run, tmp_path, corpus),
    }[how]
    assert main(words) == 2
    captured = capsys.readouterr()
    told = captured.out + captured.err
    assert "--trust-remote-code" in told and "Traceback" not in told
    assert ("trust_remote_code works only on the command line" in told) == (how in IN_A_FILE)
    assert not mark.exists()


def test_no_load_leaves_open_whether_code_is_trusted() -> None:
    """Where it is left open, Transformers asks on the terminal."""
    for path in (ROOT / "mtl").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                loads = node.func.attr in ("from_pretrained", "from_config")
                assert not loads or "trust_remote_code" in {word.arg for word in node.keywords}, ast.unparse(node)


def test_the_run_of_an_encoder_with_code_is_used_with_the_flag(
    corpus: Path, encoder_dir: Path, mark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import dynamic_module_utils

    say_yes(monkeypatch)
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    encoder = Path(shutil.copytree(encoder_dir, tmp_path / "encoder"))
    with_code(encoder, mark)
    run = tmp_path / "run"
    assert main(train(corpus, encoder, run, "--trust-remote-code")) == 0
    assert mark.exists()
    for command, words in commands(run, tmp_path, corpus).items():
        if command == "report":
            assert main(words) == 0  # without any model
            continue
        mark.rmdir() if mark.exists() else None
        assert main(words) == 2, command
        assert not mark.exists()
        assert main([*words, "--trust-remote-code"]) == 0, command
    exported = tmp_path / "exports" / "mood"
    for path in (run, exported):
        with pytest.raises(mtl.UserError, match="which runs only with trust_remote_code=True"):
            mtl.load(path)
        assert mtl.load(path, trust_remote_code=True).embed(["a film"]).shape == (1, 32)
    settings = {"train.max_steps": 1}
    again = mtl.adapt(run, task="mood", output=tmp_path / "again", settings=settings, trust_remote_code=True)
    assert again.load(trust_remote_code=True).predict("mood", ["a film"])[0]["row"] == 0
    for card in (exported / "README.md", run / "best" / "mood" / "README.md", run / "best" / "answer" / "README.md"):
        assert 'this/directory", trust_remote_code=True)' in card.read_text()


def test_nothing_is_written_beside_the_output(corpus: Path, encoder_dir: Path, tmp_path: Path) -> None:
    """Names that lead out of a directory are refused wherever a file may hold them."""
    definition = tmp_path / "t.yml"
    mood = yaml.safe_load(corpus.read_text())["mood"]
    mood["data"]["files"] = {split: str(corpus.parent / file) for split, file in mood["data"]["files"].items()}
    definition.write_text(yaml.safe_dump({"good": mood}))
    assert main(["validate", str(definition)]) == 0
    for name in ("../../x", "a/b", "..", ".", "/x", "a\\b", ".hidden", "CON/../x", "x" * 65, ""):
        definition.write_text(yaml.safe_dump({name: mood}))
        assert main(train(definition, encoder_dir, tmp_path / "out")) == 2
        splits = {"train": "train", "validation": "validation", name: "train"}
        definition.write_text(yaml.safe_dump({"good": {**mood, "data": {**mood["data"], "splits": splits}}}))
        assert main(train(definition, encoder_dir, tmp_path / "out")) == 2
    assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["t.yml"]


@pytest.mark.parametrize("split", ["../../x", "/etc/passwd", "a b", ""])
def test_a_split_to_evaluate_names_no_path(split: str, run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run_dir), "--split", split]) == 2
    assert "--split: " in capsys.readouterr().err


@pytest.mark.parametrize("name", ["state.json", "results.json", "provenance.json"])
@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 5_000, '{"a": NaN}', "[]", "null", '"text"', ""])
def test_json_of_a_stranger_is_an_error_and_no_more(
    name: str, text: str, run_dir: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(run_dir, tmp_path / "run"))
    path = run / name if name != "state.json" else run / "checkpoints" / "step-0000003" / name
    path.write_text(text)
    if name == "state.json":
        reseal(path.parent)
    command = "report" if name == "results.json" else "resume"
    status = main(commands(run, tmp_path, corpus)[command])
    captured = capsys.readouterr()
    assert status == (0 if name == "state.json" else 2)
    assert "Traceback" not in captured.out + captured.err
    if name == "state.json":
        assert "warning: passed over a damaged checkpoint" in captured.out


@pytest.mark.parametrize("position", [1 << 60, -1, 1.5, "x", None])
def test_a_checkpoint_cannot_fill_the_disk_or_empty_the_log(
    position: Any, run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(run_dir, tmp_path / "run"))
    state = run / "checkpoints" / "step-0000003" / "state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"log_position": position}))
    reseal(state.parent)
    before = (run / "metrics.jsonl").read_bytes()
    assert main(["train", "--output", str(run), "--resume"]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert (run / "metrics.jsonl").read_bytes() == before


# Limits of data files


def test_a_long_line_or_text_is_told_and_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_formats, "MAX_LINE", 1000)
    monkeypatch.setattr(file_formats, "MAX_CELL", 250)
    for suffix, head in ((".jsonl", '{"a": "b"}\n{"a": "'), (".csv", 'a,b\n"'), (".tsv", "a\tb\n")):
        path = tmp_path / f"long{suffix}"
        path.write_text(head + "x" * 5000)
        with pytest.raises(mtl.UserError, match=f"long{suffix}:2: is longer than 1,000 characters"):
            list(read_rows(Source(path=path)))
    for kind in (pa.string(), pa.large_string(), pa.string_view()):  # pandas 3 writes the second
        texts = pa.array(["short"] * 2000 + ["x" * 251], kind)
        pq.write_table(pa.table({"a": texts}), tmp_path / "a.parquet")
        rows = read_rows(Source(path=tmp_path / "a.parquet"))
        with pytest.raises(mtl.UserError, match="a text near here has 251 bytes; at most"):
            list(rows)


def test_a_few_bytes_of_parquet_do_not_fill_the_memory(tmp_path: Path) -> None:
    """A text of 16 MB that 5,000 rows share takes a few kilobytes on the disk and 80 GB as rows."""
    path = tmp_path / "bomb.parquet"
    text = "x" * file_formats.MAX_CELL
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(5000, dtype=np.int32)), pa.array([text]))
    pq.write_table(pa.table({"a": column}), path, dictionary_pagesize_limit=1 << 30, store_schema=False)
    assert path.stat().st_size < 10_000_000
    resident = int(Path("/proc/self/statm").read_text().split()[1]) if sys.platform == "linux" else 0
    rows = read_rows(Source(path=path))
    assert [len(next(rows)[1]["a"]) for _ in range(20)] == [file_formats.MAX_CELL] * 20
    if resident:
        grown = (int(Path("/proc/self/statm").read_text().split()[1]) - resident) * os.sysconf("SC_PAGE_SIZE")
        assert grown < 1 << 30


# What is shown


HOSTILE = [
    "<script>alert(1)</script>",
    "`</code><img src=x onerror=alert(1)>",
    "a\x1b[2Jb",
    "| x |",
    "\u202egood",
    "[a](javascript:b)",
]


def test_hostile_texts_are_shown_as_texts(
    encoder_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = [*HOSTILE, "``two``\n\n# heading"]
    rows = [{"<b>text</b>\x1b[31m": f"<script>{label}\x1b[2J", "label": label} for label in labels for _ in range(2)]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    data = {"files": {"train": str(path), "validation": str(path)}, "columns": {"text_a": "<b>text</b>\x1b[31m"}}
    definition = tmp_path / "t.yml"
    definition.write_text(yaml.safe_dump({"t": {"type": "classification", "labels": labels, "data": data}}))
    output, train = tmp_path / "run", ["train", str(definition)]
    for words in (
        ["validate", str(definition)],
        ["init", str(path)],
        [*train, "--encoder", str(encoder_dir), "--output", str(output), "--max-steps", "1"],
        ["evaluate", str(output)],
        ["report", str(output)],
        ["validate", str(definition), "--set", "tasks.t.labels=[a]"],
    ):
        main(words)
        captured = capsys.readouterr()
        shown = (captured.out + captured.err).replace("\n", "")
        assert shown.isprintable(), (words, [c for c in shown if not c.isprintable()])
    card = (output / "best" / "t" / "README.md").read_text()
    for label in HOSTILE:
        assert code_span(label) in card
    assert "\n# heading" not in card
    assert "``two``" in card and card.count("\n# ") == 1


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("plain", "`plain`"),
        ("<script>", "`<script>`"),
        ("a`b", "``a`b``"),
        ("`", "`` ` ``"),
        ("``a", "``` ``a ```"),
        ("a\nb", "`a\\nb`"),
        (" a", "`  a `"),
    ],
)
def test_a_code_span_holds_any_text(text: str, span: str) -> None:
    assert code_span(text) == span
