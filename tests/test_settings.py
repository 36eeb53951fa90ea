"""YAML is data: read as YAML 1.2, every value with its place, every fault told at once."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from mtl.errors import Problem, UserError
from mtl.settings import MAX_BYTES, MAX_NODES, Settings, Sourced, check, dotted, kind, parse_yaml, read_yaml, scalar

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


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, "aliases count each time"),
        ("a: &a [*a]\n", "aliases count each time"),
        ("a: " + "[" * 30 + "]" * 30, "24 levels"),
        ("a: " + "[" * 100_000, "is not valid YAML"),
        ("a: " + "{a: " * 20_000, "is not valid YAML"),
        ("a: " + str(["x"] * MAX_NODES), "20,000 values"),
    ],
    ids=["bomb", "endless", "deep", "very-deep", "deep-mappings", "many"],
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
        ("a: 1\n---\nb: 2\n", "a.yml:2: is not valid YAML: but found another document"),
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


def test_layers_merge_and_keep_their_places() -> None:
    base, _ = parse_yaml("smart:\n  weight: 1\n  norm: l2\nlabels:\n  - a\n  - b\nname: x\n", "base.yml")
    top, _ = parse_yaml("smart:\n  weight: 3\nlabels: [c]\nnew: 1\n", "top.yml")
    merged = top.over(base)
    assert merged.data == {"smart": {"weight": 3, "norm": "l2"}, "labels": ["c"], "name": "x", "new": 1}
    assert merged.place(("smart", "weight")) == "top.yml:2"
    assert merged.place(("smart", "norm")) == "base.yml:3"
    assert merged.place(("name",)) == "base.yml:7"
    assert merged.place(("labels", 0)) == "top.yml:3"
    # The replaced list's second item has no place any more: its own line would mislead.
    assert merged.place(("labels", 1)) == "top.yml:3"
    assert base.data == {"smart": {"weight": 1, "norm": "l2"}, "labels": ["a", "b"], "name": "x"}


def test_child_and_below_are_inverse() -> None:
    source, _ = parse_yaml("a:\n  b:\n    c: 1\n", "a.yml")
    child = source.child("a", "b")
    assert child.data == {"c": 1}
    assert child.places == {(): "a.yml:2", ("c",): "a.yml:3"}
    again, nothing = child.below("a", "b").child("a", "b"), source.child("a", "nothing")
    assert (again.data, again.places) == (child.data, child.places)
    assert (nothing.data, nothing.places) == ({}, {(): "a.yml:1"})


def test_a_section_that_only_a_deeper_key_made_has_that_key_s_place() -> None:
    typed = Sourced(3, {(): "--set trian.epochs"}).below("trian", "epochs")
    assert typed.place(("trian",)) == "--set trian.epochs"
    assert typed.place(()) == ""


class Inner(Settings):
    weight: Annotated[float, Field(ge=0.0)] = 1.0
    norm: Literal["linf", "l2"] = "linf"


class Section(Settings):
    epochs: Annotated[int, Field(ge=1)] = 5
    rate: float = 1e-5
    name: str
    on: bool = True
    inner: Inner = Inner()
    words: list[str] = []
    marks: list[str | int | float | None] = []
    pair: Annotated[list[int], Field(min_length=2)] = [1, 2]


def told(text: str) -> list[str]:
    section, problems = check(Section, parse_yaml(text, "a.yml")[0])
    assert problems or section is not None
    return [str(problem) for problem in problems]


KEYS = "epochs, inner, marks, name, on, pair, rate, words"
FAULTS = [
    (
        "name: x\nepocs: 3\n",
        f"a.yml:2: unknown key 'epocs'; allowed: {KEYS}; did you mean 'epochs'?",
    ),
    (
        "name: x\ninner:\n  wieght: 2\n",
        "a.yml:3: unknown key 'inner.wieght'; allowed: norm, weight; did you mean 'weight'?",
    ),
    ("name: x\nqqq: 1\n", f"a.yml:2: unknown key 'qqq'; allowed: {KEYS}"),
    (
        "name: x\ninner: {norm: linff}\n",
        "a.yml:2: inner.norm is the text 'linff'; allowed: linf, l2; did you mean 'linf'?",
    ),
    ("name: x\ninner: {norm: 7}\n", "a.yml:2: inner.norm is the number 7; allowed: linf, l2"),
    ("epochs: 3\n", "a.yml:1: the key 'name' is missing"),
    ("name: x\nepochs: 0\n", "a.yml:2: epochs is the number 0; expected at least 1"),
    ("name: x\nepochs: '3'\n", "a.yml:2: epochs is the text '3'; expected a whole number"),
    ("name: x\nepochs: 2.5\n", "a.yml:2: epochs is the number 2.5; expected a whole number"),
    ("name: x\nepochs: true\n", "a.yml:2: epochs is true (true/false); expected a whole number"),
    ("name: x\nepochs:\n", "a.yml:2: epochs is nothing; expected a whole number"),
    ("name: x\nrate: fast\n", "a.yml:2: rate is the text 'fast'; expected a valid number"),
    ("name: x\nrate: .inf\n", "a.yml:2: rate is the number inf; expected a finite number"),
    ("name: 5\n", "a.yml:1: name is the number 5; expected text (numbers in quotes)"),
    ("name: x\non: yes\n", "a.yml:2: on is the text 'yes'; expected a valid boolean"),
    ("name: x\nwords:\n  - a\n  - 5\n", "a.yml:4: words.1 is the number 5; expected text (numbers in quotes)"),
    ("name: x\npair: [1]\n", "a.yml:2: pair is a list; list should have at least 2 items after validation, not 1"),
    (
        "name: x\nmarks: [a, 1, 2.5, null, [b]]\n",
        "a.yml:2: marks.4 is a list; expected text or a whole number or a valid number",
    ),
    ("name: x\nwords: a\n", "a.yml:2: words is the text 'a'; expected a list, such as [a, b]"),
]


@pytest.mark.parametrize(("text", "message"), FAULTS, ids=[text.replace("\n", " ") for text, _ in FAULTS])
def test_messages_name_place_key_value_and_what_is_allowed(text: str, message: str) -> None:
    assert told(text) == [message]


def test_a_section_that_is_no_mapping_is_told_in_plain_words() -> None:
    assert told("name: x\ninner: 5\n") == ["a.yml:2: inner is the number 5; expected a mapping"]
    assert told("name: x\ninner: [1]\n") == ["a.yml:2: inner is a list; expected a mapping"]


def test_whole_numbers_are_numbers() -> None:
    section, problems = check(Section, parse_yaml("name: x\nrate: 1\n", "a.yml")[0])
    assert problems == []
    assert section is not None
    assert section.rate == 1.0
    assert section.inner == Inner(weight=1.0, norm="linf")


def test_several_faults_are_told_at_once_with_the_prefix() -> None:
    source, _ = parse_yaml("epocs: 3\nrate: fast\ninner:\n  wieght: 2\n  norm: l3\n", "a.yml")
    section, problems = check(Section, source, ("tasks", "rte"))
    assert section is None
    assert {(problem.where, problem.message.split(";")[0]) for problem in problems} == {
        ("a.yml:1", "unknown key 'tasks.rte.epocs'"),
        ("a.yml:2", "tasks.rte.rate is the text 'fast'"),
        ("a.yml:4", "unknown key 'tasks.rte.inner.wieght'"),
        ("a.yml:5", "tasks.rte.inner.norm is the text 'l3'"),
        ("a.yml:1", "the key 'tasks.rte.name' is missing"),
    }


def test_unknown_keys_leave_the_rest_usable() -> None:
    source, _ = parse_yaml("name: x\nepocs: 3\ninner: {wieght: 2, norm: l2}\n", "a.yml")
    section, problems = check(Section, source)
    assert len(problems) == 2
    assert section == Section(name="x", inner=Inner(norm="l2"))
    assert source.data["inner"] == {"wieght": 2, "norm": "l2"}, "the source itself is not changed"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "nothing"),
        (False, "false (true/false)"),
        ("no", "the text 'no'"),
        (1e-5, "the number 1e-05"),
        ([], "a list"),
        ({}, "a mapping"),
    ],
)
def test_kinds_of_values_in_words(value: Any, words: str) -> None:
    assert kind(value) == words


def test_paths_in_words() -> None:
    assert dotted(("a", 0, "b")) == "a.0.b"


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Inner().weight = 2.0
