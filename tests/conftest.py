"""Fixtures that several test modules share: a tiny encoder, three tiny tasks, and where real data lies.

What the front half needs stands first; nothing here is changed by a test that uses it.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import pytest

from mtl.cli import main

# Read once, when huggingface_hub is imported: no test asks the network for anything.
os.environ["HF_HUB_OFFLINE"] = "1"

ROOT = Path(__file__).resolve().parent.parent

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
NOUNS = ["film", "book", "song", "meal", "room", "train", "game", "coat", "lamp", "soup"]
MOODS = {
    "bad": ["awful", "boring", "broken"],
    "neutral": ["plain", "usual", "grey"],
    "good": ["great", "lovely", "fine"],
}
STRENGTHS = ["hardly", "slightly", "fairly", "very", "utterly"]  # worth 0, 1, 2, 3, 4
QUESTIONS = ["why", "how", "when", "where"]
ANSWERS = ["because", "since"]
OTHERS = ["perhaps", "anyway", "hello", "never"]
GLUE_WORDS = ["the", "was", "is", "a", "and", "i", "found", "it", "this", "that", "we", "say"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests come first, so that none is alone at the end where several processes share them."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Prepared data goes to a directory of this test session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MTL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The mirror of the real data sets; tests marked `data` are skipped where there is none."""
    path = Path(os.environ.get("MTL_DATA_ROOT", ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip("no mirror of the real data sets ($MTL_DATA_ROOT)")
    return path


@pytest.fixture
def forked_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of a study start at once; `test_compare` has one with processes as users have them."""

    from forked import Forked

    def popen(command: list[str], *, stdout: IO[bytes], env: dict[str, str], **_: Any) -> Forked:
        assert command[:3] == [sys.executable, "-m", "mtl"]
        return Forked(command[3:], env, log=Path(stdout.name))

    monkeypatch.setattr("mtl.compare.subprocess", SimpleNamespace(Popen=popen, DEVNULL=subprocess.DEVNULL))


@pytest.fixture(scope="session")
def encoder_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT; see `make_encoder`."""
    return make_encoder(tmp_path_factory.mktemp("encoder"))


def make_encoder(folder: Path) -> Path:
    """A tiny BERT with seeded random weights and a WordPiece tokenizer that knows the words of the corpus.

    Two layers, width 32, at most 64 tokens; saved by `save_pretrained`, so `AutoModel` and `AutoTokenizer` load it.
    """
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)] + list("0123456789")
    words = [*NOUNS, *(word for mood in MOODS.values() for word in mood), *STRENGTHS, *QUESTIONS, *ANSWERS, *OTHERS]
    pieces = [*SPECIAL, *".,?!'-", *letters, *(f"##{letter}" for letter in letters), *words, *GLUE_WORDS]
    vocabulary = list(dict.fromkeys(pieces))
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    BertTokenizer.from_pretrained(str(folder), model_max_length=64).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of `tasks.yml`; see `make_corpus`."""
    return make_corpus(tmp_path_factory.mktemp("corpus"))


def make_corpus(folder: Path) -> Path:
    """Writes `tasks.yml`: three small tasks that a model learns from single words, their data beside the file.

    `mood`: classification of a text, three string labels, 90 train and 24 validation rows.
    `strength`: regression on a pair of texts (score 0 to 8), 80 and 24 rows.
    `answer`: ranking, 20 train queries of 3 to 5 candidates (nothing is relevant to the last) and 6 validation queries.
    """
    draw = random.Random(0)
    for split, moods, strengths, queries in (("train", 90, 80, 20), ("validation", 24, 24, 6)):
        write_jsonl(folder / "mood" / f"{split}.jsonl", [_mood(draw, row) for row in range(moods)])
        write_jsonl(folder / "strength" / f"{split}.jsonl", [_strength(draw) for _ in range(strengths)])
        rows = [row for query in range(queries) for row in _answers(draw, split, query)]
        write_jsonl(folder / "answer" / f"{split}.jsonl", rows)
    path = folder / "tasks.yml"
    path.write_text(TASKS, encoding="utf-8")
    return path


TASKS = """\
mood:
  type: classification
  data:
    files: {train: mood/train.jsonl, validation: mood/validation.jsonl}
    columns: {text_a: text, label: mood}
  labels: [bad, neutral, good]
  metrics: [accuracy, macro_f1]
  max_length: 32

strength:
  type: regression
  data:
    files: {train: strength/train.jsonl, validation: strength/validation.jsonl}
    columns: {text_a: first, text_b: second, label: score}
  metrics: [pearson, spearman]
  max_length: 32

answer:
  type: ranking
  data:
    files: {train: answer/train.jsonl, validation: answer/validation.jsonl}
    columns: {text_a: question, text_b: candidate, label: relevant, group: id}
  metrics: [mrr, map]
  max_length: 32
"""


@pytest.fixture(scope="module")
def exports(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every task of the module's `run_dir`, exported."""
    output = tmp_path_factory.mktemp("exports") / "all"
    assert main(["export", str(run_dir), "--output", str(output)]) == 0
    return output


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _mood(draw: random.Random, row: int) -> dict[str, Any]:
    mood = list(MOODS)[row % len(MOODS)]
    return {"text": f"The {draw.choice(NOUNS)} was {draw.choice(MOODS[mood])}.", "mood": mood}


def _strength(draw: random.Random) -> dict[str, Any]:
    first, second = draw.randrange(len(STRENGTHS)), draw.randrange(len(STRENGTHS))
    return {
        "first": f"This {draw.choice(NOUNS)} is {STRENGTHS[first]} {draw.choice(MOODS['neutral'])}",
        "second": f"{STRENGTHS[second]} {draw.choice(NOUNS)}",
        "score": float(first + second),
    }


def _answers(draw: random.Random, split: str, query: int) -> list[dict[str, Any]]:
    """One query's candidates: those that give a reason are relevant."""
    question = f"{draw.choice(QUESTIONS)} is the {draw.choice(NOUNS)} {draw.choice(MOODS['good'])}?"
    size = 3 + query % 3
    relevant = set() if (split, query) == ("train", 19) else set(draw.sample(range(size), 1 + query % 2))
    rows = []
    for position in range(size):
        opening = draw.choice(ANSWERS if position in relevant else OTHERS)
        candidate = f"{opening} the {draw.choice(NOUNS)} was {draw.choice(MOODS['neutral'])}"
        row = {
            "id": f"{split}-{query}",
            "question": question,
            "candidate": candidate,
            "relevant": int(position in relevant),
        }
        rows.append(row)
    return rows
