"""Evaluation rows in training data, of the same task or another."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, write_jsonl

from mtl.cli import main
from mtl.data import Examples
from mtl.definitions import complete, read_task_defs
from mtl.leaks import CHUNK, Leak, LeakSearch, Texts, normalized
from mtl.minhash import BANDS, BUCKET, HASHES, SIMILAR, bucket_keys, shingles, similarity
from mtl.reading import check_data
from mtl.subsets import without_leaks
from mtl.taskdef import TaskDef

NORMAL_FORMS = [
    (("The  Cat, sat!",), ("the cat sat",)),
    (("b", "A"), ("a", "b")),
    (("It's 5 o'clock .",), ("it s 5 o clock",)),
    (("snake_case",), ("snake_case",)),
    (("ÉTÉ — été",), ("été été",)),
    (("...", ""), ("", "...")),
    (("😡", " 😍 !"), ("😍 !", "😡")),  # all there is
    (("Well 😡", "well!"), ("well", "well")),
    (("वह अच्छा लड़का है।",), ("वह अच्छा लड़का है",)),  # he and she are told apart by marks alone
    (("वह अच्छी लड़की है।",), ("वह अच्छी लड़की है",)),
    (("cafe\u0301", "한국어"), ("caf\u00e9", "\ud55c\uad6d\uc5b4")),  # decomposed, as other systems write it
    (("Straße",), ("strasse",)),
]


@pytest.mark.parametrize(("texts", "form"), NORMAL_FORMS)
def test_the_normal_form(texts: Texts, form: Texts) -> None:
    assert normalized(texts) == form


def searched(texts: Mapping[str, Mapping[str, Sequence[Texts]]]) -> LeakSearch:
    """A search of task → split → rows."""
    search = LeakSearch()
    for training in (False, True):
        for task, splits in texts.items():
            for split, rows in splits.items():
                if training == (split == "train"):
                    for position, row in enumerate(rows):
                        if training:
                            search.add_training(f"{task}/{split}", position, row)
                        else:
                            search.add_evaluation(f"{task}/{split}", position, row)
                    if training:
                        search.finish(f"{task}/{split}")
    return search


LONG = "A quick brown fox jumps over the lazy dog near the old river bank at dawn"
TRAIN: list[Texts] = [
    ("A man eats.", "Someone eats."),
    ("One text.", "Two texts."),
    ("Same", "words"),
    (LONG, "It ran."),
]


def leaks(evaluation: list[Texts], train: list[Texts] = TRAIN) -> list[tuple[int, str]]:
    found = searched({"a": {"train": train}, "b": {"validation": evaluation}}).leaks()
    assert all((leak.train, leak.evaluation) == ("a/train", "b/validation") for leak in found)
    return [(leak.rows, leak.kind) for leak in found]


CASES: dict[str, tuple[list[Texts], list[tuple[int, str]]]] = {
    "no rows": ([], []),
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
    "a letter": ([(LONG.replace("dawn", "dawns"), "It ran.")], [(1, "near")]),
    "a letter, in the other order": ([("It ran!", LONG.replace("river", "rivers"))], [(1, "near")]),
    "an end cut off": ([(LONG[:-8], "It ran.")], [(1, "near")]),
    "another second text": ([(LONG, "It slept well.")], []),
    "half the text": ([(LONG[:40], "It ran.")], []),
    "the same words in another order": ([(" ".join(sorted(LONG.split())), "It ran.")], []),
}


@pytest.mark.parametrize("case", CASES)
def test_rows_found_again(case: str) -> None:
    evaluation, expected = CASES[case]
    assert leaks(evaluation) == expected


def test_all_pairs_of_tasks_are_compared_but_training_splits_are_not() -> None:
    x, y = ("x x", "y"), ("y", "z")
    search = searched(
        {"a": {"train": [x], "validation": [x, y]}, "b": {"train": [x, y], "validation": [], "test": [y]}}
    )
    assert search.leaks() == [
        Leak("a/train", "a/validation", 1, "exact"),
        Leak("b/train", "a/validation", 2, "exact"),
        Leak("b/train", "b/test", 1, "exact"),
    ]
    assert search.leaked == {"a/train": {0}, "b/train": {0, 1}}


def test_similarity_is_jaccard_s_index_of_the_lesser_text_in_the_better_order() -> None:
    assert shingles(("abcdef", "ab")) == ({"abcde", "bcdef"}, {"ab"})
    assert similar(("abcdefghij",), ("abcdefghik",)) == 5 / 7
    assert similar(("abcdefghij", "same"), ("same", "abcdefghik")) == 5 / 7
    assert similar(("abcdefghij", "same"), ("other", "abcdefghik")) == 0.0
    assert similar(("same",), ("same", "same")) == 0.0
    assert similar(("ha " * 10,), ("ha " * 40,)) == 1.0


def similar(one: tuple[str, ...], other: tuple[str, ...]) -> float:
    return similarity(shingles(one), shingles(other))


def mutated(text: str, generator: random.Random) -> str:
    """A text with some of its letters replaced."""
    letters = list(text)
    for _ in range(generator.randrange(4)):
        letters[generator.randrange(len(letters))] = generator.choice("abcdefgh ")
    return normalized(("".join(letters),))[0]


@pytest.mark.parametrize("arity", [1, 2])
def test_near_duplicates_are_those_that_comparing_all_pairs_finds(arity: int) -> None:
    """But for those the buckets miss: some two in a thousand at the threshold."""
    generator = random.Random(arity)

    def text() -> str:
        return normalized(("".join(generator.choices("abcdefgh ", k=generator.randrange(20, 120))),))[0]

    train = [tuple(text() for _ in range(arity)) for _ in range(600)]
    evaluation = [normalized(tuple(mutated(part, generator) for part in row)) for row in generator.sample(train, 400)]
    train = [normalized(row) for row in train]
    values = np.array([[similar(row, other) for row in train] for other in evaluation[:100]])
    assert 20 < (values.max(axis=1) >= SIMILAR).sum() < 90
    search = searched({"a": {"train": train}, "b": {"validation": evaluation[:100]}})
    found = {leak.kind: leak.rows for leak in search.leaks()}
    assert sum(found.values()) == (values.max(axis=1) >= SIMILAR).sum()
    assert search.leaked["a/train"] == set(np.flatnonzero(values.max(axis=0) >= SIMILAR).tolist())


@pytest.mark.parametrize(("prompts", "own"), [(3, 150), (4, 70)])
def test_near_duplicates_are_found_behind_a_common_prompt_without_comparing_all(
    prompts: int, own: int, monkeypatch: Any
) -> None:
    """Also where the prompt is most of a row, so that all rows are alike: 0.74 in the second case."""
    generator = random.Random(0)
    prompt = "Read the following review of a film and decide whether its author liked it or not. The review: "

    def row(text: str) -> tuple[str, ...]:
        return normalized((prompt * prompts + text,))

    bodies = ["".join(generator.choices("abcdefgh ", k=own)) for _ in range(500)]
    planted = sorted(generator.sample(range(500), 40))
    evaluation = [row(mutated(bodies[number], generator)) for number in planted]
    evaluation += [row("".join(generator.choices("abcdefgh ", k=own))) for _ in range(460)]
    compared = []

    def counting(*rows: Any) -> float:
        compared.append(rows)
        return similarity(*rows)

    monkeypatch.setattr("mtl.minhash.similarity", counting)
    search = searched({"a": {"train": [row(body) for body in bodies]}, "b": {"validation": evaluation}})
    assert search.leaked["a/train"] == set(planted)
    assert sum(leak.rows for leak in search.leaks()) == 40
    assert 40 <= len(compared) <= 500 * BUCKET


def test_buckets_are_shared_as_often_as_minhash_says() -> None:
    generator = np.random.default_rng(0)
    rows = 4000
    letters = generator.integers(97, 123, size=(rows, 120), dtype=np.uint8)
    changed = letters.copy()
    changed[:, 60] = 32  # 5 of 116 shingles differ
    one, other = ([(bytes(row).decode(),) for row in texts] for texts in (letters, changed))
    expected = (111 / 121) ** HASHES
    assert similar(one[0], other[0]) == 111 / 121
    shared = (bucket_keys(one) == bucket_keys(other)).mean()
    assert shared == pytest.approx(expected, abs=5 * np.sqrt(expected * (1 - expected) / (rows * BANDS)) * HASHES)
    assert (bucket_keys(one) == bucket_keys(one[::-1])).mean() < 1e-3


def test_in_words_and_as_json() -> None:
    assert str(Leak("a/train", "b/validation", 1, "exact")) == "b/validation: 1 row occurs in a/train (exact)"
    assert str(Leak("a/train", "b/validation", 2000, "normalized")) == (
        "b/validation: 2,000 rows occur in a/train (normalized)"
    )
    leak = Leak("a/train", "b/validation", 2, "exact", [[1999, 3], [5, 4]])
    assert leak.as_json() == {
        "train": "a/train",
        "evaluation": "b/validation",
        "rows": 2,
        "kind": "exact",
        "examples": [[1999, 3], [5, 4]],
    }
    assert leak.example == ", such as row 3, which is row 1,999 there (counted from 0)"
    assert Leak("a/train", "b/validation", 2, "exact").example == ""


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
        {"train": "a/train", "evaluation": "b/validation", "rows": 2, "kind": "exact", "examples": [[2, 0], [2, 1]]},
        {"train": "a/train", "evaluation": "b/validation", "rows": 1, "kind": "normalized", "examples": [[1, 2]]},
        {"train": "b/train", "evaluation": "a/validation", "rows": 1, "kind": "normalized", "examples": [[1, 1]]},
    ]
    assert printed["tasks"]["b"]["validation"]["duplicates"] == 1
    assert printed["tasks"]["b"]["validation"]["conflicts"] == 1
    assert main(["validate", str(path)]) == 0
    told = "warning: a/validation: 1 row occurs in b/train (normalized), such as row 1, which is row 1 there"
    assert told in capsys.readouterr().out
    assert main(["validate", str(path), "--json", "--leaks", "ignore"]) == 0
    assert json.loads(capsys.readouterr().out)["leaks"] == []


def test_examples_are_of_the_closest_kind() -> None:
    """The second row comes close to the first training row, is the second one but for case, and the third one."""
    close = ("the quick brown fox jumps over the lazy dog and more of it!",)
    row = ("the quick brown fox jumps over the lazy dog and more of it all",)
    search = searched({"a": {"train": [close, (row[0].upper(),), row], "validation": [("other",), row]}})
    assert [(leak.kind, leak.rows, leak.examples) for leak in search.leaks()] == [("exact", 1, [[2, 1]])]
    search = searched({"a": {"train": [close, (row[0].upper(),)], "validation": [("other",), row]}})
    assert [(leak.kind, leak.rows, leak.examples) for leak in search.leaks()] == [("normalized", 1, [[1, 1]])]
    search = searched({"a": {"train": [close], "validation": [("other",), row]}})
    assert [(leak.kind, leak.rows, leak.examples) for leak in search.leaks()] == [("near", 1, [[0, 1]])]


def task_of(kind: str) -> TaskDef:
    columns = {"text_a": "a", "text_b": "b"} | ({"group": "g"} if kind == "ranking" else {})
    return TaskDef.model_validate({"type": kind, "data": {"hub": "x/y", "columns": columns}})


def examples_of(groups: list[int]) -> Examples:
    rows = np.arange(len(groups)) + 10
    empty: Any = None
    arrays = np.zeros(len(rows), dtype=np.int64), np.zeros(len(rows)), np.array(groups), rows
    return Examples(empty, np.arange(len(rows)), *arrays, "", 0, np.zeros(len(rows), dtype=bool))


@pytest.mark.parametrize(("kind", "kept"), [("regression", [10, 12, 14]), ("ranking", [14])])
def test_leaked_rows_are_dropped_and_in_ranking_their_queries(kind: str, kept: list[int]) -> None:
    examples = without_leaks(task_of(kind), examples_of([0, 0, 1, 1, 2]), {11, 13, 99})
    assert examples.rows.tolist() == kept
    assert examples.dropped == 5 - len(kept)


@pytest.mark.parametrize(("policy", "rows", "dropped"), [("warn", 5, 0), ("drop", 3, 2), ("ignore", 5, 0)])
def test_train_tells_drops_or_ignores(
    policy: str, rows: int, dropped: int, tmp_path: Path, encoder_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def write(name: str, texts: list[str]) -> str:
        return write_jsonl(
            tmp_path / f"{name}.jsonl", [{"text": text, "label": row % 2} for row, text in enumerate(texts)]
        ).name

    files = {
        "train": write("train", ["one", "two", "three", "four", "five"]),
        "validation": write("v", ["Two", "four"]),
    }
    path = tmp_path / "tasks.yml"
    data = json.dumps({"files": files, "columns": {"text_a": "text"}})
    path.write_text(f"t: {{type: classification, labels: [x, y], batch_size: 1, data: {data}}}\n")
    run = tmp_path / "run"
    words = ["train", str(path), "--encoder", str(encoder_dir), "--output", str(run), "--max-steps", "1"]
    assert main([*words, "--leaks", policy]) == 0
    out = capsys.readouterr().out
    facts = json.loads((run / "results.json").read_text())["data"]["t"]["train"]
    assert (facts["rows"], facts["dropped"]) == (rows, dropped)
    told = {"warn": "warning: ", "drop": "note: "}.get(policy)
    for rows_told in ("1 row occurs in t/train (exact)", "1 row occurs in t/train (normalized)"):
        assert (f"{told}t/validation: {rows_told}" in out) is (told is not None)
    assert ("t/train: 2 rows left out because of leaks" in out) is (policy == "drop")
    assert len(json.loads((run / "provenance.json").read_text())["leaks"]) == (0 if policy == "ignore" else 2)


def test_rows_of_a_full_chunk_are_searched() -> None:
    rows: list[Texts] = [(LONG,), *((f"filler number {row}",) for row in range(CHUNK))]
    assert searched({"t": {"train": rows, "validation": [(LONG,)]}}).leaked == {"t/train": {0}}


def test_dropping_every_row_is_an_error(tmp_path: Path, encoder_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"text": "one", "label": 0}, {"text": "two", "label": 1}]
    files = {split: f"{split}.jsonl" for split in ("train", "validation")}
    for order, file in zip((1, -1), files.values(), strict=True):
        write_jsonl(tmp_path / file, rows[::order])
    path = tmp_path / "tasks.yml"
    data = json.dumps({"files": files, "columns": {"text_a": "text"}})
    path.write_text(f"t: {{type: classification, labels: [x, y], data: {data}}}\n")
    words = ["train", str(path), "--encoder", str(encoder_dir), "--output", str(tmp_path / "run"), "--max-steps", "1"]
    assert main([*words, "--leaks", "drop"]) == 2
    assert "--leaks drop: leaves t no training rows: all are also evaluation rows" in capsys.readouterr().err


@pytest.mark.data
def test_known_overlaps_of_the_real_sets(data_root: Path) -> None:
    """Counted in the mirror's README, as unordered pairs of lower-cased words."""
    definitions, problems = read_task_defs([ROOT / "task_defs" / "glue.yml"])
    assert problems == []
    tasks = {}
    for name in ("mrpc", "stsb", "cola", "sst2"):
        task, _ = complete(name, definitions[name])
        assert task is not None
        splits = {"train": "train", "validation": "validation"} | ({} if name == "cola" else {"test": "test"})
        tasks[name] = task.model_copy(update={"data": task.data.model_copy(update={"splits": splits})})
    data = check_data(tasks, str(data_root), search=True)
    if data.problems:
        pytest.skip(str(data.problems[0]))
    found = {(leak.train, leak.evaluation, leak.kind): leak.rows for leak in data.leaks.leaks()}

    def same(train: str, evaluation: str) -> int:
        return sum(found.get((train, evaluation, kind), 0) for kind in ("exact", "normalized"))

    assert same("stsb/train", "mrpc/validation") == 48
    assert same("stsb/train", "mrpc/test") == 499
    assert same("mrpc/train", "stsb/validation") == 111
    assert same("mrpc/train", "stsb/test") == 119
    # Within a set, raw strings were counted.
    exact = {train: rows for (train, _, kind), rows in found.items() if kind == "exact" and "stsb" not in train}
    assert exact == {"cola/train": 16, "sst2/train": 2}
    assert found["stsb/train", "stsb/validation", "exact"] == 6
    assert found["stsb/train", "stsb/test", "exact"] == 7
    assert 0 < found["mrpc/train", "stsb/validation", "near"] < 20


