"""Prepared examples are what the tokenizer gives, are prepared once, and few-shot parts nest."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import NOUNS, write_jsonl
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from mtl import checks, data
from mtl.checks import Row
from mtl.data import CHUNK, Examples, encode, prepare
from mtl.definitions import complete
from mtl.errors import StorageError, UserError
from mtl.settings import Sourced
from mtl.source import Source
from mtl.subsets import few_shot, hold_out, repeated
from mtl.taskdef import TaskDef
from mtl.tokenizer import UNBOUNDED, load_tokenizer, tokenizer_fingerprint, usable_length

ROWS = 2345  # more than two chunks


class Counting:
    """A tokenizer that counts the texts it is given, and may give up after some."""

    def __init__(self, tokenizer: Any, limit: float = float("inf")) -> None:
        self.tokenizer, self.limit, self.texts = tokenizer, limit, 0

    def __call__(self, texts: list[str], *rest: Any, **options: Any) -> Any:
        self.texts += len(texts)
        if self.texts > self.limit:
            raise KeyboardInterrupt
        return self.tokenizer(texts, *rest, **options)

    def __len__(self) -> int:
        return len(self.tokenizer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)


@pytest.fixture(scope="module")
def tokenizer(encoder_dir: Path) -> Any:
    return load_tokenizer(str(encoder_dir))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MTL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "prepared"


def make_task(task_type: str = "classification", *, pair: bool = True, **more: Any) -> TaskDef:
    columns = {"text_a": "first", **({"text_b": "second"} if pair else {})}
    if task_type == "ranking":
        columns["group"] = "id"
    if task_type == "classification":
        more.setdefault("labels", ["no", "yes"])
    source = Sourced({"type": task_type, "data": {"hub": "o/s", "columns": columns, **more.pop("data", {})}, **more})
    task, problems = complete("t", source)
    assert problems == []
    assert task is not None
    return task


def words(count: int, start: int = 0) -> str:
    return " ".join(NOUNS[(start + position) % len(NOUNS)] for position in range(count))


def make_rows(count: int) -> list[dict[str, Any]]:
    random = np.random.default_rng(0)
    lengths = random.integers(0, 30, size=(count, 2)).tolist()
    return [
        {"first": words(a, row), "second": words(b, 2 * row), "label": row % 2, "id": f"q{row // 3 % 400}"}
        for row, (a, b) in enumerate(lengths)
    ]


def source_of(path: Path, rows: list[dict[str, Any]]) -> Source:
    return Source(path=write_jsonl(path / "rows.jsonl", rows))


def test_the_cache_lies_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MTL_CACHE", "/a/b")
    assert data.cache_directory() == Path("/a/b")
    monkeypatch.delenv("MTL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    assert data.cache_directory() == Path("/c/mtl")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert data.cache_directory() == Path.home() / ".cache" / "mtl"
    for name in ("MTL_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "")
    assert data.cache_directory() == Path.home() / ".cache" / "mtl"


def test_a_cache_that_cannot_be_written_or_read_is_told_with_the_remedy(
    cache: Path, tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    remedy = re.escape("; set $MTL_CACHE to another directory for the cache") + "$"
    source = source_of(tmp_path, make_rows(5))
    found = cache / prepare("t", make_task(), source, tokenizer, 24).fingerprint

    def of_another_user(path: str) -> None:
        raise PermissionError(errno.EACCES, "Failed to open local file")

    with monkeypatch.context() as patch:
        patch.setattr(data.pa, "memory_map", of_another_user)
        with pytest.raises(StorageError, match=f"^{found} cannot be read: Permission denied{remedy}"):
            prepare("t", make_task(), source, tokenizer, 24)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MTL_CACHE", str(tmp_path / "file"))
    for labelled, place in ((True, tmp_path / "file" / "prepared" / found.name), (False, tmp_path / "file")):
        with pytest.raises(StorageError, match=f"^{place} cannot be written: .*{remedy}"):
            prepare("t", make_task(), source, tokenizer, 24, labelled=labelled)


def test_others_may_read_the_cache_where_the_user_lets_them(cache: Path, tmp_path: Path, tokenizer: Any) -> None:
    before = os.umask(0o027)
    try:
        found = cache / prepare("t", make_task(), source_of(tmp_path, make_rows(5)), tokenizer, 24).fingerprint
    finally:
        os.umask(before)
    assert stat.S_IMODE(found.stat().st_mode) == 0o750
    assert {stat.S_IMODE(path.stat().st_mode) for path in found.iterdir()} == {0o640}


@pytest.mark.parametrize("chunk", [1000, 7])
@pytest.mark.parametrize("pair", [True, False], ids=["pair", "single"])
def test_examples_are_what_the_tokenizer_gives(
    pair: bool, chunk: int, cache: Path, tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "CHUNK", chunk)
    rows = make_rows(ROWS if chunk == 1000 else 50)
    examples = prepare("t", make_task(pair=pair), source_of(tmp_path, rows), tokenizer, 24)
    assert len(examples) == len(rows) > 2 * chunk
    firsts, seconds = [row["first"] for row in rows], [row["second"] for row in rows] if pair else None
    encoded = tokenizer(firsts, seconds, truncation="longest_first", max_length=24)
    whole = tokenizer(firsts, seconds, verbose=False)
    for position in range(len(rows)):
        assert examples.tokens("input_ids", position).tolist() == encoded["input_ids"][position]
        assert examples.tokens("token_type_ids", position).tolist() == encoded["token_type_ids"][position]
    assert examples.has_token_types
    assert examples.lengths.tolist() == [len(ids) for ids in encoded["input_ids"]]
    assert examples.truncated.tolist() == [len(ids) > 24 for ids in whole["input_ids"]]
    assert 0 < examples.truncated.sum() < len(rows)
    assert examples.labels.tolist() == [row % 2 for row in range(len(rows))]
    assert examples.rows.tolist() == list(range(len(rows)))
    assert set(examples.groups.tolist()) == {-1}
    assert examples.unlabelled == 0


# Words of the two texts, limit (three of the tokens are special), words kept of each.
PAIRS = [(10, 3, 11, (5, 3)), (3, 10, 11, (3, 5)), (10, 10, 11, (4, 4)), (2, 1, 6, (2, 1)), (9, 0, 7, (4, 0))]


@pytest.mark.parametrize(("first", "second", "limit", "kept"), PAIRS)
def test_the_longer_text_of_a_pair_loses_tokens_first(
    first: int, second: int, limit: int, kept: tuple[int, int], cache: Path, tmp_path: Path, tokenizer: Any
) -> None:
    source = source_of(tmp_path, [{"first": words(first), "second": words(second, 5), "label": "no"}])
    examples = prepare("t", make_task(), source, tokenizer, limit)
    ids = tokenizer.convert_tokens_to_ids
    expected = [
        *ids(["[CLS]", *words(kept[0]).split(), "[SEP]"]),
        *ids([*words(kept[1], 5).split(), "[SEP]"]),
    ]
    assert examples.tokens("input_ids", 0).tolist() == expected
    assert examples.tokens("token_type_ids", 0).tolist() == [0] * (kept[0] + 2) + [1] * (kept[1] + 1)
    assert examples.truncated.tolist() == [kept != (first, second)]


def test_a_text_of_exactly_the_limit_is_whole(cache: Path, tmp_path: Path, tokenizer: Any) -> None:
    rows = [{"first": words(count), "label": "no"} for count in (7, 8, 9)]
    examples = prepare("t", make_task(pair=False), source_of(tmp_path, rows), tokenizer, 10)
    assert examples.lengths.tolist() == [9, 10, 10]
    assert examples.truncated.tolist() == [False, False, True]


def test_queries_are_numbered_in_order_of_appearance(cache: Path, tmp_path: Path, tokenizer: Any) -> None:
    rows = [{"first": "a", "second": "b", "label": n, "id": id} for n, id in enumerate(["x", 7, "x", "y", "7"])]
    examples = prepare("t", make_task("ranking"), source_of(tmp_path, rows), tokenizer, 24)
    assert examples.groups.tolist() == [0, 1, 0, 2, 1]
    assert examples.labels.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_unlabelled_rows_are_left_out_and_places_kept(cache: Path, tmp_path: Path, tokenizer: Any) -> None:
    rows = [{"first": words(n), "label": label} for n, label in enumerate([-1, 0, -1, 1])]
    task = make_task(pair=False, data={"unlabelled": [-1]})
    examples = prepare("t", task, source_of(tmp_path, rows), tokenizer, 24)
    assert (examples.rows.tolist(), examples.labels.tolist(), examples.unlabelled) == ([1, 3], [0.0, 1.0], 2)


def test_without_labels_all_rows_are_kept(cache: Path, tmp_path: Path, tokenizer: Any) -> None:
    rows = [{"first": words(n)} for n in range(3)]
    examples = prepare("t", make_task(pair=False), source_of(tmp_path, rows), tokenizer, 24, labelled=False)
    assert np.isnan(examples.labels).tolist() == [True] * 3


def test_rows_to_be_predicted_are_those_of_training_and_leave_nothing(
    cache: Path, tmp_path: Path, tokenizer: Any
) -> None:
    source = source_of(tmp_path, make_rows(CHUNK + 3))
    examples = prepare("t", make_task(), source, tokenizer, 24, labelled=False)
    assert list(cache.parent.iterdir()) == []
    labelled = prepare("t", make_task(), source, tokenizer, 24)
    for column in ("input_ids", "token_type_ids", "row", "truncated"):
        assert examples.table.column(column).to_pylist() == labelled.table.column(column).to_pylist()
    for example in (0, CHUNK - 1, CHUNK, CHUNK + 2):
        assert examples.tokens("input_ids", example).tolist() == labelled.tokens("input_ids", example).tolist()
    source_of(tmp_path, [{"other": "a"}])
    with pytest.raises(UserError):
        prepare("t", make_task(), source, tokenizer, 24, labelled=False)
    assert list(cache.parent.iterdir()) == [cache], "nothing beside the prepared splits"


def test_a_file_without_rows_has_no_examples(cache: Path, tmp_path: Path, tokenizer: Any) -> None:
    examples = prepare("t", make_task(), source_of(tmp_path, []), tokenizer, 24, labelled=False)
    assert len(examples) == 0
    assert not examples.has_token_types


def test_selected_examples_keep_their_tokens(cache: Path, tmp_path: Path, tokenizer: Any) -> None:
    examples = prepare("t", make_task(), source_of(tmp_path, make_rows(20)), tokenizer, 24)
    part = examples.select(np.array([17, 3, 8])).select(np.array([2, 0]))
    assert part.rows.tolist() == [8, 17]
    assert part.lengths.tolist() == examples.lengths[[8, 17]].tolist()
    for position, row in enumerate((8, 17)):
        assert part.tokens("input_ids", position).tolist() == examples.tokens("input_ids", row).tolist()


def test_bad_rows_are_told_and_nothing_is_kept(cache: Path, tmp_path: Path, tokenizer: Any) -> None:
    rows = [{"first": "a", "second": "b", "label": label} for label in ("no", "maybe", "perhaps")]
    with pytest.raises(UserError) as caught:
        prepare("t", make_task(), source_of(tmp_path, rows), tokenizer, 24)
    assert [problem.where for problem in caught.value.problems] == [f"{tmp_path / 'rows.jsonl'}:{n}" for n in (2, 3)]
    assert list(cache.iterdir()) == []


def test_prepared_data_is_found_again(cache: Path, tmp_path: Path, tokenizer: Any) -> None:
    counting = Counting(tokenizer)
    source = source_of(tmp_path, make_rows(30))
    first = prepare("t", make_task(), source, counting, 24)
    read = counting.texts
    assert read >= 30
    second = prepare("another name", make_task(), source, counting, 24)
    assert counting.texts == read
    assert second.fingerprint == first.fingerprint
    assert second.labels.tolist() == first.labels.tolist()
    # The same content elsewhere is the same data.
    prepare("t", make_task(), source_of(tmp_path / "copy", make_rows(30)), counting, 24)
    assert counting.texts == read
    assert len(list(cache.iterdir())) == 1


def test_prepared_data_is_made_anew_when_anything_changes(cache: Path, tmp_path: Path, tokenizer: Any) -> None:
    rows = make_rows(10)
    swapped = {"columns": {"text_a": "second", "text_b": "first"}}
    plain, task = source_of(tmp_path, rows), make_task()
    other = type(tokenizer).from_pretrained(tokenizer.name_or_path, do_lower_case=False)
    ways: list[tuple[TaskDef, Source, Any, int]] = [
        (task, plain, tokenizer, 24),
        (task, plain, tokenizer, 25),
        (task, plain, other, 24),
        (task, Source(path=plain.path, encoding="latin-1"), tokenizer, 24),
        (task, source_of(tmp_path / "more", [*rows, rows[0]]), tokenizer, 24),
        (task, source_of(tmp_path / "edited", [{**rows[0], "label": 1}, *rows[1:]]), tokenizer, 24),
        (make_task(labels=["yes", "no"]), plain, tokenizer, 24),
        (make_task(pair=False), plain, tokenizer, 24),
        (make_task(data=swapped), plain, tokenizer, 24),
        (make_task(data={"unlabelled": [1]}), plain, tokenizer, 24),
        (make_task(data={"unlabelled": [None]}), plain, tokenizer, 24),
        (make_task(data={"unlabelled": ["None"]}), plain, tokenizer, 24),
        (make_task("regression"), plain, tokenizer, 24),
        (make_task("ranking"), plain, tokenizer, 24),
    ]
    for number, (each, source, with_tokenizer, length) in enumerate(ways, 1):
        counting = Counting(with_tokenizer)
        prepare("t", each, source, counting, length)
        assert counting.texts >= 5, f"way {number} was taken from the cache"
        assert len(list(cache.iterdir())) == number
    for each, source, with_tokenizer, length in ways:
        counting = Counting(with_tokenizer)
        prepare("t", each, source, counting, length)
        assert counting.texts == 0


def test_the_same_bytes_under_another_suffix_are_read_anew(cache: Path, tmp_path: Path, tokenizer: Any) -> None:
    """In a TSV whose lines are even, a quotation that begins in one row and ends in another is text."""
    lines = ["first\tsecond\tlabel", 'a\t"cat\tno', 'a\tdog"\tyes', *["a\tb\tno"] * 4]
    counts = []
    for suffix in (".csv", ".tsv", ".csv"):
        path = tmp_path / f"rows{suffix}"
        path.write_text("\n".join(lines) + "\n")
        try:
            counts.append(len(prepare("t", make_task(), Source(path=path), tokenizer, 24)))
        except UserError:
            counts.append(0)
    assert counts == [counts[0], 6, counts[0]] and counts[0] != 6


def test_what_is_not_in_the_rows_does_not_matter(cache: Path, tmp_path: Path, tokenizer: Any) -> None:
    source, counting = source_of(tmp_path, make_rows(10)), Counting(tokenizer)
    prepare("t", make_task(), source, counting, 24)
    read = counting.texts
    prepare("t", make_task(weight=3.0, smart={"weight": 0.0}, batch_size=3, metrics=["f1"]), source, counting, 24)
    assert counting.texts == read


def test_an_edited_file_is_read_again(cache: Path, tmp_path: Path, tokenizer: Any) -> None:
    source = source_of(tmp_path, [{"first": "film", "second": "book", "label": "no"}])
    assert prepare("t", make_task(), source, tokenizer, 24).labels.tolist() == [0.0]
    source_of(tmp_path, [{"first": "film", "second": "book", "label": "yes"}])
    assert prepare("t", make_task(), source, tokenizer, 24).labels.tolist() == [1.0]


def test_an_interrupted_preparation_leaves_nothing(
    cache: Path, tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "CHUNK", 10)
    source = source_of(tmp_path, make_rows(55))
    with pytest.raises(KeyboardInterrupt):
        prepare("t", make_task(), source, Counting(tokenizer, limit=35), 64)
    assert list(cache.iterdir()) == []
    assert len(prepare("t", make_task(), source, Counting(tokenizer), 64)) == 55


def test_what_a_killed_preparation_leaves_is_not_taken_for_complete(
    cache: Path, tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed process cleans nothing up: what it wrote stays under another name than the one that is looked for."""
    monkeypatch.setattr(data, "CHUNK", 10)
    monkeypatch.setattr(data.shutil, "rmtree", lambda *_, **__: None)
    source = source_of(tmp_path, make_rows(55))
    with pytest.raises(KeyboardInterrupt):
        prepare("t", make_task(), source, Counting(tokenizer, limit=35), 64)
    assert [path.name.startswith(".building-") for path in cache.iterdir()] == [True]
    examples = prepare("t", make_task(), source, Counting(tokenizer), 64)
    assert len(examples) == 55
    assert (cache / examples.fingerprint).is_dir()


