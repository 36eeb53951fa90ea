"""Proposed definitions: the guesses as expected, and every proposal loads and fits the data it was made from."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import write_jsonl
from hypothesis import given
from hypothesis import strategies as st

from mtl import columns as module
from mtl.cli import main
from mtl.config import resolve
from mtl.definitions import read_task_defs
from mtl.errors import UserError
from mtl.plain_data import parse_yaml
from mtl.propose import propose, word
from mtl.reading import check_data
from mtl.settings import Sourced
from mtl.source import Source, read_rows
from mtl.taskdef import TaskDef
from mtl.text_encoding import guessed_encoding

Rows = list[dict[str, Any]]


def write(path: Path, rows: Rows) -> Path:
    """Writes rows in the format of the suffix."""
    names = list(rows[0])
    if path.suffix == ".parquet":
        pq.write_table(pa.table({name: [row[name] for row in rows] for name in names}), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        buffer = io.StringIO()
        writer = csv.writer(buffer, delimiter="," if path.suffix == ".csv" else "\t", lineterminator="\n")
        writer.writerows([names, *([row[name] for name in names] for row in rows)])
        path.write_text(buffer.getvalue(), encoding="utf-8")
    return path


def load(text: str, folder: Path) -> tuple[str, TaskDef]:
    """Loads a proposal as `train` does, from a directory of its own, and checks it against its data."""
    file = folder / "elsewhere" / "proposed.yml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(text, encoding="utf-8")
    definitions, problems = read_task_defs([file])
    _, tasks, found = resolve(definitions, Sourced({"encoder": "none"}), Sourced())
    assert problems + found == []
    assert check_data(tasks, None).problems == []
    [(name, task)] = tasks.items()
    return name, task


def texts(number: int, subject: str = "film") -> list[str]:
    return [f"The {subject} number {index} was watched by many people" for index in range(number)]


def single(labels: list[Any], text: str = "text", label: str = "label", **more: list[Any]) -> Rows:
    columns = {text: texts(len(labels)), label: labels} | more
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def pair(labels: list[Any], one: str, two: str, label: str = "label", **more: list[Any]) -> Rows:
    return single(labels, one, label, **{two: texts(len(labels), "book")}, **more)


def ranked(group: dict[str, list[Any]] | None = None, grades: tuple[Any, ...] = (0, 1, 0), queries: int = 3) -> Rows:
    """Rows of (query, candidate, relevance), all candidates of a query following each other."""
    number = queries * len(grades)
    query = [f"what is thing {index // len(grades)} made of" for index in range(number)]
    columns = (group or {}) | {"query": query, "passage": texts(number, "thing"), "relevance": list(grades) * queries}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


QID = {"qid": [f"Q{index // 3}" for index in range(9)]}

# Rows; expected type, columns in the order text_a, text_b, label, group; and labels.
CASES: dict[str, tuple[Rows, str, list[str], list[str]]] = {
    "words": (single(["neg", "pos"] * 4), "classification", ["text", "label"], ["neg", "pos"]),
    "yes and no": (single(["yes", "no"] * 4), "classification", ["text", "label"], ["no", "yes"]),
    "words of YAML": (
        single(["true", "null", "~", "1e-5", "a: b", "# c", "'", '"', "- d"] * 3),
        "classification",
        ["text", "label"],
        ['"', "# c", "'", "- d", "1e-5", "a: b", "null", "true", "~"],
    ),
    "unicode": (
        single(["größer", "café ☕", "否定", "\u2028line"] * 2, "Testo è", "Étiquette"),
        "classification",
        ["Testo è", "Étiquette"],
        sorted(["größer", "café ☕", "否定", "\u2028line"]),
    ),
    "Chinese": (
        [{"句子": f"这部电影非常好看我很喜欢{index}", "标签": "正负"[index % 2]} for index in range(8)],
        "classification",
        ["句子", "标签"],
        ["正", "负"],
    ),
    "quotes and newlines": (
        single(["a\nb", 'say "c"', "d, e"] * 3, text="my text"),
        "classification",
        ["my text", "label"],
        ["a\nb", "d, e", 'say "c"'],
    ),
    "stars": (single([1, 2, 3, 4, 5] * 4, "review", "stars"), "classification", ["review", "stars"], list("12345")),
    "ten grades": (
        single([*range(1, 11)] * 2, "essay", "score"),
        "classification",
        ["essay", "score"],
        [str(n) for n in range(1, 11)],
    ),
    "0 and 1": (single([0, 1] * 4), "classification", ["text", "label"], ["0", "1"]),
    "-1, 0 and 1": (single([-1, 0, 1] * 4), "classification", ["text", "label"], ["-1", "0", "1"]),
    "floats": (single([0.5, 2.25, 1e-5, 4.0] * 2, label="score"), "regression", ["text", "score"], []),
    "floats as words": (single(["0.5", " 2", "1e-5", "4.0"] * 2), "regression", ["text", "label"], []),
    "whole floats": (single(["0.0", "1.0"] * 4), "classification", ["text", "label"], ["0.0", "1.0"]),
    "many integers": (single([*range(30)]), "regression", ["text", "label"], []),
    "unnamed fractions": (single([0.25, 0.5, 0.75], label="anger"), "regression", ["text", "anger"], []),
    "unnamed label": (
        single(["up", "down"] * 4, "note", "mood", id=[*range(8)], language=["en"] * 8, author=list("abcdefgh")),
        "classification",
        ["note", "mood"],
        ["down", "up"],
    ),
    "identifiers": (
        single(
            ["x", "y"] * 4,
            "body",
            "class",
            doc_id=[f"id {n} of the document" for n in range(8)],
            url=["http://a.b"] * 8,
        ),
        "classification",
        ["body", "class"],
        ["x", "y"],
    ),
    "longest text": (
        single(["x", "y"] * 4, "title", "category", body=[t * 3 for t in texts(8)]),
        "classification",
        ["body", "category"],
        ["x", "y"],
    ),
    "single words": (
        [
            {"word": word, "label": "xy"[index % 2]}
            for index, word in enumerate(["sun", "moon", "star", "sky", "sea", "rain"])
        ],
        "classification",
        ["word", "label"],
        ["x", "y"],
    ),
    "missing": (single(["x", "y", "", "x", "-", "y"]), "classification", ["text", "label"], ["x", "y"]),
    "missing numbers": (single(["0.5", "NA", "1.5", "", "nan"]), "regression", ["text", "label"], []),
    "entailment": (
        pair(["neutral", "entailment", "contradiction"] * 3, "premise", "hypothesis", pairID=[*range(9)]),
        "classification",
        ["premise", "hypothesis", "label"],
        ["contradiction", "entailment", "neutral"],
    ),
    "texts of one word by their name": (
        [{"id": n, "label": n % 2, "text": f"ok {n}"} for n in range(60)],
        "classification",
        ["text", "label"],
        ["0", "1"],
    ),
    "a pair by its names": (
        [{"question": f"why {n}", "sentence": f"it is so {n}", "label": "ab"[n % 2]} for n in range(60)],
        "classification",
        ["question", "sentence", "label"],
        ["a", "b"],
    ),
    "questions and candidates": (
        [
            {
                "id": f"q{n // 4}",
                "question": question,
                "candidate": f"because of {n} it is",
                "relevant": int(n % 4 == 0),
            }
            for n, question in enumerate(text for text in texts(20) for _ in range(4))
        ],
        "ranking",
        ["question", "candidate", "relevant", "question"],
        [],
    ),
    "numbered pair": (
        pair([0.0, 2.5, 5.0], "sentence1", "sentence2", "score"),
        "regression",
        ["sentence1", "sentence2", "score"],
        [],
    ),
    "SICK": (
        pair([1.0, 2.5, 5.0], "sentence_A", "sentence_B", "relatedness_score", pair_ID=[1, 2, 3]),
        "regression",
        ["sentence_A", "sentence_B", "relatedness_score"],
        [],
    ),
    "third text": (
        pair([0, 1] * 4, "question", "answer", "label", document_title=texts(8, "page")),
        "classification",
        ["question", "answer", "label"],
        ["0", "1"],
    ),
    "unnamed pair": (
        pair(["x", "y"] * 4, "Left side", "Other side", "verdict"),
        "classification",
        ["Left side", "Other side", "verdict"],
        ["x", "y"],
    ),
    "repeated premises": (  # three hypotheses each, as in SNLI: nobody's candidates
        [
            row | {"premise": texts(3)[index // 3]}
            for index, row in enumerate(pair([0, 1, 2] * 3, "premise", "hypothesis"))
        ],
        "classification",
        ["premise", "hypothesis", "label"],
        ["0", "1", "2"],
    ),
    "qid": (ranked(QID), "ranking", ["query", "passage", "relevance", "qid"], []),
    "grades": (ranked(QID, grades=(0, 3, 1)), "ranking", ["query", "passage", "relevance", "qid"], []),
    "float grades": (ranked(QID, grades=(0.0, 1.0, 0.0)), "ranking", ["query", "passage", "relevance", "qid"], []),
    "query text": (ranked(), "ranking", ["query", "passage", "relevance", "query"], []),
    "candidate first": (
        [
            {"text_1": r["passage"], "text_2": r["query"], "label": r["relevance"], "group_id": r["qid"]}
            for r in ranked(QID)
        ],
        "ranking",
        ["text_2", "text_1", "label", "group_id"],
        [],
    ),
    "one candidate each": (
        ranked({"qid": [*range(9)]}, grades=(1, 0, 1)),
        "ranking",
        ["query", "passage", "relevance", "query"],
        [],
    ),
    "qid of words": (
        ranked(QID, grades=("good", "bad", "bad")),
        "classification",
        ["query", "passage", "relevance"],
        ["bad", "good"],
    ),
}


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("case", CASES)
def test_guess(case: str, suffix: str, tmp_path: Path) -> None:
    rows, kind, columns, labels = CASES[case]
    if case == "unnamed label" and suffix == ".parquet":
        rows = [row | {"tags": ["a", "b"], "extra": None} for row in rows]
    path = write(tmp_path / f"my rows{suffix}", rows)
    name, task = load(propose(path), tmp_path)
    assert name == "my_rows"
    assert task.type == kind
    assert list(task.data.columns.model_dump(exclude_none=True).values()) == columns
    assert task.labels == labels
    assert task.data.files == {"train": str(path), "validation": str(path)}


# Text of a file; expected labels, and values that are no labels.
FILES: dict[str, tuple[str, str, list[str], list[Any]]] = {
    "byte order mark": (
        ".csv",
        "\ufeffText,Label\nit is good,a\nit is bad,b\nit is so so,a\nit is ok,b\n",
        ["a", "b"],
        [],
    ),
    "CRLF": (
        ".csv",
        "text,label\r\nit is good,a\r\nit is\r\n bad,b\r\n".replace("is\r\n bad", "is bad"),
        ["a", "b"],
        [],
    ),
    "newline in a cell": (".csv", 'text,label\n"it is\n\n""good""",a\n"it, is\r\nbad",b\n', ["a", "b"], []),
    "stray quotes": (".tsv", 'text\tlabel\n"it is good\ta\nit is 5" long\tb\n', ["a", "b"], []),
    "blank lines": (".csv", "text,label\n\nit is good,a\n\nit is bad,b\n\n", ["a", "b"], []),
    "booleans": (
        ".jsonl",
        '{"text": "it is good", "label": true}\n{"text": "bad it is", "label": false}\n',
        ["false", "true"],
        [],
    ),
    "null": (
        ".jsonl",
        '{"text": "it is good", "label": 1}\n{"text": "bad it is", "label": null}\n{"text": "it is bad", "label": 0}\n',
        ["0", "1"],
        [None],
    ),
    "no key": (
        ".jsonl",
        '{"text": "it is good", "label": "x"}\n{"text": "bad it is"}\n{"text": "it is bad", "label": "y"}\n',
        ["x", "y"],
        [None],
    ),
    "no key in the first row": (
        ".jsonl",
        '{"text": "it is good"}\n{"text": "bad it is", "label": "x"}\n{"text": "it is bad", "label": "y"}\n',
        ["x", "y"],
        [None],
    ),
    "minus": (".csv", "text,label\nit is good,+\nit is bad,-\nbad it is,-\nso so it is,0\n", ["+", "-", "0"], []),
    "dash": (".csv", "text,label\nit is good,a\nit is bad,-\nbad it is,b\nis it bad,a\n", ["a", "b"], ["-"]),
    "nested": (
        ".jsonl",
        '{"text": "it is good", "label": ["x"], "class": "x"}\n{"text": "bad it is", "label": ["y"], "class": "y"}\n',
        ["x", "y"],
        [],
    ),
    "columns that count": (".csv", "0,1\nit is good,1\nit is bad,0\nit was good,1\nit was bad,0\n", ["0", "1"], []),
}


