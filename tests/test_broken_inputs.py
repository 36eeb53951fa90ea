"""Definitions and data files broken in every way we could think of: status 2, the place, the fix, no traceback."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mtl.cli import main

Edit = tuple[str, str] | str | bytes | None  # (old, new), a whole new content, or no file

FILES: dict[str, str] = {
    "tasks.yml": """\
mood:
  type: classification
  labels: [bad, good]
  metrics: [accuracy]
  data:
    files: {train: train.csv, validation: dev.csv}
    columns: {text_a: text, label: mood}
pairs:
  type: regression
  data:
    files: {train: pairs.jsonl, validation: more.jsonl}
    columns: {text_a: one, text_b: two, label: score}
search:
  type: ranking
  data:
    files: {train: search.tsv, validation: search.tsv}
    columns: {text_a: question, text_b: answer, label: relevant, group: id}
""",
    "train.csv": "text,mood\nit is good,good\nit is bad,bad\n",
    "dev.csv": "text,mood\nwell done,good\nnot so well,bad\n",
    "pairs.jsonl": '{"one": "a b", "two": "c d", "score": 1.5}\n{"one": "e f", "two": "g h", "score": 2}\n',
    "more.jsonl": '{"one": "i j", "two": "k l", "score": "3"}\n',
    "search.tsv": "id\tquestion\tanswer\trelevant\nq1\twhat\tthis\t1\nq1\twhat\tthat\t0\n",
}


def definition(old: str, new: str) -> dict[str, Edit]:
    return {"tasks.yml": (old, new)}


def setting(line: str) -> dict[str, Edit]:
    """A line of its own in the first task, the fourth of the file."""
    return definition("  metrics: [accuracy]\n", f"  {line}\n")


def column_key(line: str) -> dict[str, Edit]:
    """A line of its own in the first task's data, the seventh of the file."""
    return definition("    columns: {text_a: text", f"    {line}\n    columns: {{text_a: text")


SEARCH_HEAD = "id\tquestion\tanswer\trelevant\n"
BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)