def test_what_a_killed_preparation_left_a_day_ago_is_removed(cache: Path, tmp_path: Path, tokenizer: Any) -> None:
    old, busy = (cache / f".building-{name}" for name in ("old", "busy"))
    yesterday = time.time() - 25 * 60 * 60
    for folder in (old, busy):
        folder.mkdir(parents=True)
        (folder / "examples.arrow").write_text("begun")
        os.utime(folder, (yesterday, yesterday))
    os.utime(old / "examples.arrow", (yesterday, yesterday))
    prepare("t", make_task(), source_of(tmp_path, make_rows(5)), tokenizer, 64)
    assert not old.exists()
    assert (busy / "examples.arrow").is_file(), "another process is writing"


def test_two_processes_may_prepare_the_same(
    cache: Path, tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_of(tmp_path, make_rows(5))
    expected = prepare("t", make_task(), source, Counting(tokenizer), 64)
    (cache / expected.fingerprint).rename(tmp_path / "made by the other")
    tokenise = data._tokenise

    def while_another_finishes(*arguments: Any) -> Any:
        os.rename(tmp_path / "made by the other", cache / expected.fingerprint)
        return tokenise(*arguments)

    monkeypatch.setattr(data, "_tokenise", while_another_finishes)
    examples = prepare("t", make_task(), source, Counting(tokenizer), 64)
    assert examples.lengths.tolist() == expected.lengths.tolist()
    assert [path.name for path in cache.iterdir()] == [expected.fingerprint]


def test_several_processes_give_the_same(
    cache: Path, tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "CHUNK", 40)
    source = source_of(tmp_path, make_rows(1000))
    one = prepare("t", make_task("ranking"), source, tokenizer, 24)
    shutil.rmtree(cache)
    monkeypatch.setattr(data, "_encode", None)  # of no use in another process
    several = prepare("t", make_task("ranking"), source, tokenizer, 24, num_proc=2)
    assert several.table.equals(one.table)
    assert several.table.column("input_ids").num_chunks == 25


def test_a_fault_in_another_process_is_told_and_leaves_nothing(cache: Path, tmp_path: Path, tokenizer: Any) -> None:
    rows = make_rows(50)
    rows[40]["label"] = 7
    with pytest.raises(UserError, match="unknown label 7"):
        prepare("t", make_task(), source_of(tmp_path, rows), tokenizer, 24, num_proc=2)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("num_proc", [1, 2])
def test_rows_are_read_as_they_are_written(
    num_proc: int, cache: Path, tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "CHUNK", 10)
    read = 0
    ahead: list[int] = []
    read_rows, new_file = checks.read_rows, data.pa.ipc.new_file

    def counted(source: Source, columns: Collection[str]) -> Any:
        nonlocal read
        for row in read_rows(source, columns):
            read += 1
            yield row

    def watched(*words: Any, **keys: Any) -> Any:
        writer = new_file(*words, **keys)

        class Watched:
            stats = property(lambda self: writer.stats)

            def __enter__(self) -> Any:
                return self

            def __exit__(self, *_: Any) -> None:
                writer.close()

            def write_batch(self, batch: Any) -> None:
                ahead.append(read - 10 * len(ahead))
                writer.write_batch(batch)

        return Watched()

    monkeypatch.setattr(checks, "read_rows", counted)
    monkeypatch.setattr(data.pa.ipc, "new_file", watched)
    assert len(prepare("t", make_task(), source_of(tmp_path, make_rows(500)), tokenizer, 24, num_proc=num_proc)) == 500
    assert len(ahead) == 50
    assert max(ahead) <= 10 * (2 * num_proc + 2)


def test_the_tokenizer_s_fingerprint_is_that_of_what_it_does(encoder_dir: Path, tokenizer: Any, tmp_path: Path) -> None:
    again = load_tokenizer(str(encoder_dir))
    again(["a long film"], truncation=True, max_length=4, padding=True)
    assert tokenizer_fingerprint(again) == tokenizer_fingerprint(tokenizer)
    vocabulary = json.loads((encoder_dir / "tokenizer.json").read_text())
    vocabulary["model"]["vocab"]["film"], vocabulary["model"]["vocab"]["book"] = (
        vocabulary["model"]["vocab"]["book"],
        vocabulary["model"]["vocab"]["film"],
    )
    for path in encoder_dir.iterdir():
        if path.suffix == ".json":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "tokenizer.json").write_text(json.dumps(vocabulary))
    other = load_tokenizer(str(tmp_path))
    assert other("film")["input_ids"] == tokenizer("book")["input_ids"]
    assert tokenizer_fingerprint(other) != tokenizer_fingerprint(tokenizer)