@pytest.mark.parametrize("case", FILES)
def test_file(case: str, tmp_path: Path) -> None:
    suffix, text, labels, unlabelled = FILES[case]
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(text.encode())
    _, task = load(propose(path), tmp_path)
    assert (task.type, task.labels, task.data.unlabelled) == ("classification", labels, unlabelled)


GERMAN = "text,label\n" + "Das Wetter ist schön auf der Straße.,a\nEs regnet über München und ich möchte heim.,b\n" * 20
RUSSIAN = "text,label\n" + "Сегодня хорошая погода и мы идём гулять.,a\nДождь идёт над городом весь день.,b\n" * 20
FEW = {  # language to encoding and a few texts
    "French": ("cp1252", "Où est passée ma commande ? Le garçon à l'accueil était charmant.", "Café déjà vu"),
    "Spanish": ("cp1252", "No volvería jamás: ¡qué decepción más grande!", "La habitación era pequeña."),
    "Portuguese": ("cp1252", "A refeição estava ótima e não era cara.", "Duas opções"),
    "Italian": ("cp1252", "Perché è così? La qualità è buona.", "Non lo comprerò più."),
    "Danish": ("cp1252", "Maden var god, men prisen var for høj.", "Det er træls på øen."),
    "Finnish": ("cp1252", "Tämä elokuva oli todella hyvä.", "Näyttelijät olivat hyviä."),
    "Czech": ("cp1250", "Žádný jiný film mě tak nezklamal.", "Příběh mě okamžitě vtáhl."),
    "Polish": ("cp1250", "Okropna książka, żałuję że ją kupiłem.", "Świetna gra aktorów"),
    "Hungarian": ("cp1250", "A színészek nagyszerűek és a történet is erős.", "Sosem láttam ennél rosszabbat."),
    "Turkish": ("cp1254", "Çok güzel bir filmdi, herkese öneririm.", "Sıkıcı ve gereksiz yere uzun, beğenmedim."),
    "Greek": ("cp1253", "Πολύ καλή ταινία και ωραία ιστορία.", "Δεν μου άρεσε καθόλου το βιβλίο."),
}


