"""Generates the quickstart corpus: three small English tasks, one of each type, from word lists.

The corpus shows the whole toolkit at work within minutes, offline, with meaningful metrics. If validation rows reused
the training vocabulary, counting words would solve the tasks. Here training and validation have no content word and no
sentence frame in common (see `quickstart_words`), so that only a model with prior knowledge of word meanings does well
on validation.

    intent      classification  topic of a customer message, which may have a distracting clause about another topic
    paraphrase  regression      how much of their meaning two sentences share, 0 to 5, independent of shared words
    advice      ranking         which of five answers helps; wrong ones repeat the question's words as often

The seed determines everything: the same seed gives the same bytes on every platform.

    python -m data_prep.quickstart --output data/quickstart --seed 0
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from data_prep.quickstart_train import TRAIN
from data_prep.quickstart_validation import VALIDATION
from data_prep.quickstart_words import Lexicon

T = TypeVar("T")
Row = dict[str, str | int | float]
Corpus = dict[str, dict[str, list[Row]]]

CANDIDATES = 5  # answers per question, one of them correct
REPEAT_SHARE = 0.5  # share of sentence pairs that have a content word in common
CONTRAST_SHARE = 0.25  # share of customer messages with a second clause about another intent

# Score → the parts that two sentences may share: agent (1 point), activity (2), object (2).
SHARED_PARTS: dict[int, tuple[tuple[str, ...], ...]] = {
    0: ((),),
    1: (("agent",),),
    2: (("activity",), ("object",)),
    3: (("agent", "activity"), ("agent", "object")),
    4: (("activity", "object"),),
    5: (("agent", "activity", "object"),),
}


def generate(seed: int = 0) -> Corpus:
    """Generates the whole corpus in memory.

    Every task and split has its own random generator, so that changing one does not affect the others.

    Returns:
        Task → split → rows, in the order in which `write` stores them.
    """
    return {
        task: {
            split: make(lexicon, rows[split], random.Random(f"{seed}/{task}/{split}"))
            for split, lexicon in LEXICONS.items()
        }
        for task, (make, rows) in TASKS.items()
    }


def write(corpus: Corpus, output: Path) -> dict[Path, int]:
    """Writes the corpus to `OUTPUT/TASK/SPLIT.jsonl`; returns the number of rows of each file."""
    written = {}
    for task, splits in corpus.items():
        for split, rows in splits.items():
            path = output / task / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            path.write_text(lines, encoding="utf-8", newline="\n")
            written[path] = len(rows)
    return written


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: write the corpus and print one line per file."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.quickstart",
        description="Write three small tasks (classification, regression, ranking) to try the toolkit with.",
    )
    parser.add_argument("--output", type=Path, default=Path("data/quickstart"), help="directory (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same bytes (default: %(default)s)")
    options = parser.parse_args(argv)
    try:
        written = write(generate(options.seed), options.output)
    except OSError as error:
        print(f"error: --output: {error.filename} cannot be written: {error.strerror}", file=sys.stderr)
        return 1
    for path, rows in written.items():
        print(f"{rows:6,} rows  {path}")
    return 0


def make_intent(lexicon: Lexicon, rows: int, rng: random.Random) -> list[Row]:
    """Customer messages, equally many for each intent; the label is the intent of the main clause."""
    items = _parts(lexicon.items)
    plain, contrast = _lines(lexicon.message_frames), _lines(lexicon.contrast_frames)
    made: dict[str, Row] = {}
    for intent, block in lexicon.complaints.items():
        others = [other for other in lexicon.asides if other != intent]
        clauses = _endless(_lines(block), rng)
        target = len(made) + rows // len(lexicon.complaints)
        while len(made) < target:
            frame = rng.choice(contrast if rng.random() < CONTRAST_SHARE else plain)
            aside = rng.choice(_parts(lexicon.asides[rng.choice(others)]))
            # The item is filled in last, so that both clauses mention the same one.
            message = frame.format(main=next(clauses), aside=aside).format(item=rng.choice(items))
            made.setdefault(_sentence(message), {"message": _sentence(message), "intent": intent})
    return _shuffled(made.values(), rng)


def make_paraphrase(lexicon: Lexicon, rows: int, rng: random.Random) -> list[Row]:
    """Sentence pairs, equally many for each score; shared meanings are expressed by synonyms.

    Whether a pair repeats a content word is drawn independently of the score: the adjective has the same meaning in
    both sentences and can be repeated even if everything else differs. So word overlap does not reveal the score.
    """
    frames = _lines(lexicon.scene_frames)
    made: dict[tuple[str, ...], Row] = {}
    for index in range(rows):
        score = index % len(SHARED_PARTS)
        while len(made) <= index:
            shared = rng.choice(SHARED_PARTS[score])
            repeated = rng.choice(["trait", *shared]) if rng.random() < REPEAT_SHARE else ""
            texts = [
                _sentence(rng.choice(frames).format(**words)) for words in _scene_pair(lexicon, shared, repeated, rng)
            ]
            row: Row = {"sentence1": texts[0], "sentence2": texts[1], "score": float(score)}
            made.setdefault(tuple(sorted(texts)), row)
    return _shuffled(made.values(), rng)


def make_advice(lexicon: Lexicon, rows: int, rng: random.Random) -> list[Row]:
    """Questions with `CANDIDATES` answers each, in random order; the rows of a question are consecutive.

    A wrong answer is the correct one of another question, so that no answer is right or wrong by itself. Half of the
    answers repeat the object of the question, correct ones no more often than wrong ones.
    """
    facts = [tuple(_parts(line)) for block in lexicon.facts.values() for line in _lines(block)]
    answer_frames = [_parts(line) for line in _lines(lexicon.answer_frames)]
    question_frames = _lines(lexicon.question_frames)
    todo = _endless(facts, rng)
    made: dict[str, list[Row]] = {}
    while len(made) < rows // CANDIDATES:
        verb, thing, right = next(todo)
        question = _sentence(rng.choice(question_frames).format(job=f"{verb} {thing}"))
        if question in made:
            continue
        wrong = rng.sample(sorted({answer for _, _, answer in facts if answer != right}), CANDIDATES - 1)
        echoes = [rng.randrange(2), *_shuffled([0, 0, 1, 1], rng)]
        made[question] = _shuffled(
            [
                {
                    "question_id": "",
                    "question": question,
                    "answer": _sentence(rng.choice(answer_frames)[echo].format(answer=answer, object=thing) + "."),
                    "relevant": int(answer == right),
                }
                for answer, echo in zip([right, *wrong], echoes, strict=True)
            ],
            rng,
        )
    return [{**row, "question_id": f"q{number:04d}"} for number, group in enumerate(made.values(), 1) for row in group]


def _scene_pair(
    lexicon: Lexicon, shared: Sequence[str], repeated: str, rng: random.Random
) -> tuple[dict[str, str], dict[str, str]]:
    """The parts of two scenes with the same meaning in the parts `shared`, and the same word in the part `repeated`."""
    scene = rng.choice(lexicon.scenes)
    other_scene = scene if {"activity", "object"} & set(shared) else rng.choice(lexicon.scenes)
    blocks = {
        "trait": (lexicon.traits, lexicon.traits),
        "agent": (lexicon.agents, lexicon.agents),
        "activity": (scene[1], other_scene[1]),
        "object": (scene[0], other_scene[0]),
    }
    first: dict[str, str] = {}
    second: dict[str, str] = {}
    for part, (block, other_block) in blocks.items():
        concept = rng.choice(_concepts(block))
        first[part], synonym = rng.sample(concept, 2)
        if part == repeated:
            second[part] = first[part]
        elif part in shared or part == "trait":
            second[part] = synonym
        else:
            others = [other for other in _concepts(other_block) if not set(other) & set(concept)]
            second[part] = rng.choice(rng.choice(others))
    return first, second


def _lines(block: str) -> list[str]:
    return [line.strip() for line in block.strip().splitlines()]


def _parts(line: str) -> list[str]:
    return [part.strip() for part in line.split("|")]


def _concepts(block: str) -> list[list[str]]:
    return [_parts(line) for line in re.split("[/\n]", block.strip())]


def _sentence(text: str) -> str:
    """Capitalises a text, and turns `a` into `an` before a vowel."""
    text = re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)
    return text[0].upper() + text[1:]


def _shuffled(values: Iterable[T], rng: random.Random) -> list[T]:
    values = list(values)
    rng.shuffle(values)
    return values


def _endless(values: Sequence[T], rng: random.Random) -> Iterator[T]:
    """Endless sequence of values, reshuffled after each pass, so that all occur equally often."""
    while True:
        yield from _shuffled(values, rng)


LEXICONS: dict[str, Lexicon] = {"train": TRAIN, "validation": VALIDATION}

# Task → (function that generates its rows, number of rows of each split).
TASKS: dict[str, tuple[Callable[[Lexicon, int, random.Random], list[Row]], dict[str, int]]] = {
    "intent": (make_intent, {"train": 2000, "validation": 400}),
    "paraphrase": (make_paraphrase, {"train": 2000, "validation": 400}),
    "advice": (make_advice, {"train": 2000, "validation": 400}),
}

if __name__ == "__main__":
    raise SystemExit(main())