# What is done to the files, the place that is told, and what is said there: what is wrong and what would be right.
CASES: dict[str, tuple[dict[str, Edit], str, str]] = {
    # YAML
    "an unclosed list": (
        definition("[bad, good]", "[bad, good"),
        "tasks.yml:4",
        "is not valid YAML: expected ',' or ']'",
    ),
    "a tab": (definition("  type: class", "\ttype: class"), "tasks.yml:2", "found character '\\t' that cannot start"),
    "a wrong indentation": (
        definition("  labels: [bad", " labels: [bad"),
        "tasks.yml:3",
        "is not valid YAML: expected",
    ),
    "no task": ({"tasks.yml": "{}"}, "tasks.yml:1", "defines no task"),
    "no content": ({"tasks.yml": ""}, "tasks.yml", "is empty; expected a mapping"),
    "a list of tasks": ({"tasks.yml": "- mood\n"}, "tasks.yml:1", "expected a mapping at the top level, got a list"),
    "a word": ({"tasks.yml": "mood\n"}, "tasks.yml:1", "expected a mapping at the top level, got the text 'mood'"),
    "two documents": (definition("pairs:", "---\npairs:"), "tasks.yml:8", "found another document"),
    "code": (
        definition("type: regression", "type: !!python/object/apply:os.system [ls]"),
        "tasks.yml:9",
        "is not allowed; write plain values",
    ),
    "too many aliases": ({"tasks.yml": BOMB}, "tasks.yml:1", "more than 20,000 values"),
    "too deep": ({"tasks.yml": "a: " + "[" * 200 + "]" * 200}, "tasks.yml:1", "or 24 levels"),
    "too long": ({"tasks.yml": "# " + "x" * (1 << 20)}, "tasks.yml", "at most 1,048,576 are read"),
    "Latin-1": ({"tasks.yml": b"mood:\n  type: caf\xe9\n"}, "tasks.yml:2", "is not UTF-8 text (byte 0xe9); convert it"),
    "no file of definitions": ({"tasks.yml": None}, "tasks.yml", "there is no such file"),
    "a key twice": (
        definition("  metrics: [acc", "  type: ranking\n  metrics: [acc"),
        "tasks.yml:4",
        "duplicate key 'mood.type'; it is first defined in line 2",
    ),
    "a task twice": (
        definition("pairs:", "mood:"),
        "tasks.yml:8",
        "duplicate key 'mood'; it is first defined in line 1",
    ),
    # Keys and values of a definition
    "a path as a name": (
        definition("mood:", "../mood:"),
        "tasks.yml:1",
        "may contain only letters, digits, '-' and '_'",
    ),
    "a word for a task": (
        definition("pairs:\n", "words: hello\npairs:\n"),
        "tasks.yml:8",
        "expected a mapping with type, data",
    ),
    "a misspelt key": (
        setting("metrcs: [accuracy]"),
        "tasks.yml:4",
        "unknown key 'mood.metrcs'; allowed: .*; did you mean 'metrics'",
    ),
    "a misspelt type": (definition("classification", "clasification"), "tasks.yml:2", "did you mean 'classification'"),
    "a misspelt role": (
        definition("text_b: two", "txt_b: two"),
        "tasks.yml:12",
        "unknown key 'pairs.data.columns.txt_b'; allowed: group, label, text_a, text_b; did you mean 'text_b'",
    ),
    "a misspelt split": (
        definition("validation: dev.csv", "validaton: dev.csv"),
        "tasks.yml:6",
        "mood.data.files has no 'validation'; it has: train, validaton; did you mean 'validaton'",
    ),
    "no type": (definition("  type: regression\n", ""), "tasks.yml:8", "the key 'pairs.type' is missing"),
    "no data": ({"tasks.yml": "mood:\n  type: regression\n"}, "tasks.yml:1", "the key 'mood.data' is missing"),
    "no columns": (
        definition("    columns: {text_a: one, text_b: two, label: score}\n", ""),
        "tasks.yml:10",
        "the key 'pairs.data.columns' is missing",
    ),
    "no text": (definition("{text_a: text, ", "{"), "tasks.yml:7", "the key 'mood.data.columns.text_a' is missing"),
    "no training data": (
        definition("{train: train.csv, ", "{"),
        "tasks.yml:6",
        "mood.data.files has no 'train'; it has: validation",
    ),
    "no validation data": (
        definition(", validation: dev.csv", ""),
        "tasks.yml:6",
        "mood.data.files has no 'validation'; it has: train; or take rows out of the training data: --set train.hold",
    ),
    "neither hub nor files": (
        definition("    files: {train: train.csv, validation: dev.csv}\n", "    splits: {train: a, validation: b}\n"),
        "tasks.yml:5",
        "mood.data needs either 'hub' or 'files'",
    ),
    "both hub and files": (column_key("hub: x/y"), "tasks.yml:5", "mood.data needs either 'hub' or 'files', not both"),
    "a configuration of files": (
        column_key("config: rte"),
        "tasks.yml:7",
        "mood.data.config belongs to 'hub', not to 'files'",
    ),
    "one label": (
        definition("[bad, good]", "[bad]"),
        "tasks.yml:3",
        "mood.labels: classification needs at least two",
    ),
    "no labels": (
        definition("  labels: [bad, good]\n", ""),
        "tasks.yml:1",
        "mood.labels: classification needs at least two",
    ),
    "a label twice": (
        definition("[bad, good]", "[bad, good, bad]"),
        "tasks.yml:3",
        "mood.labels: 'bad' is listed twice",
    ),
    "labels of a regression": (
        definition("  type: regression\n", "  type: regression\n  labels: [a, b]\n"),
        "tasks.yml:10",
        "pairs.labels are for classification; this task is regression",
    ),
    "a word for labels": (
        definition("[bad, good]", "bad"),
        "tasks.yml:3",
        "mood.labels is the text 'bad'; expected a list, such as [a, b]",
    ),
    "a mapping of labels": (
        definition("[bad, good]", "{bad: 0, good: 1}"),
        "tasks.yml:3",
        "mood.labels is a mapping; expected a list",
    ),
    "a list in labels": (
        definition("[bad, good]", "[bad, [good]]"),
        "tasks.yml:3",
        "mood.labels.1 is a list; expected text",
    ),
    "another type's metric": (
        setting("metrics: [pearson]"),
        "tasks.yml:4",
        "'pearson' is not a metric for classification; allowed: accuracy,",
    ),
    "a misspelt metric": (setting("metrics: [acuracy]"), "tasks.yml:4", "did you mean 'accuracy'"),
    "a metric of two labels": (
        definition("labels: [bad, good]\n  metrics: [accuracy]", "labels: [bad, good, ok]\n  metrics: [f1]"),
        "tasks.yml:4",
        "mood.metrics: 'f1' needs two labels, there are 3; try 'macro_f1'",
    ),
    "another type's loss": (
        setting("loss: mse"),
        "tasks.yml:4",
        "mood.loss: 'mse' does not fit classification; allowed: cross_entropy",
    ),
    "an unknown loss": (
        setting("loss: crossentropy"),
        "tasks.yml:4",
        "allowed: cross_entropy, .*; did you mean 'cross_entropy'",
    ),
    "no weight": (setting("weight: 0"), "tasks.yml:4", "mood.weight is the number 0; expected more than 0"),
    "a weight in words": (
        setting("weight: heavy"),
        "tasks.yml:4",
        "mood.weight is the text 'heavy'; expected a valid number",
    ),
    "a weight that is no number": (
        setting("weight: .nan"),
        "tasks.yml:4",
        "mood.weight is the number nan; expected a finite number",
    ),
    "a dropout of 1": (setting("dropout: 1.0"), "tasks.yml:4", "mood.dropout is the number 1.0; expected less than 1"),
    "no batch": (
        setting("batch_size: 0"),
        "tasks.yml:4",
        "mood.batch_size is the number 0; expected at least 1",
    ),
    "half a row": (
        setting("batch_size: 1.5"),
        "tasks.yml:4",
        "mood.batch_size is the number 1.5; expected a whole number",
    ),
    "too short a length": (setting("max_length: 3"), "tasks.yml:4", "expected at least 4"),
    "a negative learning rate": (setting("learning_rate: -1e-5"), "tasks.yml:4", "expected more than 0"),
    "a number for a section": (setting("smart: 1"), "tasks.yml:4", "mood.smart is the number 1; expected a mapping"),
    "another's name of a key": (
        setting("smart: {lambda: 1}"),
        "tasks.yml:4",
        "unknown key 'mood.smart.lambda'; allowed: ascent, .* weight",
    ),
    "a misspelt preset": (
        setting("smart: {preset: mt-dnn}"),
        "tasks.yml:4",
        "allowed: paper, mtdnn, r3f, rdrop; did you mean 'mtdnn'",
    ),
    "an unknown norm": (
        setting("smart: {norm: l1}"),
        "tasks.yml:4",
        "mood.smart.norm is the text 'l1'; allowed: linf, l2",
    ),
    "another type's divergence": (
        definition("  type: regression\n", "  type: regression\n  smart: {divergence: kl}\n"),
        "tasks.yml:10",
        "pairs.smart.divergence: 'kl' does not fit regression; allowed: mse",
    ),
    "a momentum above 1": (setting("proximal: {beta_early: 1.5}"), "tasks.yml:4", "expected at most 1"),
    "a run's key in adapt": (
        setting("adapt: {epochs: 3}"),
        "tasks.yml:4",
        "unknown key 'mood.adapt.epochs'; allowed: batch_size,",
    ),
    "a ranking without groups": (definition(", group: id", ""), "tasks.yml:17", "search.data.columns.group is missing"),
    "groups of a classification": (
        definition("label: mood}", "label: mood, group: id}"),
        "tasks.yml:7",
        "mood.data.columns.group is for ranking; this task is classification",
    ),
    "a column for two roles": (
        definition("label: mood}", "label: text}"),
        "tasks.yml:7",
        "mood.data.columns: 'text' is used twice",
    ),
    "an unknown encoding": (
        column_key("encoding: utf-7000"),
        "tasks.yml:7",
        "unknown text encoding 'utf-7000'; try utf-8, utf-16, cp1252",
    ),
    "a path as a split": (
        column_key("splits: {train: train, validation: validation, a/b: train}"),
        "tasks.yml:7",
        "'a/b' may contain only letters",
    ),
    "a split of no file": (
        column_key("splits: {train: train, validation: validatoin}"),
        "tasks.yml:7",
        "mood.data.splits.validation: 'files' has no 'validatoin'; did you mean 'validation'",
    ),
    # Data files
    "no data file": ({"train.csv": None}, "tasks.yml:6", "mood.data.files.train: there is no file "),
    "a spreadsheet": (
        definition("train.csv", "train.xlsx"),
        "tasks.yml:6",
        "train.xlsx has an unknown type; convert it to one of: .parquet, .jsonl, .csv, .tsv",
    ),
    "an empty file": ({"train.csv": ""}, "train.csv", "is empty; expected a first line with the columns' names"),
    "a header only": ({"train.csv": "text,mood\n"}, "train.csv", "holds no rows"),
    "a misspelt column": (
        {"train.csv": "txt,mood\na,good\n"},
        "tasks.yml:7",
        "train.csv has no column 'text' (mood.data.columns.text_a); columns: txt, mood; did you mean 'txt'",
    ),
    "no header": (
        {"train.csv": "it is good,good\nit is bad,bad\n"},
        "tasks.yml:7",
        "train.csv has none of mood.data.columns, text, mood; its columns (first line): it is good, good",
    ),
    "a column twice": (
        {"train.csv": "text,mood,text\na,good,b\n"},
        "train.csv:1",
        "the column 'text' appears twice",
    ),
    "an unknown label": (
        {"train.csv": "text,mood\na,good\nb,godo\n"},
        "train.csv:3",
        "unknown label 'godo'; allowed: mood.labels: bad, good; did you mean 'good'",
    ),
    "a label in capitals": (
        {"train.csv": "text,mood\na,GOOD\n"},
        "train.csv:2",
        "unknown label 'GOOD'; .* did you mean 'good'",
    ),
    "a label after a space": (
        {"train.csv": "text,mood\na, good\n"},
        "train.csv:2",
        "unknown label ' good'; .* did you mean 'good'",
    ),
    "no label": (
        {"train.csv": "text,mood\na,\nb,bad\n"},
        "train.csv:2",
        "if it means 'no label', add it to mood.data.unlabelled",
    ),
    "an index beyond the labels": (
        {"train.csv": "text,mood\na,2\n"},
        "train.csv:2",
        "unknown label '2'; allowed: mood.labels: bad, good",
    ),
    "a missing cell": ({"train.csv": "text,mood\na\n"}, "train.csv:2", "has 1 cell, the first line has 2 columns"),
    "a comma too many": (
        {"train.csv": "text,mood\na, b,good\n"},
        "train.csv:2",
        "has 3 cells, the first line has 2 columns",
    ),
    "an open quote": ({"train.csv": 'text,mood\n"a,good\nb,bad\n'}, "train.csv:2", "(an unmatched quote?)"),
    "an encoding that is not named": (
        {"train.csv": b"text,mood\ncaf\xe9,good\n"},
        "train.csv:2",
        "is not UTF-8 text (byte 0xe9); convert it, or name its encoding in data.encoding",
    ),
    "half of a character": (
        {"train.csv": b"\xff\xfet\x00e"},
        "train.csv",
        "begins with the byte-order mark of utf-16, but is no such text; convert it",
    ),
    "no labelled row": (
        column_key("unlabelled: [good, bad]"),
        "train.csv",
        "holds no labelled rows (2 rows without a label)",
    ),
    "no JSON": (
        {"pairs.jsonl": '{"one": "a", "two": "b", "score": 1}\n{one: 1}\n'},
        "pairs.jsonl:2",
        "is not valid JSON: Expecting property name",
    ),
    "one JSON array": ({"pairs.jsonl": '[\n{"one": "a"}]\n'}, "pairs.jsonl:1", "is not valid JSON: Expecting value"),
    "lists for rows": ({"pairs.jsonl": '["a", "b", 1]\n'}, "pairs.jsonl:1", "expected one JSON object per line"),
    "a number for a text": (
        {"pairs.jsonl": '{"one": 5, "two": "b", "score": 1}\n'},
        "pairs.jsonl:1",
        "column 'one' holds int '5', expected text (in quotes)",
    ),
    "null for a text": (
        {"pairs.jsonl": '{"one": "a", "two": null, "score": 1}\n'},
        "pairs.jsonl:1",
        "column 'two' holds nothing, expected text",
    ),
    "a list for a text": (
        {"pairs.jsonl": '{"one": ["a"], "two": "b", "score": 1}\n'},
        "pairs.jsonl:1",
        "holds list .*, expected text",
    ),
    "a key that is missing later": (
        {"pairs.jsonl": '{"one": "a", "two": "b", "score": 1}\n{"one": "a", "score": 1}\n'},
        "pairs.jsonl:2",
        "column 'two' holds nothing, expected text",
    ),
    "a score in words": (
        {"pairs.jsonl": '{"one": "a", "two": "b", "score": "high"}\n'},
        "pairs.jsonl:1",
        "the label is 'high', expected a number",
    ),
    "a score with a comma": (
        {"pairs.jsonl": '{"one": "a", "two": "b", "score": "1,5"}\n'},
        "pairs.jsonl:1",
        "expected a number such as 1.5",
    ),
    "a score that is no number": (
        {"pairs.jsonl": '{"one": "a", "two": "b", "score": NaN}\n'},
        "pairs.jsonl:1",
        "expected a number such as 1.5; if it means 'no label', add it to pairs.data.unlabelled",
    ),
    "a truth for a score": (
        {"pairs.jsonl": '{"one": "a", "two": "b", "score": true}\n'},
        "pairs.jsonl:1",
        "the label is True, expected a number",
    ),
    "a negative relevance": (
        {"search.tsv": SEARCH_HEAD + "q1\ta\tb\t-1\n"},
        "search.tsv:2",
        "the label is '-1', expected a relevance of 0 or more",
    ),
    "no query id": ({"search.tsv": SEARCH_HEAD + "\ta\tb\t1\n"}, "search.tsv:2", "column 'id' holds no query id"),
    "half an emoji": (
        {"pairs.jsonl": '{"one": "so good \\ud83d", "two": "b", "score": 1}\n'},
        "pairs.jsonl:1",
        r"column 'one' contains half a character, \ud83d, as if it had been cut in the middle of an emoji",
    ),
    "commas in a TSV": (
        {"search.tsv": "id,question,answer,relevant\nq1,a,b,1\n"},
        "search.tsv:1",
        "a file with other delimiters is a .csv",
    ),
    "no Parquet": (
        {"tasks.yml": ("train.csv", "train.parquet"), "train.parquet": b"PAR1"},
        "train.parquet",
        "is not a Parquet file: ",
    ),
}