def test_a_tokenizer_without_padding_is_told(encoder_dir: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(encoder_dir))
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="has no padding token; give it one"):
        load_tokenizer(str(tmp_path))


def test_token_types_that_the_encoder_does_not_know_are_left_out(encoder_dir: Path, tmp_path: Path) -> None:
    """A tokenizer of BERT with an encoder of one type, as klue/roberta is; what is saved says so too."""
    shutil.copytree(encoder_dir, tmp_path / "one")
    config = json.loads((encoder_dir / "config.json").read_text())
    (tmp_path / "one" / "config.json").write_text(json.dumps(config | {"type_vocab_size": 1}))
    found = load_tokenizer(str(tmp_path / "one"))
    found.save_pretrained(tmp_path / "saved")
    for each in (found, AutoTokenizer.from_pretrained(tmp_path / "saved")):
        assert list(each("a film", "a book")) == ["input_ids", "attention_mask"]
    assert "token_type_ids" in load_tokenizer(str(encoder_dir)).model_input_names


@pytest.mark.parametrize("types", [True, False])
def test_an_empty_text_without_special_tokens_is_one_token(types: bool, encoder_dir: Path, tmp_path: Path) -> None:
    state = json.loads((encoder_dir / "tokenizer.json").read_text())
    (tmp_path / "bare.json").write_text(json.dumps(state | {"post_processor": None}))
    bare = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "bare.json"), pad_token="[PAD]")
    bare.model_input_names = ["input_ids", "attention_mask", *(["token_type_ids"] if types else [])]
    assert bare("")["input_ids"] == []
    examples = encode([Row(row, text, None, None, None) for row, text in enumerate(["", "film", ""])], bare, 8)
    assert examples.lengths.tolist() == [1, 1, 1] and examples.has_token_types is types
    assert examples.tokens("input_ids", 0).tolist() == [bare.pad_token_id]
    assert len(examples.tokens("token_type_ids", 2)) == int(types)


