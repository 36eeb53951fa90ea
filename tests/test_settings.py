"""Layers of settings merge with the origin of every value, and every fault is told at once."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from mtl.config import RunConfig
from mtl.plain_data import parse_yaml
from mtl.settings import Settings, Sourced, check, dotted, kind


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


@pytest.mark.parametrize("wrong", ["5", "false", "[{epochs: 3}]", "epochs 3"])
def test_a_section_of_the_wrong_type_is_not_hidden_by_settings_over_it(wrong: str) -> None:
    base, _ = parse_yaml(f"encoder: e\ntrain: {wrong}\n", "base.yml")
    top = Sourced({"train": {"seed": 1}}, {(): "--seed"})
    _, (problem,) = check(RunConfig, top.over(base))
    assert problem.where == "base.yml:2" and "expected a mapping" in problem.message
    empty, _ = parse_yaml("encoder: e\ntrain:\n", "base.yml")
    assert top.over(empty).data == {"encoder": "e", "train": {"seed": 1}}


def test_child_and_below_are_inverse() -> None:
    source, _ = parse_yaml("a:\n  b:\n    c: 1\n", "a.yml")
    child = source.child("a", "b")
    assert child.data == {"c": 1}
    assert child.places == {(): "a.yml:2", ("c",): "a.yml:3"}
    again, nothing = child.below("a", "b").child("a", "b"), source.child("a", "nothing")
    assert (again.data, again.places) == (child.data, child.places)
    assert (nothing.data, nothing.places) == ({}, {(): "a.yml:1"})


def test_a_section_that_only_a_deeper_key_made_has_that_key_s_place() -> None:
    overrides = Sourced(3, {(): "--set trian.epochs"}).below("trian", "epochs")
    assert overrides.place(("trian",)) == "--set trian.epochs"
    assert overrides.place(()) == ""


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
    ("name: x\non: yes\n", "a.yml:2: on is the text 'yes'; expected true or false"),
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
