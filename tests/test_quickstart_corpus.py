"""The quickstart corpus is fair: nothing but the meaning of words helps on validation."""

from __future__ import annotations

import re
from collections import Counter
from itertools import groupby
from pathlib import Path
from statistics import mean

import numpy as np
import pytest
import yaml
from scipy import sparse
from scipy.stats import pearsonr
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

from data_prep.quickstart import CANDIDATES, LEXICONS, Corpus, Row, generate, main, write
from data_prep.quickstart_train import TRAIN
from data_prep.quickstart_validation import VALIDATION
from data_prep.quickstart_words import FUNCTION_WORDS

ROOT = Path(__file__).resolve().parents[1]
TEXTS = {
    "intent": ("message",),
    "paraphrase": ("sentence1", "sentence2"),
    "advice": ("question", "answer"),
}
LABELS = {"intent": "intent", "paraphrase": "score", "advice": "relevant"}
FRAMES = ("message_frames", "contrast_frames", "scene_frames", "question_frames", "answer_frames")
ANALYZERS = {"words": {"ngram_range": (1, 2)}, "characters": {"analyzer": "char_wb", "ngram_range": (3, 5)}}


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return generate(seed=0)


def texts(rows: list[Row], task: str) -> list[tuple[str, ...]]:
    return [tuple(str(row[field]) for field in TEXTS[task]) for row in rows]


def words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def stem(word: str) -> str:
    """Crude on purpose: it merges `ship`, `ships`, `shipping` and `shipment`, at the price of a few wrong merges."""
    return re.sub(r"(?<=..)(ings?|eds?|ers?|ment|ion|es|s|ly|e)$", "", word)


def groups(rows: list[Row]) -> list[list[Row]]:
    return [list(group) for _, group in groupby(rows, key=lambda row: row["question_id"])]


def overlap(first: str, second: str) -> int:
    return len(set(words(first)) & set(words(second)))