def test_every_training_row_near_a_known_evaluation_row_is_leaked() -> None:
    """And every evaluation row near a training row that is known to be leaked is counted."""
    near = [(LONG.replace("dawn", "dawns"),), (LONG.replace("river", "rivers"),)]
    search = searched({"t": {"train": [(LONG,), *near], "validation": [(LONG,)]}})
    assert search.leaked == {"t/train": {0, 1, 2}}
    assert search.leaks() == [Leak("t/train", "t/validation", 1, "exact")]
    search = searched({"t": {"train": [(LONG,)], "validation": [(LONG,), *near]}})
    assert search.leaked == {"t/train": {0}}
    assert search.leaks() == [
        Leak("t/train", "t/validation", 1, "exact"),
        Leak("t/train", "t/validation", 2, "near"),
    ]


def definitions_of(folder: Path, texts: Mapping[str, Sequence[str]]) -> Path:
    """A definition of a task of two labels, named by the folder; its splits hold these texts."""
    files = {
        split: str(write_jsonl(folder / f"{split}.jsonl", [{"text": t, "label": i % 2} for i, t in enumerate(rows)]))
        for split, rows in texts.items()
    }
    data = json.dumps({"files": files, "columns": {"text_a": "text"}})
    path = folder / "tasks.yml"
    path.write_text(f"{folder.name}: {{type: classification, labels: [x, y], batch_size: 4, data: {data}}}\n")
    return path