def test_a_directory_without_a_tokenizer_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the tokenizer cannot be loaded"):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize(
    ("model_type", "positions", "tokenizer_limit", "expected"),
    [
        ("bert", 512, 512, 512),
        ("bert", 512, 128, 128),
        ("bert", 64, 10**30, 64),
        # Positions of RoBERTa start after the padding id, here 1.
        ("roberta", 514, 512, 512),
        ("roberta", 514, 10**30, 512),
        ("longformer", 4098, 10**30, 4096),
        ("xlnet", -1, 10**30, UNBOUNDED),
        ("t5", None, 10**30, UNBOUNDED),
    ],
)
def test_the_usable_length(model_type: str, positions: int | None, tokenizer_limit: int, expected: int) -> None:
    class Config:
        max_position_embeddings = positions
        pad_token_id = 1

    class Tokenizer:
        model_max_length = tokenizer_limit

    config = Config()
    config.model_type = model_type  # type: ignore[attr-defined]
    assert usable_length(Tokenizer(), config) == expected


def examples_of(labels: list[float], groups: list[int] | None = None) -> Examples:
    """Examples without tokens, for what looks at labels and queries only."""
    import pyarrow as pa

    count = len(labels)
    return Examples(
        table=pa.table({}),
        index=np.arange(count),
        lengths=np.ones(count, dtype=np.int64),
        labels=np.array(labels, dtype=np.float64),
        groups=np.array(groups if groups is not None else [-1] * count, dtype=np.int64),
        rows=np.arange(count),
        fingerprint="",
        unlabelled=0,
        truncated=np.zeros(count, dtype=bool),
    )


