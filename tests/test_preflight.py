"""What was read once is recalled, and nothing else is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mtl import reading
from mtl.cli import main
from mtl.preflight import Request, check_train


@pytest.fixture
def definitions(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The corpus of its own, with a cache of its own."""
    import shutil

    shutil.copytree(corpus.parent, tmp_path / "corpus")
    monkeypatch.setenv("MTL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "corpus" / "tasks.yml"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The splits that are read, one after the other."""
    seen: list[str] = []
    check_split = reading.check_split

    def counting(name: str, task: Any, source: Any, watch: Any = None) -> Any:
        seen.append(f"{name}/{source.path.stem}")
        return check_split(name, task, source, watch)

    monkeypatch.setattr(reading, "check_split", counting)
    return seen


def found(definitions: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    status = main(["validate", str(definitions), "--json"])
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert status == (2 if printed["errors"] else 0)
    return printed


def test_a_second_time_the_same_is_found_without_reading(
    definitions: Path, reads: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    first = found(definitions, capsys)
    assert len(reads) == 6 and reads[-1].endswith("train")
    assert first["leaks"]
    assert found(definitions, capsys) == first
    assert len(reads) == 6


def append(path: Path, row: dict[str, Any]) -> None:
    path.write_text(path.read_text() + json.dumps(row) + "\n")


def edited(old: str, new: str) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        path.write_text(path.read_text().replace(old, new))

    return edit


COLUMNS = "columns: {text_a: text, label: mood}"
CHANGES: dict[str, Callable[[Path], None]] = {
    "another row": lambda path: append(path.parent / "mood" / "train.jsonl", {"text": "It was fine.", "mood": "good"}),
    "another column": edited(COLUMNS, "columns: {text_a: mood, label: text}"),
    "another order of labels": edited("[bad, neutral, good]", "[good, neutral, bad]"),
    "unlabelled rows": edited(COLUMNS, f"unlabelled: [bad]\n    {COLUMNS}"),
    "another encoding": edited(COLUMNS, f"encoding: utf-16\n    {COLUMNS}"),
    "another name": edited("mood:\n  type", "humour:\n  type"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_the_outcome_is_read_again(
    change: str, definitions: Path, reads: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = found(definitions, capsys)
    CHANGES[change](definitions)
    del reads[:]
    after = found(definitions, capsys)
    assert len(reads) == 6
    assert json.dumps(after) != json.dumps(before)


def test_what_is_wrong_is_told_every_time(
    definitions: Path, reads: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    append(definitions.parent / "mood" / "train.jsonl", {"text": "x", "mood": "goood"})
    for _ in range(2):
        assert "unknown label 'goood'" in found(definitions, capsys)["errors"][0]
    assert len(reads) == 12


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"facts": {"a": 1}}'])
def test_a_damaged_memory_is_no_memory(
    text: str, definitions: Path, reads: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    first = found(definitions, capsys)
    (path,) = (tmp_path / "cache" / "checked").iterdir()
    path.write_text(text)
    assert found(definitions, capsys) == first
    assert len(reads) == 12


def test_recalled_leaks_are_dropped_too(
    definitions: Path, reads: list[str], encoder_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dropped = []
    for name in ("first", "second"):
        words = ["train", str(definitions), "--encoder", str(encoder_dir), "--leaks", "drop", "--max-steps", "1"]
        assert main([*words, "--output", str(tmp_path / name)]) == 0
        dropped.append(json.loads((tmp_path / name / "results.json").read_text())["data"]["mood"]["train"])
    assert len(reads) == 6
    assert dropped[0] == dropped[1] and dropped[0]["dropped"] > 0


def test_what_a_run_s_definitions_inherited_says_nothing_of_others(
    definitions: Path, encoder_dir: Path, tmp_path: Path
) -> None:
    edited(COLUMNS, f"{COLUMNS}\n  dropout: 0.2")(definitions)
    file = tmp_path / "run.yml"
    text = f"encoder: {encoder_dir}\ntask_defs: [{definitions}]\ndefaults: {{dropout: 0.3}}\n"
    file.write_text(f"{text}inherited: {{mood: {{dropout: 0.2}}}}\n")
    for named, dropout in (((), 0.3), ((definitions,), 0.2)):
        run = check_train(Request(tmp_path / "new", named, str(file))).run
        assert (run.tasks["mood"].dropout, run.tasks["answer"].dropout) == (dropout, 0.3)


def test_data_without_a_fingerprint_is_told_with_all_else(
    definitions: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fingerprint(self: Any) -> str:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(reading.Source, "fingerprint", fingerprint)
    assert main(["validate", str(definitions)]) == 0, "it is read all the same"
    definitions.write_text(definitions.read_text().replace("type: regression", "type: regresion", 1))
    (definitions.parent / "mood" / "train.jsonl").write_text("no JSON")
    capsys.readouterr()
    assert main(["validate", str(definitions)]) == 2
    told = capsys.readouterr()
    assert "'regresion'" in told.out + told.err and "mood/train.jsonl:1: is not valid JSON" in told.out + told.err