@pytest.mark.parametrize("language", FEW)
def test_few_rows_tell_the_encoding(language: str, tmp_path: Path) -> None:
    encoding, *texts = FEW[language]
    text = "text;label\n" + "".join(f"{line};{row % 2}\n" for row, line in enumerate(texts))
    (tmp_path / "rows.csv").write_bytes(text.encode(encoding))
    guessed = guessed_encoding(tmp_path / "rows.csv")
    assert guessed is not None and text.encode(encoding).decode(guessed) == text


@pytest.mark.parametrize(
    ("text", "encoding", "named"),
    [
        (GERMAN, "utf-8", None),
        (GERMAN, "utf-8-sig", None),
        (GERMAN, "utf-16", None),
        (GERMAN, "cp1252", "cp1252"),
        (GERMAN, "utf-16-le", "utf_16_le"),
        (RUSSIAN, "utf-16-be", "utf_16_be"),
        (RUSSIAN, "cp1251", "cp1251"),
    ],
)
def test_encodings(text: str, encoding: str, named: str | None, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(text.encode(encoding))
    _, task = load(propose(path), tmp_path)
    assert (task.data.encoding, task.labels) == (named, ["a", "b"])
    found = [row["text"] for _, row in read_rows(Source(path=path, encoding=task.data.encoding))]
    assert found == [line.rpartition(",")[0] for line in text.splitlines()[1:]]


def test_held_out_rows_in_another_encoding_are_passed_over(tmp_path: Path) -> None:
    train, beside = tmp_path / "train.csv", tmp_path / "dev.csv"
    train.write_bytes(GERMAN.encode("cp1252"))
    beside.write_bytes(GERMAN.encode())
    text = propose(train)
    assert "has another encoding" in text
    assert f"validation: {train}" in text
    beside.write_bytes(GERMAN.encode("cp1252"))
    assert f"validation: {beside}" in propose(train)


def test_the_name_of_a_missing_value_is_no_label(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", single(["a", "None", None, "b", "a"]))
    _, task = load(propose(path), tmp_path)
    assert (task.labels, task.data.unlabelled) == (["a", "b"], [None, "None"])
    with pytest.raises(UserError, match="only the label 'a' in"):
        propose(write(path, single(["a", "None", None])))


def test_nan_of_parquet_is_no_label(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.parquet", single([0.0, 1.0, float("nan"), None, 1.0]))
    _, task = load(propose(path), tmp_path)
    assert (task.labels, task.data.unlabelled) == (["0.0", "1.0"], [None, "nan"])


@pytest.mark.parametrize(
    ("labels", "metrics"),
    [
        (["a", "b"] * 5, ["accuracy", "macro_f1"]),
        (["a"] * 7 + ["b"] * 3, ["accuracy", "macro_f1"]),
        (["a"] * 8 + ["b"] * 2, ["macro_f1", "accuracy"]),
        ([0.5, 1.5, 2.5], ["pearson", "spearman"]),
    ],
)
def test_metrics(labels: list[Any], metrics: list[str], tmp_path: Path) -> None:
    assert load(propose(write(tmp_path / "rows.csv", single(labels))), tmp_path)[1].metrics == metrics


def test_names_that_the_data_gives_its_integers(tmp_path: Path) -> None:
    import datasets

    names = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=["sad", "dull", "glad"]))
    rows = {"text": [f"text {row}" for row in range(60)], "label": [row % 2 * 2 for row in range(60)]}
    datasets.Dataset.from_dict(rows, features=names).to_parquet(tmp_path / "a.parquet")
    proposed = propose(tmp_path / "a.parquet")
    assert yaml.safe_load(proposed)["a"]["labels"] == ["sad", "dull", "glad"]
    assert "- dull # 0 rows" in proposed and "as the data names its integers" in proposed


def test_ranking_metrics(tmp_path: Path) -> None:
    assert load(propose(write(tmp_path / "rows.csv", ranked())), tmp_path)[1].metrics == ["map", "mrr", "ndcg@10"]


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("reviews.csv", "reviews"),
        ("my.reviews (2).csv", "my_reviews_2"),
        ("reviews_train.csv", "reviews"),
        ("train.csv", "my_task"),
        ("Größe.csv", "Groe"),
        ("否定.csv", "my_task"),
        ("2024.csv", "2024"),
        ("no.csv", "no"),
        ("x" * 100 + ".csv", "x" * 64),
    ],
)
def test_task_name(file: str, name: str, tmp_path: Path) -> None:
    assert load(propose(write(tmp_path / file, single(["a", "b"] * 4))), tmp_path)[0] == name