SKEWED = examples_of([0.0] * 60 + [1.0] * 30 + [2.0] * 10)
VALUES = examples_of([float(n) for n in range(100)])
QUERIES = examples_of([1.0, 0.0, 0.0] * 40, [query for query in range(40) for _ in range(3)])
PARTS = {
    "classification": (make_task(labels=["a", "b", "c"]), SKEWED, 100),
    "regression": (make_task("regression"), VALUES, 100),
    "ranking": (make_task("ranking"), QUERIES, 40),
}


def rows_of(task: TaskDef, examples: Examples, size: int, seed: int = 0) -> list[int]:
    rows: list[int] = few_shot(task, examples, size, None, seed).rows.tolist()
    return rows


@pytest.mark.parametrize("task_type", PARTS)
def test_smaller_parts_lie_within_larger_ones(task_type: str) -> None:
    task, examples, units = PARTS[task_type]
    before: set[int] = set()
    for size in (1, 2, 3, 8, 16, 17, 32, units, units + 5):
        part = rows_of(task, examples, size)
        assert part == sorted(set(part)), "in the order of the source"
        assert before <= set(part)
        assert len(part) == min(size, units) * (3 if task_type == "ranking" else 1)
        before = set(part)
    assert before == set(range(len(examples)))


@pytest.mark.parametrize("task_type", PARTS)
def test_parts_depend_on_the_seed_alone(task_type: str) -> None:
    task, examples, _ = PARTS[task_type]
    assert rows_of(task, examples, 20, seed=1) == rows_of(task, examples, 20, seed=1)
    assert rows_of(task, examples, 20, seed=1) != rows_of(task, examples, 20, seed=2)


