"""The command `init`: propose a task definition for a data file, with a comment that explains each guess."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from mtl.columns import MISSING_NUMBERS, Column, Table, as_numbers, word
from mtl.describe import schema_comment
from mtl.errors import UserError, counted, listed
from mtl.file_formats import suffix_of
from mtl.source import Source, class_names, type_fault

FEW_INTEGERS, FEW_VALUES = 20, 50  # maximum distinct integers, or values of an unnamed column, to be taken for classes
HIGHEST_GRADE = 10  # highest relevance grade
MAJORITY, COUNTED_LABELS = 0.7, 10  # share of one label above which accuracy misleads; labels shown with their counts

LABEL_NAMES = """label labels gold_label label_id label_name label_text gold stance target class category sentiment
    emotion intent polarity priority severity urgency stars rating score similarity similarity_score relatedness_score
    relevance relevance_score relevancy is_relevant rel grade is_duplicate topic y"""
PAIR_NAMES = """premise/hypothesis question/passage question/context question/paragraph question/answer
    question/sentence question/document question/reply question/candidate query/passage query/document query/doc
    query/candidate query/answer query/response query/paragraph query/title query/sentence query/text claim/evidence
    context/response text_a/text_b"""
TWINS = (("1", "2"), ("a", "b"), ("left", "right"))
SINGLE = re.compile(r"(.+_)?(text|sentence|review|tweet|comment|content|document|message|utterance|post|body|headline)")
GROUP = re.compile(r"(q|query|question|group|topic|search|prompt|claim)_?(id|idx|index|number)|group|query|question")
TRAIN = re.compile(r"(?i)(?<![a-z0-9])(training|train)(?![a-z0-9])")
HELD_OUT = ("validation", "valid", "val", "dev", "test")
OTHER_NUMBER = re.compile(r"[-+]?[0-9]+(,[0-9]+ ?%?|[.,]?[0-9]* ?%)")
METRICS_OF = {"classification": "accuracy, macro_f1", "regression": "pearson, spearman", "ranking": "map, mrr, ndcg@10"}


def propose(path: Path, label: str | None = None, texts: Sequence[str] = ()) -> str:
    """Propose a task definition, as YAML that loads unchanged, from the first `LIMIT` rows of a data file.

    What is not given is guessed:

    - Label: the column with the first of `LABEL_NAMES` that occurs; else the column without texts that has the fewest
      distinct values (2 to `FEW_VALUES`, each in at least two rows on average); else a column of fractions.
    - Texts: a pair of `PAIR_NAMES`, or of names that differ only in their ending (`TWINS`); else the longest column
      with a `SINGLE` name; else the one or two longest columns of several words.
    - Type: ranking for a pair with a `GROUP` column that groups several candidates with relevances 0, 1, …; regression
      for fractions and for more than `FEW_INTEGERS` distinct whole numbers; else classification.
    - Validation: if the file's name has a word like `TRAIN`, the file next to it that has a word of `HELD_OUT` instead;
      else the file itself.

    Args:
        path: The data file.
        label: Column of the label.
        texts: Column of the text, or both columns of a pair.

    Raises:
        UserError: The file cannot be read, it has no such column, or no texts or no labels can be identified.
    """
    path = path.absolute()  # not resolved: the name of a link may be more informative than that of its target
    if fault := type_fault(path):
        raise UserError.of(str(path), fault)
    if not path.is_file():
        raise UserError.of(str(path), "there is no such file; name a csv, tsv, jsonl or parquet file")
    table = Table(path)
    if not table.rows:
        raise UserError.of(str(table.path), "holds no rows; expected one row for each example")
    given = None if label is None else table.column(label)
    if given and not given.may_be_label:
        raise UserError.of(str(path), f"column {label!r} holds no labels, but lists, long texts, or nothing in any row")
    if label in texts or len(set(texts)) < len(texts) or len(texts) > 2:
        raise UserError.of("--text", "name one column, or the two of a pair, other than the label's")
    kind, columns = _guess(table, given, [table.column(name) for name in texts])
    return "\n".join(_lines(table, kind, columns, *_held_out(table, kind, columns), given=given)) + "\n"


def _guess(table: Table, given: Column | None, texts: list[Column]) -> tuple[str, dict[str, Column]]:
    named = {column.canonical: column for column in reversed(table.columns.values()) if column.may_be_label}
    label = given or next((c for n in LABEL_NAMES.split() if (c := named.get(n)) and c not in texts), None)
    texts = texts or _texts(table, label)
    others = [column for column in table.ordinary if column not in texts]
    few = [c for c in others if c.may_be_label and 2 <= c.distinct <= min(FEW_VALUES, c.filled / 2)]
    fractions = [c for c in table.columns.values() if not all(map(float.is_integer, c.numbers().values()))]
    candidates = [*sorted(few, key=lambda column: column.distinct), *(c for c in fractions if c in others)]
    if not label:
        _check_candidates(table, others, candidates)
    label = label or candidates[0]
    for place, name in [(column.gap, column.name) for column in texts if column.gap]:
        raise UserError.of(place, f"column {name!r} holds no text here; give such rows a text or remove them")
    _check_label(table, label, given=given)
    group = _group(table, texts, label)
    if group and not _varied(group, texts[1]):
        texts.reverse()
    many = len(label.numbers()) > min(FEW_INTEGERS, max(label.filled / 2, 3)) or label in fractions
    kind = "ranking" if group else "regression" if many else "classification"
    roles = [*("text_a", "text_b")[: len(texts)], "label", "group"]
    return kind, dict(zip(roles, [*texts, label, *([group] if group else [])], strict=False))


def _check_candidates(table: Table, others: list[Column], candidates: list[Column]) -> None:
    """Where no column with a name of labels can be the label, check whether one was meant, and whether others can."""
    for column in table.ordinary:
        if column.canonical in LABEL_NAMES.split() and column.nested:
            told = "holds lists or objects: write one label in each row (ranking: one candidate with the query's id)"
            raise UserError.of(str(table.path), f"column {column.name!r} {told}")
    if not candidates:
        faults = [(column, fault) for column in others if (fault := _number_fault(column))]
        for column, fault in faults if len(faults) == 1 else ():
            raise UserError.of(str(table.path), f"{fault} (found in column {column.name!r})")
        raise table.lacks("can be the label", "label")


def _number_fault(column: Column) -> str:
    """What is wrong with a column that seems to be of numbers, some of them misspelt; empty if nothing is."""
    if mistakes := column.mistakes():
        wrong = listed([f"{text!r} ({column.places[text]})" for text in mistakes])
        return f"has numbers, except for {wrong}: write numbers such as 1234.5 there, or leave these cells empty"
    other = [value for value in column.values if OTHER_NUMBER.fullmatch(value)]
    if len(other) <= MAJORITY * len(column.values.keys() - column.missing.keys()):
        return ""
    return f"has numbers such as {other[0]!r}: write them as in 1234.5, without a comma or a percent sign"


def _texts(table: Table, label: Column | None) -> list[Column]:
    texts = [
        c
        for c in table.ordinary
        if c is not label and c.filled and (2 * max(c.sentences, c.words) > c.filled or _is_named_text(table, c))
    ]
    named = {column.canonical: column for column in reversed(texts)}
    twins = [(n, n.removesuffix(one) + two) for one, two in TWINS for n in reversed(named) if n.endswith(one)]
    pairs = [(named[one], named[two]) for one, two in twins if two in named]
    if pairs:
        return list(max(pairs, key=lambda pair: sum(column.characters for column in pair)))
    for one, two in (pair.split("/") for pair in PAIR_NAMES.split()):
        if one in named and two in named:
            return [named[one], named[two]]
    single = [column for column in texts if SINGLE.fullmatch(column.canonical)]
    several = [c for c in texts if 2 * c.sentences > c.filled and not c.gap and (label or 2 * c.distinct > table.rows)]
    found = single or several or [column for column in texts if 2 * column.distinct > table.rows]
    if not found:
        raise table.lacks("reads as text", "text")
    found = sorted(found, key=lambda column: column.characters, reverse=True)[: 1 if single or not several else 2]
    return sorted(found, key=texts.index)


def _is_named_text(table: Table, column: Column) -> bool:
    """Whether a column is called as texts are, or like another one that reads as text, and is neither numeric nor, like
    a category, of few different values.
    """
    name = column.canonical
    ends = [end for pair in TWINS for end in (pair, pair[::-1]) if name.endswith(end[0])]
    twins = {name.removesuffix(one) + two for one, two in ends}
    named = SINGLE.fullmatch(name) or name in re.split(r"[/\s]+", PAIR_NAMES)
    named = named or any(c.canonical in twins and 2 * c.sentences > c.filled > 0 for c in table.ordinary)
    return bool(named) and not column.numbers() and 2 * column.distinct > table.rows


def _check_label(table: Table, label: Column, *, given: Column | None) -> None:
    numbers, rows = label.numbers(), f"{'the first ' if table.more else ''}{counted(label.filled, 'row')}"
    number = len(numbers or label.values.keys() - label.missing.keys())
    counting = list(table.columns) == list(map(str, range(len(table.columns))))
    value = label.name in label.values or (numbers and as_numbers([label.name]) and not label.name.isdigit())
    if suffix_of(table.path) in (".csv", ".tsv") and value and not counting:
        fault = f"has the label {label.name!r}: the column names must be in the first line, and in no other"
    elif number < 2:
        fault = (
            f"has only the label {next(iter(numbers or label.values))!r} in {rows}: add others, or shuffle sorted rows"
        )
    elif not numbers and number > max(label.filled / 2, 3):
        many = f"has {number:,} different labels in {rows}, too many to learn"
        fault = _number_fault(label) or many + ("" if given else ": name the column of classes with --label")
    elif label.mistakes() and _are_amounts(label):
        fault = _number_fault(label)
    else:
        return
    raise UserError.of(str(table.path), f"{fault} (found in column {label.name!r})")


def _are_amounts(label: Column) -> bool:
    """Whether the numbers of a column would be the labels of a regression."""
    others = (*MISSING_NUMBERS, *map(str.lower, label.mistakes()))
    numbers = as_numbers(text for text in label.values if text.lower() not in others).values()
    return len(set(numbers)) > FEW_INTEGERS or not all(map(float.is_integer, numbers))


def _group(table: Table, texts: list[Column], label: Column) -> Column | None:
    """The column of query ids, if the rows are candidates of queries, labelled with relevances."""
    grades = set(label.numbers().values())
    if len(texts) < 2 or len(grades) < 2 or not all(n.is_integer() and 0 <= n <= HIGHEST_GRADE for n in grades):
        return None
    columns = [c for c in table.columns.values() if GROUP.fullmatch(c.canonical) and c is not label and not c.missing]
    for group in sorted(columns, key=lambda column: column in texts):
        if max(_varied(group, text) for text in texts) >= 0.75 * group.distinct and _varied(group, label):
            return group
    return None


def _varied(group: Column, column: Column) -> int:
    """Number of groups in which a column has several distinct values."""
    counts = Counter(key for key, _ in set(zip(group.keys, column.keys, strict=True)))
    return sum(number > 1 for number in counts.values())


def _held_out(table: Table, kind: str, columns: dict[str, Column]) -> tuple[Table, str]:
    """Find a suitable file of held-out rows next to a `train` file, else use the table itself; and a remark on it."""
    remark, stem = "", table.path.stem
    for name in HELD_OUT if TRAIN.search(stem) else ():
        beside = table.path.with_name(TRAIN.sub(name, stem, count=1) + table.path.suffix)
        try:
            if beside.is_file():
                return _fitting(Table(beside), kind, columns, table.encoding), "beside it"
        except UserError as error:
            remark += f"{word(beside.name)} beside it does not fit, it {word(error.problems[0].message)}; "
    return table, f"{remark}the training rows: train with --set train.holdout=0.1, or name held-out rows here"


def _fitting(table: Table, kind: str, columns: dict[str, Column], encoding: str | None) -> Table:
    if table.encoding != encoding:
        raise UserError.of(str(table.path), "has another encoding")
    for role, column in columns.items():
        other = table.columns.get(column.name)
        if other is None or (role.startswith("text") and other.gap) or (role == "group" and other.missing):
            raise UserError.of(str(table.path), f"has no {column.name}{' in some rows' if other else ''}")
    label = table.columns[columns["label"].name]
    numbers = label.numbers().values()
    same = _spelled_alike(label, columns["label"]).keys() & columns["label"].values.keys()
    fits = same if kind == "classification" else numbers
    clash = label.missing.keys() & columns["label"].values.keys()  # such as null there, and a class named "None" here
    if not fits or clash or not label.may_be_label or (kind == "ranking" and min(numbers) < 0):
        raise UserError.of(str(table.path), "has other labels")
    return table


def _spelled_alike(column: Column, other: Column) -> Counter[str]:
    """Values of a column, in which numbers such as 1.0 are spelled as in another column, such as 1."""
    spelling = {number: text for text, number in reversed(other.numbers().items())}
    numbers = column.numbers()
    return Counter({spelling.get(numbers.get(text, math.nan), text): count for text, count in column.values.items()})


def _lines(
    table: Table, kind: str, columns: dict[str, Column], held_out: Table, remark: str, *, given: Column | None
) -> Iterator[str]:
    if comment := schema_comment():
        yield comment
    path, label, numbers = table.path, columns["label"], columns["label"].numbers()
    later = " (first ones only: `run_mtl.py validate` finds labels further down)" if table.more else ""
    yield f"# Proposed from {counted(table.rows, 'row')}{later} of {word(path.name)}; comments explain the guesses."
    why = f"{len(numbers) or label.distinct:,} different labels"
    if kind == "ranking":
        why = f"{columns['group'].distinct:,} queries with several candidates, and whole numbers as relevance"
    elif kind == "regression":
        why = f"numbers from {min(numbers.values()):g} to {max(numbers.values()):g}"
        if all(map(float.is_integer, numbers.values())):
            why += "; if these numbers are classes, write classification and list them under 'labels'"
    elif len(numbers) > 2:
        why += "; if these numbers are amounts, write regression and drop 'labels' and 'metrics'"
    stem = unicodedata.normalize("NFKD", TRAIN.sub("", path.stem)).encode("ascii", "ignore").decode()
    name = re.sub(r"[^A-Za-z0-9]+", "_", stem)[:64].strip("_") or "my_task"
    yield f"{word(name)}:\n  type: {kind} # {why}\n  data:\n    files:\n      train: {word(str(path))}"
    yield f"      validation: {word(str(held_out.path))} # {remark}"
    guessed = given is None and label.canonical not in LABEL_NAMES.split()
    unused = listed([str(column) for column in table.columns.values() if column not in columns.values()])
    yield "    columns:" + (f" # not used: {unused}" if unused else "")
    for role, column in columns.items():
        length = f"{column.characters / table.rows:.0f} characters on average, " if role.startswith("text") else ""
        length = "guessed (--label names another); " if role == "label" and guessed else length
        yield f"      {role}: {word(column.name)} # {length}{column.distinct:,} different values"
    if table.encoding:
        yield f"    encoding: {word(table.encoding)} # guessed, since it is not UTF-8: look at letters beyond A to Z"
    other = held_out.columns[label.name]
    values, missing = label.values | _spelled_alike(other, label), label.missing.keys() | other.missing.keys()
    moved = {text for text in values if numbers and text.lower() in MISSING_NUMBERS}
    if missing := missing | moved:
        shown = ", ".join("null" if text is None else word(text) for text in sorted(missing, key=lambda t: t or ""))
        rows = counted(label.missing.total() + sum(label.values[text] for text in moved), "row")
        yield f"    unlabelled: [{shown}] # {rows} of the training data left out"
    metrics, why = METRICS_OF[kind], "the first one selects the best step"
    if kind == "classification":
        counts = Counter({text: label.values[text] for text in values if text not in missing})
        share = max(counts.values()) / counts.total()
        if share > MAJORITY:
            metrics, why = "macro_f1, accuracy", f"{why}; {share:.0%} of the rows have one label"
        yield from _labels(counts, class_names(Source(path=path), label.name))
    yield f"  metrics: [{metrics}] # {why}"


def _labels(counts: Counter[str], known: Sequence[str]) -> Iterator[str]:
    """Key `labels`; `known` are names that the data itself gives to integers."""
    numbers = as_numbers(counts)
    names = sorted(counts, key=lambda name: (numbers.get(name, 0.0), name))
    remark = "the order fixes the integer of each"
    indices = counts.keys() <= set(map(str, range(len(known))))
    if known and indices and not as_numbers(known):  # of names that are numbers, a cell would be one
        counts = Counter({name: counts[str(index)] for index, name in enumerate(known)})
        names, remark = list(known), "as the data names its integers, in this order"
    elif names == list(map(str, range(len(names)))):
        remark = "the integers of the data; in this order, names may stand here instead"
    elif "-1" in counts:
        remark += "; if -1 means 'no label', write unlabelled: [-1] under 'data' instead"
    elif len({numbers.get(name, unicodedata.normalize("NFC", name).strip().lower()) for name in names}) < len(names):
        remark += "; some differ in spelling only: make them one in the data"
    yield f"  labels: # {len(names):,} values; {remark}"
    for name in names:
        yield f"    - {word(name)}" + (f" # {counted(counts[name], 'row')}" if len(names) <= COUNTED_LABELS else "")
