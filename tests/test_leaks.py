"""Evaluation rows in training data, of the same task or another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, write_jsonl

from mtl.cli import main
from mtl.errors import Problem
from mtl.leaks import Leak, exact, find_leaks, normalized
from mtl.source import check_split, locate
from mtl.taskdef import complete, read_task_defs
from mtl.validate import examine

NORMAL_FORMS = [
    (("The  Cat, sat!",), ("the cat sat",)),
    (("b", "A"), ("a", "b")),
    (("It's 5 o'clock .",), ("it s 5 o clock",)),
    (("snake_case",), ("snake_case",)),
    (("ÉTÉ — été",), ("été été",)),
    (("...", ""), ("", "")),
]


@pytest.mark.parametrize(("texts", "form"), NORMAL_FORMS)
def test_the_normal_form(texts: tuple[str, ...], form: tuple[str, ...]) -> None:
    assert normalized(texts) == form
    assert exact(texts) == texts


TRAIN: list[tuple[str, ...]] = [("A man eats.", "Someone eats."), ("One text.", "Two texts."), ("Same", "words")]


def leaks(evaluation: list[tuple[str, ...]], train: list[tuple[str, ...]] = TRAIN) -> list[tuple[int, str]]:
    found = find_leaks({"a": {"train": train}, "b": {"validation": evaluation}})
    assert all((leak.train, leak.evaluation) == ("a/train", "b/validation") for leak in found)
    return [(leak.rows, leak.kind) for leak in found]


CASES: dict[str, tuple[list[tuple[str, ...]], list[tuple[int, str]]]] = {
    "nothing": ([("Another text.", "Two texts.")], []),
    "exact": ([("A man eats.", "Someone eats.")], [(1, "exact")]),
    "case and punctuation": ([("a man  eats", "SOMEONE eats .")], [(1, "normalized")]),
    "order of a pair": ([("Someone eats.", "A man eats.")], [(1, "normalized")]),
    "order and case": ([("words", "same")], [(1, "normalized")]),
    "half a pair": ([("A man eats.",)], []),
    "a text of a pair alone": ([("A man eats.", "Two texts.")], []),
    "rows, duplicates too": (
        [("Same", "words"), ("Same", "words"), ("same", "words"), ("Same", "words"), ("same", "words")],
        [(3, "exact"), (2, "normalized")],
    ),
    "words stay apart": ([("Same words", "")], []),
}


@pytest.mark.parametrize("case", CASES)
def test_rows_found_again(case: str) -> None:
    evaluation, expected = CASES[case]
    assert leaks(evaluation) == expected


def test_all_pairs_of_tasks_are_compared_but_training_splits_are_not() -> None:
    x, y = ("x x", "y"), ("y", "z")
    found = find_leaks(
        {"a": {"train": [x], "validation": [x, y]}, "b": {"train": [x, y], "validation": [], "test": [y]}}
    )
    assert found == [
        Leak("a/train", "a/validation", 1, "exact"),
        Leak("b/train", "a/validation", 2, "exact"),
        Leak("b/train", "b/test", 1, "exact"),
    ]


def test_in_words_and_as_json() -> None:
    assert str(Leak("a/train", "b/validation", 1, "exact")) == "b/validation: 1 row stands in a/train (exact)"
    assert str(Leak("a/train", "b/validation", 2000, "normalized")) == (
        "b/validation: 2,000 rows stand in a/train (normalized)"
    )
    assert Leak("a/train", "b/validation", 2, "exact").as_json() == {
        "train": "a/train",
        "evaluation": "b/validation",
        "rows": 2,
        "kind": "exact",
    }


def test_validate_tells_leaks_between_tasks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def write(name: str, texts: list[str]) -> str:
        rows = [{"text": text, "label": row % 2} for row, text in enumerate(texts)]
        return write_jsonl(tmp_path / f"{name}.jsonl", rows).name

    definition = "{}: {{type: classification, labels: [x, y], data: {{files: {}, columns: {{text_a: text}}}}}}\n"
    files = {
        "a": {"train": write("at", ["one", "two", "three", "four"]), "validation": write("av", ["five", "six"])},
        "b": {"train": write("bt", ["seven", "Six."]), "validation": write("bv", ["three", "three", "TWO", "eight"])},
    }
    path = tmp_path / "tasks.yml"
    path.write_text("".join(definition.format(name, json.dumps(splits)) for name, splits in files.items()))
    assert main(["validate", str(path), "--json"]) == 0
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert printed["errors"] == []
    assert printed["leaks"] == [
        {"train": "a/train", "evaluation": "b/validation", "rows": 2, "kind": "exact"},
        {"train": "a/train", "evaluation": "b/validation", "rows": 1, "kind": "normalized"},
        {"train": "b/train", "evaluation": "a/validation", "rows": 1, "kind": "normalized"},
    ]
    assert printed["tasks"]["b"]["validation"]["duplicates"] == 1
    assert printed["tasks"]["b"]["validation"]["conflicts"] == 1


@pytest.mark.data
def test_known_overlaps_of_the_real_sets(data_root: Path) -> None:
    """Counted by hand in the mirror's README, as unordered pairs of lower-cased words."""
    definitions, problems = read_task_defs([ROOT / "task_defs" / "glue.yml"])
    assert problems == []
    texts: dict[str, dict[str, list[tuple[str, ...]]]] = {}
    for name in ("mrpc", "stsb", "cola"):
        task, _ = complete(name, definitions[name])
        assert task is not None
        texts[name] = {}
        for split in ("train", "validation"):
            source = locate(task, split, str(data_root))
            if isinstance(source, Problem):
                pytest.skip(str(source))
            assert check_split(name, task, source).problems == []
            texts[name][split] = examine(name, task, source)[1]
    found = {(leak.train, leak.evaluation, leak.kind): leak.rows for leak in find_leaks(texts)}
    assert {key: rows for key, rows in found.items() if key[0].split("/")[0] != key[1].split("/")[0]} == {
        ("stsb/train", "mrpc/validation", "normalized"): 48,
        ("mrpc/train", "stsb/validation", "normalized"): 111,
    }
    # Within a set, raw strings were counted.
    assert found["cola/train", "cola/validation", "exact"] == 16
    assert found["stsb/train", "stsb/validation", "exact"] == 6