@pytest.mark.parametrize("size", [3, 10, 20, 33, 50, 99])
def test_classes_keep_their_shares(size: int) -> None:
    task, examples, units = PARTS["classification"]
    counts = Counter(examples.labels[rows_of(task, examples, size)].tolist())
    for label, number in ((0.0, 60), (1.0, 30), (2.0, 10)):
        assert abs(counts[label] - size * number / units) <= 1


def test_a_rare_class_comes_in_time() -> None:
    """Of 100 rows 10 are of class 2: every part of 20 holds at least one, which a plain draw misses 1 time in 10."""
    task, examples, _ = PARTS["classification"]
    assert all((examples.labels[rows_of(task, examples, 20, seed)] == 2).any() for seed in range(50))


def test_whole_queries_are_taken() -> None:
    task, examples, _ = PARTS["ranking"]
    part = few_shot(task, examples, 7, None, 0)
    assert set(Counter(part.groups.tolist()).values()) == {3}
    assert len(set(part.groups.tolist())) == 7


@pytest.mark.parametrize(("fraction", "rows"), [(0.25, 25), (0.001, 1), (1.0, 100), (0.504, 50)])
def test_a_fraction_is_that_many_examples(fraction: float, rows: int) -> None:
    task, examples, _ = PARTS["regression"]
    part = few_shot(task, examples, None, fraction, 0)
    assert part.rows.tolist() == rows_of(task, examples, rows)
    assert len(part) == rows