def write(folder: Path, edits: dict[str, Edit]) -> Path:
    for name, text in FILES.items():
        (folder / name).write_text(text)
    for name, edit in edits.items():
        path = folder / name
        if edit is None:
            path.unlink()
        elif isinstance(edit, bytes):
            path.write_bytes(edit)
        elif isinstance(edit, str):
            path.write_text(edit)
        else:
            assert edit[0] in path.read_text()
            path.write_text(path.read_text().replace(*edit, 1))
    return folder / "tasks.yml"


def test_unbroken_the_files_are_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(write(tmp_path, {}))]) == 0
    assert "0 errors" in capsys.readouterr().out


def test_the_table_is_long() -> None:
    assert len(CASES) >= 60


@pytest.mark.parametrize("command", ["validate", "train"])
@pytest.mark.parametrize("case", CASES)
def test_broken(case: str, command: str, tmp_path: Path, encoder_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edits, where, message = CASES[case]
    words = [command, str(write(tmp_path, edits))]
    if command == "train":
        words += ["--encoder", str(encoder_dir), "--output", str(tmp_path / "run")]
    assert main(words) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err
    errors = [line for line in (captured.out + captured.err).splitlines() if line.startswith("error: ")]
    pattern = ".*".join(map(re.escape, message.split(".*")))
    assert re.match(re.escape(f"error: {tmp_path / where}: ") + ".*" + pattern, errors[0]), errors
    follow_ups = {"search.tsv": 0, "tasks.yml": 3}
    assert len(errors) <= 1 + follow_ups.get(where.partition(":")[0], 1), "one fault, and what follows from it"
    assert not (tmp_path / "run").exists()


TOGETHER = {
    "a missing column": (definition("text_a: text", "text_a: txt"), "no column 'txt'"),
    "a missing split": (
        column_key("splits: {train: train, validation: dv}"),
        "'files' has no 'dv'",
    ),
    "no validation data": (definition(", validation: dev.csv", ""), "mood.data.files has no 'validation'"),
    "a misspelt type": (definition("type: classification", "type: clasification"), "did you mean 'classification'"),
    "a label twice": (definition("[bad, good]", "[bad, good, bad]"), "labels: 'bad' is listed twice"),
}


@pytest.mark.parametrize("case", TOGETHER)
def test_unknown_labels_are_told_beside_other_faults_of_the_task(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edits, message = TOGETHER[case]
    file = write(tmp_path, edits)
    (tmp_path / "train.csv").write_text("text,mood\nit is good,god\nit is bad,bad\n")
    assert main(["validate", str(file)]) == 2
    errors = [line for line in capsys.readouterr().out.splitlines() if line.startswith("error: ")]
    assert sum(message in line for line in errors) >= 1, errors
    assert sum("train.csv:2: unknown label 'god'" in line for line in errors) == 1, errors
    assert not any("unknown label 'bad'" in line or "holds nothing" in line for line in errors), "nothing that is right"


WORDS = st.sampled_from(
    "type data files train validation columns text_a text_b label group labels metrics smart proximal weight adapt hub"
    " config splits unlabelled encoding preset classification ranking regression accuracy mrr good bad train.csv ~ ''"
    " pairs.jsonl search.tsv text mood score id loss pairwise divergence utf-16 latin-1 rot13".split()
)
SCALARS = st.one_of(
    WORDS,
    st.none(),
    st.booleans(),
    st.integers(-3, 10**12),
    st.floats(width=16),
    st.text(max_size=8),
    st.dates().map(str),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3), max_leaves=6
)


def paths(value: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in nested mappings and lists."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [prefix, *(path for key, below in inner for path in paths(below, (*prefix, key)))]


@st.composite
def mutants(draw: st.DrawFn) -> str:
    """A definition in which values are replaced, keys renamed, added or removed, and then perhaps characters."""
    document = yaml.safe_load(FILES["tasks.yml"])
    for _ in range(draw(st.integers(1, 4))):
        path = draw(st.sampled_from(paths(document)[1:] or [()]))
        if not path:
            break
        holder = document
        for key in path[:-1]:
            holder = holder[key]
        action = draw(st.sampled_from(["replace", "remove", "rename", "add"]))
        if action == "replace":
            holder[path[-1]] = draw(VALUES)
        elif action == "remove" or isinstance(holder, list):
            del holder[path[-1]]
        elif action == "rename":
            holder[draw(WORDS)] = holder.pop(path[-1])
        else:
            holder[draw(WORDS)] = draw(VALUES)
    text = yaml.safe_dump(document, allow_unicode=True)
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 3]))):
        place = draw(st.integers(0, len(text)))
        text = text[:place] + draw(st.sampled_from(["", *":-[]{}#&*!|>'\"%@`\t\n ,?", "\0", "é"])) + text[place + 1 :]
    return text


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=mutants())
def test_no_mutated_definition_gives_a_traceback(
    text: str, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "mutants"
    folder.mkdir(exist_ok=True)
    definitions = write(folder, {"tasks.yml": text.encode()})
    status = main(["validate", str(definitions), "--data-root", str(folder)])
    captured = capsys.readouterr()
    assert status in (0, 2), captured.err
    assert "Traceback" not in captured.out + captured.err
    assert status == 0 or re.search(r"^error: \S", captured.out + captured.err, re.MULTILINE)
