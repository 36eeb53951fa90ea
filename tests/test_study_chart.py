"""The picture of a study: everything in it, inside the frame, and safe with any name."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtl.paired import compare_pairs, describe
from mtl.study_chart import LEFT, WIDTH, draw, nice_ticks

SVG = "{http://www.w3.org/2000/svg}"


def panel(**arms: list[float]) -> dict[str, Any]:
    base = next(iter(arms.values()))
    drawn = {name: {"values": values, **describe(values)} for name, values in arms.items()}
    for name in list(arms)[1:]:
        count = min(len(arms[name]), len(base))
        drawn[name]["difference"] = compare_pairs(arms[name][:count], base[:count])
    return {"title": "rte, all rows: accuracy", "arms": drawn}


def test_every_seed_is_a_dot_and_every_interval_a_bar() -> None:
    root = ElementTree.fromstring(draw([panel(plain=[0.5, 0.6, 0.55], smart=[0.6, 0.7, 0.65]), panel(a=[0.1])], "s"))
    assert len(root.findall(f"{SVG}circle")) == 7
    bars = [line for line in root.findall(f"{SVG}line") if line.get("class") == "i"]
    assert len(bars) == 2, "one value has no interval"
    for element in root.iter():
        for key in ("cx", "x", "x1", "x2"):
            assert 0 <= float(element.get(key, "0")) <= WIDTH
    height = float(root.get("height", "0"))
    assert all(0 <= float(element.get("y", "0")) <= height for element in root.iter())
    text = "".join(root.itertext())
    assert "(+0.100" in text and "smart" in text


def test_words_fit_beside_the_plot() -> None:
    """At 7 pixels a character, which is wide for this size of letters."""
    root = ElementTree.fromstring(draw([panel(**{"a" * 64: [-0.5, 0.5, -0.4], "b": [0.5, -0.5, 0.4]})], "s"))
    for text in root.findall(f"{SVG}text"):
        begin, width = float(text.get("x", "0")), 7 * len(text.text or "")
        if text.get("text-anchor") is None:
            assert begin + width <= (LEFT if begin < LEFT and "aa" in (text.text or "") else WIDTH), text.text


def test_positions_follow_values() -> None:
    root = ElementTree.fromstring(draw([panel(plain=[0.0, 0.5, 1.0])], "s"))
    low, middle, high = (float(circle.get("cx", "nan")) for circle in root.findall(f"{SVG}circle"))
    assert middle == pytest.approx((low + high) / 2, abs=0.1) and low < high


@pytest.mark.parametrize("arms", [{"a": []}, {"a": [0.5, 0.5], "b": []}, {"a": [0.0]}, {"a": [-3.0, 1e6]}])
def test_little_to_show_is_no_error(arms: dict[str, list[float]]) -> None:
    text = draw([panel(**arms)], "s")
    ElementTree.fromstring(text)
    assert "nan" not in text and "inf" not in text
    ElementTree.fromstring(draw([], "nothing yet"))


def test_names_are_no_markup() -> None:
    hostile = '<script>alert("x")</script>&'
    group = {**panel(a=[0.1, 0.2]), "title": hostile}
    group["arms"] = {hostile: group["arms"]["a"]}
    root = ElementTree.fromstring(draw([group], hostile))
    assert not root.findall(f".//{SVG}script")


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6))
def test_ticks_hold_the_range(low: float, width: float) -> None:
    ticks = nice_ticks(low, low + width)
    assert ticks[0] <= low and low + width <= ticks[-1]
    assert 2 <= len(ticks) <= 9