def test_a_part_counts_the_queries_that_are_there() -> None:
    task, examples, _ = PARTS["ranking"]
    rest = examples.select(np.flatnonzero(examples.groups % 4 != 0))  # 30 of 40 queries
    for size in (1, 7, 30, 31):
        assert len(set(few_shot(task, rest, size, None, 0).groups.tolist())) == min(size, 30)


@pytest.mark.parametrize("task_type", PARTS)
@pytest.mark.parametrize(("fraction", "least", "share"), [(0.25, 1, 0.25), (0.01, 20, None), (0.5, 20, 0.5)])
def test_what_is_held_out_and_the_rest_are_all(
    task_type: str, fraction: float, least: int, share: float | None
) -> None:
    task, examples, units = PARTS[task_type]
    rest, held = hold_out("t", task, examples, fraction, least, 3)
    size = 3 if task_type == "ranking" else 1
    assert len(held) == size * (least if share is None else round(share * units))
    assert sorted([*rest.rows.tolist(), *held.rows.tolist()]) == list(range(len(examples)))
    assert not set(rest.groups.tolist()) & set(held.groups.tolist()) or task_type != "ranking"
    assert hold_out("t", task, examples, fraction, least, 3)[1].rows.tolist() == held.rows.tolist()
    assert hold_out("t", task, examples, fraction, least, 4)[1].rows.tolist() != held.rows.tolist()
    if task_type == "classification":
        counts = Counter(held.labels.tolist())
        for label, number in ((0.0, 60), (1.0, 30), (2.0, 10)):
            assert abs(counts[label] - len(held) * number / units) <= 1