@pytest.mark.parametrize(
    ("train", "beside"),
    [
        ("train.csv", "dev.csv"),
        ("train.csv", "validation.csv"),
        ("x_train.tsv", "x_dev.tsv"),
        ("train-x.jsonl", "val-x.jsonl"),
        ("x.train.v2.parquet", "x.test.v2.parquet"),
    ],
)
def test_held_out_file(train: str, beside: str, tmp_path: Path) -> None:
    path, other = write(tmp_path / train, single(["a", "b"] * 4)), write(tmp_path / beside, single(["b", "c", "a"]))
    _, task = load(propose(path), tmp_path)
    assert task.data.files == {"train": str(path), "validation": str(other)}
    assert task.labels == ["a", "b", "c"]


def test_a_held_out_file_may_write_whole_numbers_with_a_fraction(tmp_path: Path) -> None:
    path = write(tmp_path / "train.csv", single([0, 1] * 4))
    other = tmp_path / "dev.csv"
    other.write_text("text,label\nit is good,1.0\nit is bad,0.0\nit is so so,2.0\n")
    proposed = propose(path)
    _, task = load(proposed, tmp_path)
    assert task.data.files == {"train": str(path), "validation": str(other)}
    assert task.labels == ["0", "1", "2.0"]


def test_whole_numbers_may_be_many_classes(tmp_path: Path) -> None:
    for labels, told in (([*range(40)] * 2, True), ([n + 0.5 for n in range(40)], False)):
        proposed = propose(write(tmp_path / "rows.jsonl", single(labels)))
        assert "type: regression" in proposed
        assert ("if these numbers are classes, write classification" in proposed) == told


