"""What a head may start from in adaptation, and what is told of it."""

from __future__ import annotations

from typing import Any

import pytest

from mtl.heads import head_note, head_problem, stored_head

KNOWN: dict[str, dict[str, Any]] = {
    "rte": {"type": "classification", "labels": ["entailment", "not_entailment"]},
    "mnli": {"type": "classification", "labels": ["entailment", "neutral", "contradiction"]},
    "stsb": {"type": "regression"},
}
SCITAIL = {"type": "classification", "labels": ["entails", "neutral"]}
TURNED = {"type": "classification", "labels": ["not_entailment", "entailment"]}


@pytest.mark.parametrize(("head", "stored"), [("reuse", "scitail"), ("fresh", None), ("rte", "rte")])
def test_stored_head(head: str, stored: str | None) -> None:
    assert stored_head(head, "scitail") == stored


@pytest.mark.parametrize(
    ("head", "task", "definition", "message"),
    [
        ("fresh", "scitail", SCITAIL, None),
        ("rte", "scitail", SCITAIL, None),
        ("reuse", "rte", KNOWN["rte"], None),
        ("stsb", "similarity", {"type": "regression"}, None),
        ("reuse", "scitail", SCITAIL, "no head for 'scitail'; allowed: fresh, rte, mnli, stsb"),
        ("rt", "scitail", SCITAIL, "no head for 'rt'; allowed: reuse, fresh, rte, mnli, stsb; did you mean 'rte'?"),
        ("mnli", "scitail", SCITAIL, "the head of mnli has 3 outputs, and scitail needs 2"),
        ("stsb", "scitail", SCITAIL, "stsb is a regression and scitail a classification: their heads differ"),
        ("rte", "turned", TURNED, "the labels of rte are in the order entailment, not_entailment; use it"),
        ("reuse", "rte", TURNED, "the labels of rte are in the order entailment, not_entailment; use it"),
        ("reuse", "rte", {**TURNED, "labels": ["contradiction", "entailment"]}, "; keep the places of entailment"),
        ("reuse", "rte", {**TURNED, "labels": ["yes", "not_entailment"]}, None),
    ],
)
def test_head_problem(head: str, task: str, definition: dict[str, Any], message: str | None) -> None:
    found = head_problem(head, task, definition, KNOWN)
    assert found is None if message is None else message in (found or "")


def test_head_note() -> None:
    note = head_note("rte", "scitail", SCITAIL, KNOWN)
    assert note == "the head of scitail starts from that of rte: entailment → entails, not_entailment → neutral"
    assert head_note("stsb", "similarity", {"type": "regression"}, KNOWN) is not None
    assert head_note("reuse", "rte", KNOWN["rte"], KNOWN) is None
    renamed = head_note("reuse", "rte", {**TURNED, "labels": ["yes", "no"]}, KNOWN)
    assert renamed is not None and renamed.endswith(": entailment → yes, not_entailment → no")
    assert head_note("fresh", "scitail", SCITAIL, KNOWN) is None