def test_what_is_held_out_is_found_in_the_rest(cache: Path, tmp_path: Path, tokenizer: Any) -> None:
    rows = [{"first": words(3, number % 20), "second": "a", "label": 0} for number in range(60)]
    examples = prepare("t", make_task(), source_of(tmp_path, rows), tokenizer, 24)
    rest, held = hold_out("t", make_task(), examples, 0.2, 1, 0)
    same = [int(row) for row in rest.rows if row % 10 in {int(other) % 10 for other in held.rows}]
    assert repeated(rest, [held]) == same and same
    assert repeated(rest, [rest.select(np.array([], dtype=np.int64))]) == []


def test_not_everything_is_held_out() -> None:
    task, examples, _ = PARTS["regression"]
    with pytest.raises(UserError, match=r"train\.holdout_rows: .* 100 of the 100 rows of training data of t;"):
        hold_out("t", task, examples, 0.1, 100, 0)
    with pytest.raises(UserError, match=r"train\.holdout: would hold out 100 of"):
        hold_out("t", task, examples, 0.999, 1, 0)


def test_rows_without_a_label_count_once() -> None:
    """They are in the file from which rows are held out, not in both parts."""
    task, examples, _ = PARTS["regression"]
    rest, held = hold_out("t", task, replace(examples, unlabelled=3), 0.1, 1, 0)
    assert (rest.unlabelled, held.unlabelled) == (3, 0)


def test_a_fraction_of_a_ranking_is_of_its_queries() -> None:
    task, examples, _ = PARTS["ranking"]
    assert few_shot(task, examples, None, 0.25, 0).rows.tolist() == rows_of(task, examples, 10)


def test_without_a_size_all_is_taken() -> None:
    task, examples, _ = PARTS["classification"]
    assert few_shot(task, examples, None, None, 0) is examples


def test_small_parts_are_rounded_as_sainte_lague_does() -> None:
    task, examples, _ = PARTS["classification"]  # 60, 30 and 10 rows
    assert Counter(few_shot(task, examples, 6, None, 0).labels.tolist()) == {0.0: 3, 1.0: 2, 2.0: 1}