@pytest.mark.parametrize(
    ("beside", "reason"),
    [
        ("text,name\nit is good,a\n", "has no label"),
        ("text,label\nit is good,\n", "has other labels"),
        ("text,label\nit is good,-1\n", "has other labels"),
        ("text,label\nit is good\n", "has 1 cell"),
        ("text,label\n", "has no text"),
    ],
)
def test_unfit_file_beside(beside: str, reason: str, tmp_path: Path) -> None:
    path = write(tmp_path / "train.csv", single(["a", "b"] * 4))
    (tmp_path / "dev.csv").write_text(beside)
    proposed = propose(path)
    assert f'# dev.csv beside it does not fit, it "{reason}' in proposed
    assert load(proposed, tmp_path)[1].data.files == {"train": str(path), "validation": str(path)}


def test_a_word_that_only_contains_train_is_no_split(tmp_path: Path) -> None:
    path = write(tmp_path / "trains.csv", single(["a", "b"] * 4))
    write(tmp_path / "devs.csv", single(["a", "b"] * 4))
    name, task = load(propose(path), tmp_path)
    assert name == "trains"
    assert task.data.files == {"train": str(path), "validation": str(path)}


def test_comments(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", single(["good", "bad", "good"], author=["Ann", "Bob", "Cid"]))
    proposed = propose(path)
    assert (
        "  labels: # 2 values; the order fixes the integer of each\n    - bad # 1 row\n    - good # 2 rows\n"
        in proposed
    )
    assert "# not used: author" in proposed
    assert "the training rows: train with --set train.holdout=0.1, or name held-out rows here" in proposed
    assert "names may stand here instead" in propose(write(path, single([0, 1] * 4)))
    for labels in (["good", "Good", "bad"], ["1", "0", "1.0"]):
        assert "some differ in spelling only" in propose(write(path, single(labels * 4)))
    assert "if -1 means 'no label'" in propose(write(path, single([0, 1, -1] * 4)))


def test_relative_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "rows.csv", single(["a", "b"] * 4))
    monkeypatch.chdir(tmp_path)
    assert load(propose(Path("rows.csv")), tmp_path)[1].data.files == {"train": str(path), "validation": str(path)}