def test_adaptation_tells_rows_that_the_encoder_saw_before(
    tmp_path: Path, encoder_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = definitions_of(tmp_path / "a", {"train": ["one", "two", "three", "four"], "validation": ["five", "one"]})
    second = definitions_of(tmp_path / "b", {"train": ["six", "seven"], "validation": ["three", "TWO", "eight"]})
    short = ["--max-steps", "1", "--no-smart", "--no-proximal"]
    run, new, again = (tmp_path / name for name in ("run", "new", "again"))
    words = ["train", str(first), "--encoder", str(encoder_dir), "--output", str(run), "--leaks", "drop", *short]
    assert main(words) == 0
    for policy in ("warn", "drop"):
        capsys.readouterr()
        words = ["adapt", str(run), "--task", "b", "--task-defs", str(second), "--output", str(new), "--overwrite"]
        assert main([*words, "--leaks", policy, *short]) == 0
        out, card = capsys.readouterr().out, (new / "best" / "b" / "README.md").read_text()
        for kind in ("exact", "normalized"):
            told = f"warning: b/validation: 1 row occurs in a/train ({kind}), on which the encoder was trained before"
            assert (
                told in out and f"- In the training data: `b/validation`: 1 row occurs in `a/train` ({kind})." in card
            )
        assert "--leaks drop leaves" not in out, "they are not of this run's training rows"
    assert main(["adapt", str(run), "--task", "a", "--output", str(again), *short]) == 0
    assert "trained before" not in capsys.readouterr().out, "the run to start from left them out"

    third = definitions_of(tmp_path / "c", {"train": ["nine", "ten"], "validation": ["one", "seven", "eleven"]})
    for words in (
        ["adapt", str(new), "--task", "c", "--task-defs", str(third)],
        ["train", str(third), "--encoder", str(new / "model")],
    ):
        capsys.readouterr()
        assert main([*words, "--output", str(tmp_path / f"third-{words[0]}"), *short]) == 0
        out = capsys.readouterr().out
        for place in ("a/train", "b/train"):  # of the run that the one before started from, and of that one
            assert f"c/validation: 1 row occurs in {place} (exact), on which the encoder was trained before" in out
    for encoder in ("model", "best/b"):
        main(["validate", str(third), "--encoder", str(new / encoder)])
        out = capsys.readouterr().out
        assert all(f"c/validation: 1 row occurs in {place} (exact)" in out for place in ("a/train", "b/train")), encoder
    assert main(["export", str(new), "--output", str(tmp_path / "exports")]) == 0
    for words in (["validate"], ["train", "--output", str(tmp_path / "from-export"), *short]):
        main([*words, str(third), "--encoder", str(tmp_path / "exports" / "b")])
        assert "is an export: the rows that it was trained on are not searched for leaks" in capsys.readouterr().out

    shutil.rmtree(tmp_path / "a")
    words = ["adapt", str(run), "--task", "b", "--task-defs", str(second), "--output", str(tmp_path / "gone"), *short]
    assert main(words) == 0
    assert "note: a/train, which the encoder was trained on, cannot be read" in capsys.readouterr().out


def test_a_baseline_s_card_does_not_say_that_it_saw_rows_of_other_tasks(tmp_path: Path, encoder_dir: Path) -> None:
    one = definitions_of(tmp_path / "a", {"train": ["one", "two", "three"], "validation": ["four", "one"]})
    two = definitions_of(tmp_path / "b", {"train": ["five", "six"], "validation": ["two", "seven"]})
    run = tmp_path / "run"
    words = ["train", str(one), str(two), "--encoder", str(encoder_dir), "--output", str(run), "--max-steps", "2"]
    assert main([*words, "--no-smart", "--no-proximal", "--baselines"]) == 0

    def seen(folder: Path) -> list[str]:
        lines = (folder / "README.md").read_text().splitlines()
        return [
            line.removeprefix("- In the training data: ")
            for line in lines
            if line.startswith("- In the training data: ")
        ]

    own, other = (
        "`a/validation`: 1 row occurs in `a/train` (exact).",
        "`b/validation`: 1 row occurs in `a/train` (exact).",
    )
    assert (seen(run / "best" / "a"), seen(run / "best" / "b")) == ([own], [other])
    alone = [seen(run / "baselines" / name / "best" / name) for name in "ab"]
    assert alone == [[own], []], "`b` alone was not trained on the rows of `a`"


def test_leaks_that_an_earlier_run_left_in_are_told_even_if_this_one_drops_them(
    tmp_path: Path, encoder_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = definitions_of(tmp_path / "a", {"train": ["one", "two", "three"], "validation": ["four", "one"]})
    two = definitions_of(tmp_path / "b", {"train": ["five", "six"], "validation": ["two", "seven"]})
    short = ["--max-steps", "1", "--no-smart", "--no-proximal", "--overwrite"]

    def told(policy: str, *tasks: Path) -> list[str]:
        """Of `a` in a run that drops leaks, after one on `a` alone under a policy."""
        words = ["train", str(one), "--encoder", str(encoder_dir), "--output", str(tmp_path / "run")]
        assert main([*words, "--leaks", policy, *short]) == 0
        words = ["train", *map(str, tasks), "--encoder", str(tmp_path / "run" / "model")]
        capsys.readouterr()
        assert main([*words, "--output", str(tmp_path / "next"), "--leaks", "drop", *short]) == 0
        card = (tmp_path / "next" / "best" / "a" / "README.md").read_text()
        before = [line for line in capsys.readouterr().out.splitlines() if line.endswith("was trained before")]
        assert ("- In the training data: `a/validation`" in card) == any("a/validation" in line for line in before)
        return [line.removeprefix("warning: ").partition(" (")[0] for line in before]

    own, other = "a/validation: 1 row occurs in a before/train", "b/validation: 1 row occurs in a before/train"
    assert told("warn", one) == [own]
    assert told("warn", one, two) == [own, other]
    assert told("drop", one) == [], "that run had left them out"
    assert told("drop", one, two) == [other], "of which that run did not know"


def test_earlier_rows_are_read_from_the_mirror_of_their_time(
    tmp_path: Path, encoder_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"text": text, "label": number % 2} for number, text in enumerate(["one", "two", "three"])]
    mirror = tmp_path / "mirror"
    for split in ("train", "validation"):
        write_jsonl(mirror / "some" / "set" / "default" / f"{split}.jsonl", rows if split == "train" else rows[:1])
    task = "{type: classification, labels: [x, y], data: {hub: some/set, columns: {text_a: text}}}"
    (tmp_path / "hub.yml").write_text(f"there: {task}\n")
    own = definitions_of(tmp_path / "own", {"train": ["four", "five"], "validation": ["three"]})
    short = ["--max-steps", "1", "--no-smart", "--no-proximal", "--overwrite"]
    words = ["train", str(tmp_path / "hub.yml"), "--encoder", str(encoder_dir), "--data-root", str(mirror)]
    assert main([*words, "--output", str(tmp_path / "run"), *short]) == 0

    def told() -> str:
        capsys.readouterr()
        words = ["train", str(own), "--encoder", str(tmp_path / "run" / "model"), "--output", str(tmp_path / "next")]
        assert main([*words, *short]) == 0
        return capsys.readouterr().out

    assert "warning: own/validation: 1 row occurs in there/train (exact), on which" in told()
    other = tmp_path / "other" / "some" / "set" / "default"
    for split, texts in {"train": ["six", "seven"], "validation": ["two"]}.items():
        write_jsonl(other / f"{split}.jsonl", [{"text": text, "label": number} for number, text in enumerate(texts)])
    words = ["train", str(tmp_path / "hub.yml"), "--encoder", str(tmp_path / "run" / "model"), *short]
    assert main([*words, "--output", str(tmp_path / "next"), "--data-root", str(tmp_path / "other")]) == 0
    assert "warning: there/validation: 1 row occurs in there before/train (exact), on which" in capsys.readouterr().out

    write_jsonl(mirror / "some" / "set" / "default" / "train.jsonl", [{"sentence": "three", "label": 0}])
    for _ in range(2):  # what cannot be read is not found in the cache either
        assert "note: there/train, which the encoder was trained on, cannot be read" in told()


def test_rows_are_drawn_from_those_that_are_left(tmp_path: Path, encoder_dir: Path) -> None:
    texts = [f"{word} thing" for word in "one two three four five six seven eight".split()]
    path = definitions_of(tmp_path / "t", {"train": texts, "validation": texts[:4]})
    for seed in ("1", "2", "3"):
        words = ["train", str(path), "--encoder", str(encoder_dir), "--output", str(tmp_path / seed), "--seed", seed]
        words += ["--max-steps", "1", "--leaks", "drop", "--train-size", "4", "--no-smart", "--no-proximal"]
        assert main(words) == 0
        assert json.loads((tmp_path / seed / "results.json").read_text())["data"]["t"]["train"]["rows"] == 4


def test_rows_that_are_evaluated_or_not_are_told(
    tmp_path: Path, encoder_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether or not leaks are searched for; and held-out rows take the place of all other evaluation rows."""
    same = definitions_of(tmp_path / "a" / "t", {"train": NUMBERS, "validation": NUMBERS})
    other = definitions_of(tmp_path / "b" / "t", {"train": NUMBERS, "validation": ["one"]})
    words = ["--encoder", str(encoder_dir), "--max-steps", "1", "--no-smart", "--no-proximal", "--leaks", "ignore"]
    held = ["--set", "train.holdout=0.2"]
    told, left = "warning: t/validation is the training data itself", "note: t/validation: not evaluated by this run"
    for policy in ("warn", "ignore"):
        assert main(["validate", str(same), "--leaks", policy]) == 0
        assert "t/validation is the training data itself" in capsys.readouterr().out
    for number, (path, more, expected) in enumerate(
        [
            (same, [], (True, False)),
            (other, [], (False, False)),
            (same, held, (False, False)),
            (other, held, (False, True)),
        ]
    ):
        assert main(["train", str(path), "--output", str(tmp_path / str(number)), *words, *more]) == 0
        out = capsys.readouterr().out
        assert (told in out, left in out) == expected
        assert ("t/validation: no row has" in out) is (path == other and not more)


def test_a_card_does_not_say_that_rows_were_seen_which_were_not_drawn(tmp_path: Path, encoder_dir: Path) -> None:
    path = definitions_of(tmp_path / "t", {"train": ["one", "two", "three"], "validation": ["three", "four"]})
    words = ["train", str(path), "--encoder", str(encoder_dir), "--output", str(tmp_path / "run"), "--max-steps", "1"]
    assert main([*words, "--train-size", "1", "--no-smart", "--no-proximal"]) == 0
    card = (tmp_path / "run" / "best" / "t" / "README.md").read_text()
    told = "`t/validation`: 1 row occurs in `t/train` (exact)."
    assert f"- In the data that training rows were drawn from: {told}" in card and "In the training data" not in card


@pytest.mark.parametrize("policy", ["warn", "drop"])
def test_held_out_rows_of_a_single_file_are_no_leak(
    policy: str, tmp_path: Path, encoder_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"a text {number}" for number in "one two three four five six seven eight nine ten".split()]
    path = definitions_of(tmp_path / "t", {"train": rows, "validation": rows})
    words = ["train", str(path), "--encoder", str(encoder_dir), "--output", str(tmp_path / "run"), "--max-steps", "1"]
    assert main([*words, "--leaks", policy, "--set", "train.holdout=0.3", "--no-smart", "--no-proximal"]) == 0
    assert "occur" not in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "provenance.json").read_text())["leaks"] == []
    for split, told in (("validation", "warning: t/validation is the training data itself"), ("train", "")):
        assert main(["evaluate", str(tmp_path / "run"), "--split", split]) == 0
        found = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
        assert len(found) == bool(told) and all(line.startswith(told) for line in found)
    assert main(["evaluate", str(tmp_path / "run"), "--split", "holdout"]) == 2
    assert "held-out rows are no split of the data" in capsys.readouterr().err


NUMBERS = [f"a text {n} and {m}" for n in "one two three four five".split() for m in "six seven eight nine".split()]
HOLDOUT = ["--max-steps", "1", "--no-smart", "--no-proximal", "--set", "train.holdout_rows=1"]


def test_adaptation_tells_held_out_rows_that_the_encoder_saw_before(
    tmp_path: Path, encoder_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = definitions_of(tmp_path / "t", {"train": NUMBERS, "validation": ["another"]})
    (whole, part), few = (tmp_path / name for name in ("whole", "part")), tmp_path / "few"
    train = ["train", str(path), "--encoder", str(encoder_dir), *HOLDOUT]
    assert main([*train, "--output", str(whole)]) == 0
    assert main([*train, "--output", str(part), "--set", "train.holdout=0.25"]) == 0

    def told(run: Path, *more: str) -> str:
        capsys.readouterr()
        words = ["adapt", str(run), "--task", "t", "--output", str(few), "--overwrite", *HOLDOUT, *more]
        assert main([*words, "--set", "train.holdout=0.25"]) == 0
        return capsys.readouterr().out

    for run, more in ((whole, ()), (part, ("--seed", "7"))):
        out, card = told(run, *more), (few / "best" / "t" / "README.md").read_text()
        (line,) = [line for line in out.splitlines() if "trained before" in line]
        assert line.startswith("warning: t/holdout: ") and "occur in t before/train (exact)" in line
        if run == whole:
            assert "5 rows" in line, "a quarter of 20"
        assert "- In the training data: `t/holdout`: " in card
        (leak,) = json.loads((few / "provenance.json").read_text())["leaks"]
        assert (leak["train"], leak["evaluation"]) == ("t before/train", "t/holdout") and 0 < leak["rows"] <= 5
    assert "trained before" not in told(part), "the same rows are held out"
    assert "trained before" not in told(whole, "--leaks", "ignore")


def test_held_out_rows_of_one_task_are_sought_in_all(
    tmp_path: Path, encoder_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"a": NUMBERS, "b": NUMBERS[::-1]}
    paths = [definitions_of(tmp_path / name, {"train": rows, "validation": ["x"]}) for name, rows in files.items()]
    words = ["train", *map(str, paths), "--encoder", str(encoder_dir), *HOLDOUT, "--set", "train.holdout=0.25"]
    assert main([*words, "--output", str(tmp_path / "warn")]) == 0
    out = capsys.readouterr().out
    told = [int(n) for n in re.findall(r"note: [ab]/train: (\d+) rows identical to held-out rows; --leaks drop", out)]
    assert len(told) == 2 and all(rows > 0 for rows in told)
    assert main([*words, "--output", str(tmp_path / "drop"), "--leaks", "drop", "--max-steps", "2", "--baselines"]) == 0

    def rows(run: str) -> int:
        return sum(plan["rows"] for plan in json.loads((tmp_path / run / "results.json").read_text())["plan"])

    assert rows("drop") == sum(15 - number for number in told)
    assert [rows(f"drop/baselines/{name}") for name in files] == [15 - number for number in told], "the same rows"
