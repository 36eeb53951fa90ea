"""YAML is data: read as YAML 1.2 with merge keys, every value with its place, every fault told at once."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import pytest

from mtl.errors import Problem, UserError
from mtl.plain_data import MAX_BYTES, MAX_NODES, parse_yaml, read_yaml, scalar

SCALARS: list[tuple[str, Any]] = [
    ("no", "no"),
    ("yes", "yes"),
    ("on", "on"),
    ("off", "off"),
    ("y", "y"),
    ("Null", None),
    ("~", None),
    ("", None),
    ("null", None),
    ("true", True),
    ("False", False),
    ("tRuE", "tRuE"),
    ("1e-5", 1e-5),
    ("1E5", 1e5),
    ("5.e-1", 0.5),
    (".5", 0.5),
    ("+3", 3),
    ("-17", -17),
    ("010", 10),
    ("1_000", "1_000"),
    ("1:30", "1:30"),
    ("0x1f", "0x1f"),
    ("2021-03-04", "2021-03-04"),
    ("2021-03-04 10:00:00", "2021-03-04 10:00:00"),
    ("1.2.3", "1.2.3"),
    ("e5", "e5"),
    (".inf", math.inf),
    ("-.inf", -math.inf),
    ("nan", "nan"),
    ("=", "="),
    ("9" * 5000, math.inf),
    ("'no'", "no"),
    ("'010'", "010"),
    ('"1e-5"', "1e-5"),
    ("'null'", "null"),
    ("'true'", "true"),
    ("''", ""),
]


def problems_of(text: str) -> list[str]:
    try:
        return [str(problem) for problem in parse_yaml(text, "a.yml")[1]]
    except UserError as error:
        return [str(problem) for problem in error.problems]


@pytest.mark.parametrize(("text", "value"), SCALARS, ids=[text[:20] or "nothing" for text, _ in SCALARS])
def test_scalars_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    source, problems = parse_yaml(f"key: {text}\nlist: [{text}]" if text else "key:", "a.yml")
    read = source.data["key"]
    assert read == value
    assert type(read) is type(value)
    assert problems == []
    assert source.data.get("list", [value]) == [value]


def test_not_a_number_is_a_number() -> None:
    assert math.isnan(scalar(".nan"))


def test_block_text_stays_text() -> None:
    source, _ = parse_yaml("key: |\n  10\nother: >-\n  no\n", "a.yml")
    assert source.data == {"key": "10\n", "other": "no"}


def test_keys_are_words_whatever_they_look_like() -> None:
    assert parse_yaml("{no: 1, 010: 2, 1e-5: 3, null: 4}", "a.yml")[0].data == {"no": 1, "010": 2, "1e-5": 3, "null": 4}


def test_places_are_those_of_the_keys() -> None:
    source, _ = parse_yaml("a:\n  b:\n    - x\n    - y\n  c: {d: 1}\n", "a.yml")
    expected = {(): 1, ("a",): 1, ("a", "b"): 2, ("a", "b", 0): 3, ("a", "b", 1): 4, ("a", "c"): 5, ("a", "c", "d"): 5}
    assert source.places == {path: f"a.yml:{line}" for path, line in expected.items()}
    assert source.place(("a", "c", "missing", "deeper")) == "a.yml:5"


def test_a_duplicate_key_is_told_with_both_lines_and_the_first_is_kept() -> None:
    source, problems = parse_yaml("a:\n  x: 1\n  y: 2\n  x: 3\nb: 1\na: 5\n", "a.yml")
    assert source.data == {"a": {"x": 1, "y": 2}, "b": 1}
    assert problems == [
        Problem("a.yml:4", "duplicate key 'a.x'; it is first defined in line 2"),
        Problem("a.yml:6", "duplicate key 'a'; it is first defined in line 1"),
    ]


@pytest.mark.parametrize(
    "value",
    [
        "!!python/object/apply:pathlib.Path.touch [{path}]",
        "!!python/object/new:os.system ['touch {path}']",
        "!!python/name:os.system",
        "!!python/tuple [1, 2]",
        "!include {path}",
        "!<tag:example.org,2000:thing> 1",
    ],
)
def test_tags_are_refused_and_never_run(value: str, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    source, problems = parse_yaml(f"ok: 1\nbad: {value.format(path=touched)}\n", "a.yml")
    assert not touched.exists()
    assert source.data == {"ok": 1, "bad": None}
    assert len(problems) == 1
    assert problems[0].where == "a.yml:2"
    assert "is not allowed; write plain values" in problems[0].message


def test_an_alias_stands_for_its_value() -> None:
    assert parse_yaml("a: &x [1, 2]\nb: *x\n", "a.yml")[0].data == {"a": [1, 2], "b": [1, 2]}


def test_a_merge_key_adds_the_keys_of_another_mapping() -> None:
    text = "a: &a {x: 1, y: 2}\nb: &b {<<: *a, y: 3}\nc:\n  <<: [*b, {y: 4, z: 5}]\n  w: 6\n  x: 7\nd: {'<<': 8}\n"
    source, problems = parse_yaml(text, "a.yml")
    assert problems == []
    assert source.data == {
        "a": {"x": 1, "y": 2},
        "b": {"y": 3, "x": 1},
        "c": {"w": 6, "x": 7, "y": 3, "z": 5},  # the mapping's own keys win, then those of the first that is merged
        "d": {"<<": 8},
    }
    lines = {"x": "a.yml:6", "y": "a.yml:2", "z": "a.yml:4", "w": "a.yml:5"}
    assert {key: source.place(("c", key)) for key in lines} == lines
    assert source.place(("b", "x")) == "a.yml:1"


@pytest.mark.parametrize("merged", ["1", "[1]", "[{y: 1}, no]"])
def test_only_mappings_are_merged(merged: str) -> None:
    assert problems_of(f"a: 1\nb:\n  <<: {merged}\n") == [
        "a.yml:3: << takes a mapping, such as *name, or a list of them"
    ]


def test_a_merged_duplicate_is_told_where_it_is_written() -> None:
    source, problems = parse_yaml("a:\n  <<: {x: 1, x: 2}\n", "a.yml")
    assert source.data == {"a": {"x": 1}}
    assert problems == [Problem("a.yml:2", "duplicate key 'a.x'; it is first defined in line 2")]


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 12)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 12))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, "aliases count each time"),
        (MERGES, "aliases count each time"),
        ("a: &a [*a]\n", "aliases count each time"),
        ("a: &a {<<: *a}\n", "aliases count each time"),
        ("a: " + "[" * 30 + "]" * 30, "24 levels"),
        ("a: " + "[" * 100_000, "is not valid YAML"),
        ("a: " + "{a: " * 20_000, "is not valid YAML"),
        ("a: " + str(["x"] * MAX_NODES), "20,000 values"),
    ],
    ids=["bomb", "merges", "endless", "endless-merge", "deep", "very-deep", "deep-mappings", "many"],
)
def test_size_and_depth_are_bounded(text: str, words: str) -> None:
    start = time.perf_counter()
    with pytest.raises(UserError, match=words):
        parse_yaml(text, "a.yml")
    assert time.perf_counter() - start < 15


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a.yml: is empty; expected a mapping"),
        ("# a remark\n", "a.yml: is empty; expected a mapping"),
        ("- a\n- b\n", "a.yml:1: expected a mapping at the top level, got a list"),
        ("just words\n", "a.yml:1: expected a mapping at the top level, got the text 'just words'"),
        ("5\n", "a.yml:1: expected a mapping at the top level, got the number 5"),
        ("a: 1\nb: [1, 2\nc: 3\n", "a.yml:3: is not valid YAML: expected ',' or ']', but got ':'"),
        ("a: 1\n\tb: 2\n", "a.yml:2: is not valid YAML: found character '\\t' that cannot start any token"),
        (
            "a: 1\n---\nb: 2\n",
            "a.yml:2: is not valid YAML: expected a single document in the stream, but found another document",
        ),
        ("a: *nobody\n", "a.yml:1: is not valid YAML: found undefined alias 'nobody'"),
        ("? [a, b]\n: 1\n", "a.yml:1: a key must be plain text"),
    ],
)
def test_what_is_no_settings_file_is_told_with_its_line(text: str, message: str) -> None:
    assert problems_of(text) == [message]


def test_a_control_character_is_invalid_yaml() -> None:
    (problem,) = problems_of("a: \x00\n")
    assert problem.startswith("a.yml: is not valid YAML: ")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    missing, large, latin = tmp_path / "missing.yml", tmp_path / "large.yml", tmp_path / "latin.yml"
    large.write_bytes(b"#" * (MAX_BYTES + 1))
    latin.write_bytes("a: 1\nb: café\n".encode("latin-1"))
    expected = {
        missing: f"{missing}: there is no such file",
        tmp_path: f"{tmp_path}: is a directory; name a YAML file",
        large: f"{large}: is {MAX_BYTES + 1:,} bytes long; at most {MAX_BYTES:,} are read",
        latin: f"{latin}:2: is not UTF-8 text (byte 0xe9); convert it first",
    }
    for path, message in expected.items():
        with pytest.raises(UserError) as caught:
            read_yaml(path)
        assert [str(problem) for problem in caught.value.problems] == [message]


def test_a_byte_order_mark_and_windows_line_ends_are_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.yml"
    path.write_bytes("\ufeffa: né\r\nb: 2\r\n".encode())
    source, problems = read_yaml(path)
    assert source.data == {"a": "né", "b": 2}
    assert source.places["b",] == f"{path}:2"
    assert problems == []