def test_only_the_first_rows_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIMIT", 6)
    path = tmp_path / "rows.csv"
    path.write_text("text,label\n" + "it is good,a\nit is bad,b\n" * 4 + "a broken row,with,cells\n")
    assert "\n# Proposed from 6 rows (first ones only" in "\n" + propose(path)
    assert "run_mtl.py validate" in propose(path)
    path.write_text("text,label\n" + "it is good,a\n" * 7)
    with pytest.raises(UserError, match="in the first 6 rows: add others, or shuffle"):
        propose(path)


def test_many_classes(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", single([f"class {n:03}" for n in range(120)] * 2))
    assert load(propose(path), tmp_path)[1].labels == [f"class {n:03}" for n in range(120)]


ERRORS: dict[str, tuple[str, str, str]] = {
    "no rows": ("rows.csv", "text,label\n", "holds no rows; expected one row for each example"),
    "empty": ("rows.csv", "", "is empty; expected a first line"),
    "no text": ("rows.csv", "id,n,label\na1,3,x\nb2,4,y\n", "no column that reads as text: id .*, n .*--text"),
    "no label": (
        "rows.csv",
        "text,id\nit is good,1\nit is bad,2\n",
        "no column that can be the label: .*; name the right one with --label",
    ),
    "empty label": (
        "rows.csv",
        "text,label\nit is good,\nit is bad,\n",
        r"label \(empty\); name the right one with --label",
    ),
    "lists": ("rows.jsonl", '{"text": "it is good", "tags": ["a"]}\n', "no column that can be the label"),
    "one label": ("rows.csv", "text,label\nit is good,a\nit is bad,a\n", "only the label 'a' in 2 rows: add others"),
    "one number": ("rows.csv", "text,label\nit is good,1\nit is bad,NA\n", "only the label '1' in"),
    "a label each": (
        "rows.csv",
        "text,label\n" + "".join(f"it is good,answer {n}\n" for n in range(10)),
        "10 different labels in 10 rows, too many",
    ),
    "decimal commas": (
        "rows.csv",
        "text,label\n" + "".join(f'it is good,"{n},5"\n' for n in range(10)),
        "numbers such as '0,5': write them as in 1234.5",
    ),
    "decimal commas in another column": (
        "rows.csv",
        "text;note\n" + "".join(f"it is good {n} times;{n},5\n" for n in range(60)),
        r"numbers such as '0,5': write them as in 1234\.5, .*\(found in column 'note'\)",
    ),
    "several labels in a row": (
        "rows.jsonl",
        "".join(f'{{"text": "it is good {n} times", "labels": ["a", "b"]}}\n' for n in range(9)),
        "column 'labels' holds lists or objects: write one label in each row",
    ),
    "several labels in a row beside another column": (
        "rows.jsonl",
        "".join(f'{{"text": "it is good {n} times", "labels": [0], "who": "{"ab"[n % 2]}"}}\n' for n in range(9)),
        "column 'labels' holds lists or objects",
    ),
    "numbers of a programming language": (
        "rows.csv",
        "text,price\n" + "".join(f"it is good {n} times,{n}_000.5\n" for n in range(60)),
        "has no column that can be the label",
    ),
    "percentages": ("rows.csv", "text,label\n" + "".join(f"it is good,{n} %\n" for n in range(9)), "such as '0 %'"),
    "no text in a row": (
        "rows.jsonl",
        '{"text": "it is good", "label": 1}\n{"text": "it was bad", "label": 0}\n{"text": null, "label": 0}\n',
        "rows.jsonl:3: column 'text' holds no text here",
    ),
    "no header": (
        "rows.csv",
        "it is good,a\n" + "".join(f"it is bad {n} times,{c}\n" for n, c in enumerate("abbaab")),
        "the column names must be in the first line",
    ),
    "no header above numbers": (
        "rows.csv",
        "".join(f"it is good {n},{n / 7:.3f}\n" for n in range(9)),
        r"has the label '0\.000': the column names must be in the first line",
    ),
    "header again": ("rows.csv", "text,label\nit is good,a\ntext,label\nit is bad,b\n", "the column names must be"),
    "unknown suffix": ("rows.xlsx", "text", r"unknown type; convert it to one of: \.parquet, \.jsonl, \.csv, \.tsv"),
    "not JSON": ("rows.jsonl", "text", "not valid JSON"),
    "half a character": (
        "rows.csv",
        "\udcff\udcfet\0e",
        "begins with the byte-order mark of utf-16, but is no such text",
    ),
    "not Parquet": ("rows.parquet", "text", "is not a Parquet file"),
}


def test_twins_by_name_are_texts(tmp_path: Path) -> None:
    """Also where their words and numbers do not look like text, and some are empty."""
    rows = [
        {"text_a": f"Frage {n}", "text_b": f"Antwort{n}" if n % 5 else "", "label": "ja" if n % 2 else "nein"}
        for n in range(40)
    ]
    proposed = yaml.safe_load(propose(write_jsonl(tmp_path / "rows.jsonl", rows)))
    assert proposed["rows"]["data"]["columns"] == {"text_a": "text_a", "text_b": "text_b", "label": "label"}


TWINS = {
    "ids and texts": (
        {"id_1": "a{n}", "id_2": "b{n}", "text_1": "it is {n}", "text_2": "it was {n}"},
        ["text_1", "text_2"],
    ),
    "ids of questions": (
        {"qid1": "q{n}", "qid2": "p{n}", "question1": "who is {n}", "question2": "what is {n}"},
        ["question1", "question2"],
    ),
    "the longer pair": (
        {
            "address_a": "road {n}",
            "address_b": "lane no {n}",
            "body_a": "it is {n} again",
            "body_b": "it was {n} before",
        },
        ["body_a", "body_b"],
    ),
    "ids and a text": ({"id_a": "a{n}", "id_b": "b{n}", "review": "it is {n}"}, ["review"]),
    "dates and a text": ({"date_1": "2026-01-{n}", "date_2": "2025-01-{n}", "text": "it is {n}"}, ["text"]),
    "addresses and a text": ({"url1": "a.org/{n}", "url2": "b.org/{n}", "text": "it is {n}"}, ["text"]),
    "one beside a sentence": (
        {"left_text": "w{n}", "text_a": "it is {n}", "text_b": "Antwort{n}"},
        ["text_a", "text_b"],
    ),
}


@pytest.mark.parametrize("case", TWINS)
def test_twins_are_texts_if_one_of_them_reads_so(case: str, tmp_path: Path) -> None:
    columns, expected = TWINS[case]
    rows = [{name: text.format(n=n) for name, text in columns.items()} | {"label": "ab"[n % 2]} for n in range(40)]
    proposed = yaml.safe_load(propose(write_jsonl(tmp_path / "rows.jsonl", rows)))
    found = proposed["rows"]["data"]["columns"]
    assert [found[role] for role in ("text_a", "text_b") if role in found] == expected


@pytest.mark.parametrize("case", ERRORS)
def test_error(case: str, tmp_path: Path) -> None:
    name, text, message = ERRORS[case]
    path = tmp_path / name
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=message) as raised:
        propose(path)
    assert str(raised.value).startswith(str(path))


