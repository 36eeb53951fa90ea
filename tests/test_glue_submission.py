"""Leaderboard files hold what the leaderboard takes, in its order, or nothing is written."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_prep import glue_submission
from data_prep.glue_submission import TARGETS, Target, main

ROOT = Path(__file__).resolve().parent.parent
OFFICIAL = {
    "CoLA": 1063,
    "SST-2": 1821,
    "MRPC": 1725,
    "STS-B": 1379,
    "QQP": 390965,
    "MNLI-m": 9796,
    "MNLI-mm": 9847,
    "QNLI": 5463,
    "RTE": 3000,
    "WNLI": 146,
    "AX": 1104,
}
BY_STEM = {target.stem: target for target in TARGETS}
GLUE_TASK = {"CoLA": "cola", "SST-2": "sst2", "STS-B": "stsb", "MNLI-m": "mnli", "MNLI-mm": "mnli", "AX": "mnli"}


def predictions(path: Path, values: Iterable[Any], key: str = "label") -> str:
    lines = (json.dumps({"row": row, key: value}) + "\n" for row, value in enumerate(values))
    path.write_text("".join(lines), encoding="utf-8")
    return str(path)


def cycled(target: Target, options: tuple[Any, ...]) -> list[Any]:
    return [options[row % len(options)] for row in range(target.rows)]


def errors(capsys: pytest.CaptureFixture[str], folder: Path) -> list[str]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return [line.removeprefix("error: ").replace(f"{folder}/", "") for line in captured.err.splitlines()]


def test_targets_are_the_official_ones() -> None:
    assert {target.stem: target.rows for target in TARGETS} == OFFICIAL


@pytest.mark.parametrize("stem", OFFICIAL)
def test_label_names_are_those_of_our_definitions(stem: str) -> None:
    tasks = yaml.safe_load((ROOT / "task_defs" / "glue.yml").read_text(encoding="utf-8"))
    assert list(BY_STEM[stem].labels) == tasks[GLUE_TASK.get(stem, stem.lower())].get("labels", [])


# What each label of glue.yml becomes, in its order, as the leaderboard's sample submission spells it.
VALUES = {
    "CoLA": ["0", "1"],
    "SST-2": ["0", "1"],
    "MRPC": ["0", "1"],
    "QQP": ["0", "1"],
    "MNLI-m": ["entailment", "neutral", "contradiction"],
    "MNLI-mm": ["entailment", "neutral", "contradiction"],
    "QNLI": ["entailment", "not_entailment"],
    "RTE": ["entailment", "not_entailment"],
    "WNLI": ["0", "1"],
    "AX": ["entailment", "neutral", "contradiction"],
}


@pytest.mark.parametrize("stem", VALUES)
def test_names_and_indices_become_the_official_values(stem: str) -> None:
    target = BY_STEM[stem]
    assert [target.value({"label": label}) for label in target.labels] == VALUES[stem]
    for index, value in enumerate(VALUES[stem]):
        assert target.value({"label": index}) == target.value({"label": str(index)}) == value


@pytest.mark.parametrize(
    ("value", "written"),
    [(3, "3.000"), (2.34567, "2.346"), (-0.2, "0.000"), (-0.0, "0.000"), (5.3, "5.000"), (1e-9, "0.000")],
)
def test_similarity_is_clipped_and_rounded(value: float, written: str) -> None:
    assert BY_STEM["STS-B"].value({"value": value}) == written


@pytest.mark.parametrize(
    "record", [{}, {"label": "entailment"}, {"value": "3"}, {"value": float("nan")}, {"value": True}]
)
def test_similarity_has_to_be_a_number(record: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected a number"):
        BY_STEM["STS-B"].value(record)


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        *((stem, stem) for stem in OFFICIAL),
        *((stem.lower(), stem) for stem in OFFICIAL),
        ("sst2", "SST-2"),
        ("SST", "SST-2"),
        ("stsb", "STS-B"),
        ("mnli", "MNLI-m"),
        ("mnli_matched", "MNLI-m"),
        ("mnli_mismatched", "MNLI-mm"),
    ],
)
def test_task_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, stem: str) -> None:
    small = tuple(Target(t.stem, t.names, 2, t.labels, t.values) for t in TARGETS)
    monkeypatch.setattr(glue_submission, "TARGETS", small)
    key, values = ("value", [1.0, 2.0]) if stem == "STS-B" else ("label", [1, 0])
    file = predictions(tmp_path / "p.jsonl", values, key)
    assert main([f"{name}={file}", "--output", str(tmp_path / "out")]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted([f"{stem}.tsv", "submission.zip"])


def test_files_zip_and_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rte, wnli, stsb = BY_STEM["RTE"], BY_STEM["WNLI"], BY_STEM["STS-B"]
    words = [
        f"wnli={predictions(tmp_path / 'w.jsonl', cycled(wnli, ('entailment', 'not_entailment')))}",
        f"rte={predictions(tmp_path / 'r.jsonl', cycled(rte, ('not_entailment', 'entailment')))}",
        f"stsb={predictions(tmp_path / 's.jsonl', cycled(stsb, (1.5, 7)), 'value')}",
    ]
    for folder in ("out", "again"):
        assert main([*words, "--output", str(tmp_path / folder)]) == 0
    lines = (tmp_path / "out" / "RTE.tsv").read_bytes().decode().split("\n")
    assert lines[:3] == ["index\tprediction", "0\tnot_entailment", "1\tentailment"]
    assert lines[-2:] == ["2999\tentailment", ""]
    assert (tmp_path / "out" / "WNLI.tsv").read_text(encoding="utf-8").splitlines()[1:3] == ["0\t1", "1\t0"]
    assert (tmp_path / "out" / "STS-B.tsv").read_text(encoding="utf-8").splitlines()[1:3] == ["0\t1.500", "1\t5.000"]
    with zipfile.ZipFile(tmp_path / "out" / "submission.zip") as archive:
        assert archive.namelist() == ["STS-B.tsv", "RTE.tsv", "WNLI.tsv"]
        for name in archive.namelist():
            assert archive.read(name) == (tmp_path / "out" / name).read_bytes()
            assert archive.getinfo(name).date_time == (1980, 1, 1, 0, 0, 0)
    assert (tmp_path / "out" / "submission.zip").read_bytes() == (tmp_path / "again" / "submission.zip").read_bytes()
    out = capsys.readouterr().out
    assert f"    3,000 rows  {tmp_path}/out/RTE.tsv" in out.splitlines()
    missing = "CoLA.tsv, SST-2.tsv, MRPC.tsv, QQP.tsv, MNLI-m.tsv, MNLI-mm.tsv, QNLI.tsv, AX.tsv"
    assert f"note: the leaderboard takes all eleven files; missing are {missing}" in out.splitlines()


def test_complete_submission_has_no_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = tuple(Target(t.stem, t.names, 2, t.labels, t.values) for t in TARGETS)
    monkeypatch.setattr(glue_submission, "TARGETS", small)
    labels = predictions(tmp_path / "l.jsonl", [0, 1])
    values = predictions(tmp_path / "v.jsonl", [0, 1], "value")
    words = [f"{stem}={values if stem == 'STS-B' else labels}" for stem in OFFICIAL]
    assert main([*words, "--output", str(tmp_path / "out")]) == 0
    assert "note" not in capsys.readouterr().out
    with zipfile.ZipFile(tmp_path / "out" / "submission.zip") as archive:
        assert archive.namelist() == [f"{stem}.tsv" for stem in OFFICIAL]


def test_rows_without_an_index_are_taken_in_order(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text('{"label": "entailment"}\n' * 145 + '{"label": "not_entailment"}\n', encoding="utf-8")
    assert main([f"wnli={file}", "--output", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "WNLI.tsv").read_text(encoding="utf-8").endswith("144\t1\n145\t0\n")


GOOD = ['{"row": %d, "label": "entailment"}' % row for row in range(146)]  # noqa: UP031 (braces)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (GOOD[:100], ["p.jsonl: holds 100 predictions, the test set of WNLI 146 rows"]),
        ([*GOOD, GOOD[0].replace("0", "146")], ["p.jsonl: holds 147 predictions, the test set of WNLI 146 rows"]),
        (
            [GOOD[1], GOOD[0], *GOOD[2:]],
            [
                "p.jsonl:1: WNLI: 'row' is 1, expected 0: rows have to be in order",
                "p.jsonl:2: WNLI: 'row' is 0, expected 1: rows have to be in order",
            ],
        ),
        (
            [GOOD[0], '{"row": 1, "label": "entails"}', *GOOD[2:]],
            [
                "p.jsonl:2: WNLI: 'label' is 'entails'; allowed: not_entailment, entailment, or an index into these; "
                "did you mean 'entailment'?"
            ],
        ),
        (
            [GOOD[0], '{"row": 1, "label": 2}', *GOOD[2:]],
            ["p.jsonl:2: WNLI: 'label' is 2; allowed: not_entailment, entailment, or an index into these"],
        ),
        (
            [GOOD[0], '{"row": 1, "value": 0.5}', *GOOD[2:]],
            ["p.jsonl:2: WNLI: 'label' is None; allowed: not_entailment, entailment, or an index into these"],
        ),
        ([GOOD[0], "[1]"], ["p.jsonl:2: expected one JSON object a line, as predict writes them"]),
        ([GOOD[0], "{"], ["p.jsonl:2: expected one JSON object a line, as predict writes them"]),
        (
            [line.replace("entailment", "maybe") for line in GOOD],
            [
                *(
                    f"p.jsonl:{line}: WNLI: 'label' is 'maybe'; allowed: not_entailment, entailment, "
                    "or an index into these"
                    for line in range(1, 6)
                ),
                "p.jsonl: 141 more bad rows",
            ],
        ),
    ],
)
def test_bad_predictions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lines: list[str], expected: list[str]
) -> None:
    (tmp_path / "p.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert main([f"wnli={tmp_path / 'p.jsonl'}", "--output", str(tmp_path / "out")]) == 2
    assert errors(capsys, tmp_path) == expected
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["wnly=p"], ["wnly=p: expected TASK=FILE with TASK one of", "did you mean 'wnli'?"]),
        (["wnli"], ["wnli: expected TASK=FILE"]),
        (["wnli="], ["wnli=: expected TASK=FILE"]),
        (["wnli=no.jsonl"], ["no.jsonl: cannot be read: No such file"]),
        (["WNLI={p}", "wnli={p}"], ["WNLI is named twice"]),
        (["wnli=no.jsonl", "glue=x"], ["no.jsonl: cannot be read", "glue=x: expected"]),
    ],
)
def test_bad_words(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], expected: list[str]) -> None:
    (tmp_path / "p").write_text("\n".join(GOOD) + "\n", encoding="utf-8")
    named = [word.format(p=tmp_path / "p") for word in words]
    assert main([*named, "--output", str(tmp_path / "out")]) == 2
    told = "\n".join(errors(capsys, tmp_path))
    assert all(part in told for part in expected), told
    assert not (tmp_path / "out").exists()