def mrr(rows: list[Row], scores: np.ndarray) -> float:
    """Mean reciprocal rank; equal scores share the mean of the reciprocal ranks they span."""
    reciprocal = []
    for group in np.split(np.arange(len(rows)), len(rows) // CANDIDATES):
        right = next(scores[i] for i in group if rows[i]["relevant"])
        better, equal = np.sum(scores[group] > right), np.sum(scores[group] == right)
        reciprocal.append(np.mean(1 / np.arange(better + 1, better + equal + 1)))
    return float(np.mean(reciprocal))


def test_same_seed_writes_same_bytes_and_other_seed_other_rows(tmp_path: Path) -> None:
    first, again, other = (
        {p.relative_to(d): p.read_bytes() for p in write(generate(s), d)}
        for d, s in ((tmp_path / "first", 7), (tmp_path / "again", 7), (tmp_path / "other", 8))
    )
    assert first == again
    assert first.keys() == other.keys()
    assert all(first[path] != other[path] for path in first)


def test_command_line_writes_every_file_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--output", str(tmp_path), "--seed", "3"]) == 0
    printed = capsys.readouterr().out
    written = sorted(tmp_path.glob("*/*.jsonl"))
    assert len(printed.splitlines()) == len(written) == 6
    assert all(str(path) in printed for path in written)


def test_an_output_that_cannot_be_written_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["--output", str(tmp_path / "file")]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: --output: {tmp_path}/file") and "cannot be written: " in error


def test_task_definitions_point_at_the_generated_fields(corpus: Corpus) -> None:
    definitions = yaml.safe_load((ROOT / "task_defs" / "quickstart.yml").read_text(encoding="utf-8"))
    assert definitions.keys() == corpus.keys()
    for task, definition in definitions.items():
        columns = definition["data"]["columns"]
        assert set(columns.values()) == corpus[task]["train"][0].keys()
        assert columns["label"] == LABELS[task]
        for split, path in definition["data"]["files"].items():
            assert path == f"../data/quickstart/{task}/{split}.jsonl"
    assert set(definitions["intent"]["labels"]) == {row["intent"] for row in corpus["intent"]["train"]}


@pytest.mark.parametrize("task", TEXTS)
def test_row_counts(corpus: Corpus, task: str) -> None:
    assert {split: len(rows) for split, rows in corpus[task].items()} == {"train": 2000, "validation": 400}


@pytest.mark.parametrize("task", TEXTS)
def test_no_text_occurs_twice_in_any_split(corpus: Corpus, task: str) -> None:
    everything = [
        tuple(sorted(text.lower() for text in row)) for rows in corpus[task].values() for row in texts(rows, task)
    ]
    assert len(set(everything)) == len(everything)


def test_splits_share_no_content_word_in_any_task(corpus: Corpus) -> None:
    vocabulary = {
        split: {
            word
            for task in TEXTS
            for row in texts(corpus[task][split], task)
            for text in row
            for word in words(text)
            if word not in FUNCTION_WORDS
        }
        for split in ("train", "validation")
    }
    assert vocabulary["train"] & vocabulary["validation"] == set()
    stems = {split: {stem(word) for word in found} for split, found in vocabulary.items()}
    assert stems["train"] & stems["validation"] == set()


def test_function_words_carry_no_topic() -> None:
    """Nothing may hide in the list of allowed common words: an independent list must know them all."""
    assert {"did", "does"}.issuperset(FUNCTION_WORDS - ENGLISH_STOP_WORDS)


@pytest.mark.parametrize("block", FRAMES)
def test_splits_share_no_frame(block: str) -> None:
    train, validation = (
        {frame.strip() for frame in re.split(r"[\n|]", getattr(lexicon, block).strip())}
        for lexicon in (TRAIN, VALIDATION)
    )
    assert train & validation == set()


@pytest.mark.parametrize("split", LEXICONS)
@pytest.mark.parametrize(("task", "distinct"), [("intent", 5), ("paraphrase", 6)])
def test_labels_are_balanced(corpus: Corpus, task: str, distinct: int, split: str) -> None:
    counts = Counter(row[LABELS[task]] for row in corpus[task][split])
    assert len(counts) == distinct
    assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize("split", LEXICONS)
def test_each_question_has_one_right_answer_anywhere(corpus: Corpus, split: str) -> None:
    rows = corpus["advice"][split]
    queries = groups(rows)
    assert len(queries) == len({row["question_id"] for row in rows}) == len({row["question"] for row in rows})
    assert all(len(group) == CANDIDATES and len({row["question"] for row in group}) == 1 for group in queries)
    positions = [[row["relevant"] for row in group] for group in queries]
    assert all(sorted(column) == [0] * (CANDIDATES - 1) + [1] for column in positions)
    counts = np.bincount([column.index(1) for column in positions], minlength=CANDIDATES)
    expected = len(queries) / CANDIDATES
    # chi-square with 4 degrees of freedom: 18.5 is passed by chance once in a thousand
    assert np.sum((counts - expected) ** 2 / expected) < 18.5


@pytest.mark.parametrize("split", LEXICONS)
def test_length_gives_no_label_away(corpus: Corpus, split: str) -> None:
    lengths: dict[str, list[int]] = {intent: [] for intent in TRAIN.complaints}
    for row in corpus["intent"][split]:
        lengths[str(row["intent"])].append(len(words(str(row["message"]))))
    averages = [mean(values) for values in lengths.values()]
    assert max(averages) - min(averages) < 2.0  # words

    pairs = corpus["paraphrase"][split]
    total = [sum(len(words(text)) for text in pair) for pair in texts(pairs, "paraphrase")]
    assert abs(pearsonr(total, [row["score"] for row in pairs])[0]) < 0.15

    answers = corpus["advice"][split]
    length = np.array([len(str(row["answer"])) for row in answers])
    assert max(mrr(answers, length), mrr(answers, -length)) < 0.55


@pytest.mark.parametrize("split", LEXICONS)
def test_wrong_answers_repeat_the_question_as_often_as_right_ones(corpus: Corpus, split: str) -> None:
    shared: dict[int, list[int]] = {0: [], 1: []}
    for row in corpus["advice"][split]:
        content = set(words(str(row["question"]))) - FUNCTION_WORDS
        shared[int(row["relevant"])].append(bool(content & set(words(str(row["answer"])))))
    assert abs(mean(shared[0]) - mean(shared[1])) < 0.2
    assert mean(shared[0]) > 0.4


@pytest.mark.parametrize("options", ANALYZERS.values(), ids=ANALYZERS)
def test_counting_words_does_not_find_the_intent(corpus: Corpus, options: dict[str, object]) -> None:
    train, validation = corpus["intent"]["train"], corpus["intent"]["validation"]
    vectorizer = TfidfVectorizer(**options)
    features = vectorizer.fit_transform([row["message"] for row in train])
    model = LogisticRegression(C=1.0, max_iter=300).fit(features, [row["intent"] for row in train])
    accuracy = model.score(
        vectorizer.transform([row["message"] for row in validation]), [row["intent"] for row in validation]
    )
    assert accuracy <= 0.6


def pair_features(rows: list[Row], task: str, vectorizer: TfidfVectorizer) -> sparse.csr_matrix:
    """What a pair's words say: which differ, which are shared, and how many."""
    pairs = texts(rows, task)
    first, second = (vectorizer.transform([pair[side] for pair in pairs]) for side in (0, 1))
    cosine = first.multiply(second).sum(axis=1)
    counts = [
        [overlap(*pair), overlap(*pair) / len(set(words(" ".join(pair)))), len(pair[0]), len(pair[1])] for pair in pairs
    ]
    return sparse.hstack([abs(first - second), first.multiply(second), second, cosine, np.array(counts)]).tocsr()


def ridge_scores(corpus: Corpus, task: str, options: dict[str, object]) -> np.ndarray:
    train, validation = corpus[task]["train"], corpus[task]["validation"]
    vectorizer = TfidfVectorizer(**options).fit([text for pair in texts(train, task) for text in pair])
    model = Ridge(alpha=1.0).fit(pair_features(train, task, vectorizer), [float(row[LABELS[task]]) for row in train])
    return model.predict(pair_features(validation, task, vectorizer))


@pytest.mark.parametrize("options", ANALYZERS.values(), ids=ANALYZERS)
def test_counting_words_does_not_find_the_paraphrase(corpus: Corpus, options: dict[str, object]) -> None:
    gold = [row["score"] for row in corpus["paraphrase"]["validation"]]
    assert pearsonr(ridge_scores(corpus, "paraphrase", options), gold)[0] <= 0.3


@pytest.mark.parametrize("options", ANALYZERS.values(), ids=ANALYZERS)
def test_counting_words_does_not_find_the_advice(corpus: Corpus, options: dict[str, object]) -> None:
    assert mrr(corpus["advice"]["validation"], ridge_scores(corpus, "advice", options)) <= 0.6


@pytest.mark.parametrize("sign", [1, -1])
def test_word_overlap_alone_says_nothing_about_pairs(corpus: Corpus, sign: int) -> None:
    for split in LEXICONS:
        pairs, answers = corpus["paraphrase"][split], corpus["advice"][split]
        shared = [sign * overlap(*pair) for pair in texts(pairs, "paraphrase")]
        assert pearsonr(shared, [row["score"] for row in pairs])[0] <= 0.2
        assert mrr(answers, np.array([sign * overlap(*pair) for pair in texts(answers, "advice")])) <= 0.55