TICKETS = "".join(f"{n % 3},the case of {n} is here,product {n % 4},{n / 7:.2f}\n" for n in range(40))


def test_columns_that_are_named_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "tickets.csv"
    path.write_text("queue,body,product,hours\n" + TICKETS)
    proposed = propose(path)
    assert yaml.safe_load(proposed)["tickets"]["data"]["columns"] == {"text_a": "body", "label": "queue"}
    assert "label: queue # guessed (--label names another); 3 different values" in proposed
    assert main(["init", str(path), "--label", "hours", "--text", "product", "--text", "body"]) == 0
    proposed = capsys.readouterr().out
    task = yaml.safe_load(proposed)["tickets"]
    assert task["type"] == "regression"
    assert task["data"]["columns"] == {"text_a": "product", "text_b": "body", "label": "hours"}
    assert "guessed (" not in proposed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--label", "hour"], "has no column 'hour'; it has: queue, body, product, hours; did you mean 'hours'?"),
        (["--text", "Body"], "tickets.csv: has no column 'Body'; it has: queue"),
        (
            ["--label", "body", "--text", "body"],
            "--text: name one column, or the two of a pair, other than the label's",
        ),
        (["--text", "queue", "--text", "queue"], "--text: name one column"),
        (["--text", "queue", "--text", "body", "--text", "product"], "--text: name one column"),
        (["--label", "body", "--text", "product"], "has 40 different labels in 40 rows, too many to learn (found in"),
    ],
)
def test_columns_that_are_named_exist(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tickets.csv"
    path.write_text("queue,body,product,hours\n" + TICKETS)
    assert main(["init", str(path), *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("label", "digits"), [("hours", 2), ("score", 2), ("score", 0)])
def test_a_stray_text_among_numbers_is_told(label: str, digits: int, tmp_path: Path) -> None:
    """Also if there are so few different numbers that they could be classes."""
    path = tmp_path / "tickets.csv"
    rows = [f"the case of {n} is here,{(n // 20 + 0.5 if digits == 0 else n / 7):.2f}" for n in range(40)]
    rows[6], rows[7] = "the seventh case is here,seven", "the eighth case is here,n/a"
    path.write_text("\n".join([f"body,{label}", *rows]))
    message = r"has numbers, except for 'seven' \(.*tickets.csv:8\): write numbers such as 1234.5 there"
    with pytest.raises(UserError, match=message):
        propose(path)
    lists = [{"body": f"it is {n}", "tags": [n]} for n in range(9)]
    with pytest.raises(UserError, match="column 'tags' holds no labels, but lists"):
        propose(write_jsonl(tmp_path / "rows.jsonl", lists), "tags")


def test_missing_file(tmp_path: Path) -> None:
    for path in (tmp_path / "rows.csv", tmp_path):
        with pytest.raises(UserError):
            propose(path)


@given(st.text())
def test_words_are_read_back(text: str) -> None:
    document = f"{word(text)}: [{word(text)}, {word(text)}] # {word(text)}"
    assert yaml.safe_load(document) == {text: [text, text]}
    values, problems = parse_yaml(document, "words")
    assert (values.data, problems) == ({text: [text, text]}, [])
