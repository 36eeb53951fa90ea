"""Writes the GLUE leaderboard's files from prediction files.

A prediction file has JSON lines as written by `run_mtl.py predict`, one for each row of the official test set. All
problems are reported together, and nothing is written if there are any.

    python -m data_prep.glue_submission cola=cola.jsonl mnli-m=mnli.jsonl mnli-mm=mnli-mm.jsonl --output submission
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtl.errors import Problem, UserError, counted, listed, nearest

SHOWN = 5  # bad rows of a file that are reported individually; the others are counted
HEADER = "index\tprediction\n"
LOWEST, HIGHEST = 0.0, 5.0  # range of STS-B's similarity scores

BINARY = ("0", "1")
ENTAILMENT = ("entailment", "not_entailment")
INFERENCE = ("entailment", "neutral", "contradiction")


@dataclass(frozen=True)
class Target:
    """A leaderboard file.

    Attributes:
        stem: Its file name without `.tsv`.
        names: Further names of the task, lower case.
        rows: Number of rows of the official test set.
        labels: Labels in the order of `task_defs/glue.yml`; empty for a regression.
        values: The leaderboard's name of each label.
    """

    stem: str
    names: tuple[str, ...]
    rows: int
    labels: tuple[str, ...] = ()
    values: tuple[str, ...] = ()

    def value(self, record: Mapping[str, Any]) -> str:
        """A prediction in the leaderboard's format.

        Raises:
            ValueError: The prediction is invalid; the message says what was found and what is allowed.
        """
        if not self.labels:
            number = record.get("value")
            if isinstance(number, bool) or not isinstance(number, (int, float)) or not math.isfinite(number):
                raise ValueError(f"'value' is {number!r}; expected a number, as of a regression")
            return f"{min(max(LOWEST, number), HIGHEST):.3f}"
        label = record.get("label")
        by_index = {str(index): value for index, value in enumerate(self.values)}
        value = (by_index | dict(zip(self.labels, self.values, strict=True))).get(str(label))
        if value is None:
            allowed = f"{listed(self.labels)}, or an index into these"
            raise ValueError(f"'label' is {label!r}; allowed: {allowed}{nearest(label, self.labels)}")
        return value


TARGETS = (
    Target("CoLA", (), 1063, ("unacceptable", "acceptable"), BINARY),
    Target("SST-2", ("sst2", "sst"), 1821, ("negative", "positive"), BINARY),
    Target("MRPC", (), 1725, ("not_equivalent", "equivalent"), BINARY),
    Target("STS-B", ("stsb",), 1379),
    Target("QQP", (), 390965, ("not_duplicate", "duplicate"), BINARY),
    Target("MNLI-m", ("mnli", "mnli_matched"), 9796, INFERENCE, INFERENCE),
    Target("MNLI-mm", ("mnli_mismatched",), 9847, INFERENCE, INFERENCE),
    Target("QNLI", (), 5463, ENTAILMENT, ENTAILMENT),
    Target("RTE", (), 3000, ENTAILMENT, ENTAILMENT),
    Target("WNLI", (), 146, ("not_entailment", "entailment"), BINARY),
    Target("AX", (), 1104, INFERENCE, INFERENCE),
)


def submission(target: Target, path: Path) -> tuple[str, list[Problem]]:
    """The contents of a leaderboard file, and the problems of the prediction file."""
    lines: list[str] = []
    faults: list[Problem] = []
    try:
        for place, record in _records(path):
            try:
                if record.get("row", len(lines)) != len(lines):
                    raise ValueError(f"'row' is {record['row']!r}, expected {len(lines)}: rows have to be in order")
                value = target.value(record)
            except ValueError as error:
                faults.append(Problem(place, f"{target.stem}: {error}"))
                value = ""
            lines.append(f"{len(lines)}\t{value}\n")
    except UserError as error:
        return "", faults[:SHOWN] + error.problems
    problems = faults[:SHOWN]
    if len(faults) > SHOWN:
        problems.append(Problem(str(path), counted(len(faults) - SHOWN, "more bad row")))
    if len(lines) != target.rows:
        message = f"holds {counted(len(lines), 'prediction')}, the test set of {target.stem} {target.rows:,} rows"
        problems.append(Problem(str(path), message))
    return HEADER + "".join(lines), problems


def _records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (place, record) of every line."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError):
                    record = None
                if not isinstance(record, dict):
                    raise UserError.of(f"{path}:{number}", "expected one JSON object a line, as predict writes them")
                yield f"{path}:{number}", record
    except OSError as error:
        raise UserError.of(str(path), f"cannot be read: {error.strerror or error}") from None


def collect(words: Sequence[str]) -> dict[str, str]:
    """Reads the prediction files given as `TASK=FILE`.

    Returns:
        File name → contents, in the leaderboard's order.

    Raises:
        UserError: With all problems.
    """
    by_name = {name: target for target in TARGETS for name in (target.stem.lower(), *target.names)}
    texts: dict[str, str] = {}
    problems: list[Problem] = []
    for word in words:
        name, _, path = word.partition("=")
        target = by_name.get(name.lower())
        if target is None or not path:
            allowed = listed([target.stem for target in TARGETS])
            problems.append(Problem(word, f"expected TASK=FILE with TASK one of {allowed}{nearest(name, by_name)}"))
        elif target.stem in texts:
            problems.append(Problem(word, f"{target.stem} is named twice"))
        else:
            texts[target.stem], found = submission(target, Path(path))
            problems += found
    if problems:
        raise UserError(problems)
    return {f"{target.stem}.tsv": texts[target.stem] for target in TARGETS if target.stem in texts}


def write(texts: Mapping[str, str], output: Path) -> None:
    """Writes the files and a `submission.zip` of them; the same predictions give the same bytes."""
    output.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(output / "submission.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in texts.items():
            (output / name).write_text(text, encoding="utf-8", newline="\n")
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))  # fixed, for reproducible bytes
            entry.compress_type, entry.create_system, entry.external_attr = zipfile.ZIP_DEFLATED, 3, 0o644 << 16
            archive.writestr(entry, text)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: write the files, and print one line for each and the files missing from a complete submission."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.glue_submission", description="Write GLUE leaderboard files from prediction files."
    )
    parser.add_argument(
        "predictions", nargs="+", metavar="TASK=PREDICTIONS.jsonl", help="what predict wrote for a task"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="directory to write")
    options = parser.parse_args(argv)
    try:
        texts = collect(options.predictions)
        write(texts, options.output)
    except UserError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    for name in texts:
        print(f"{texts[name].count(chr(10)) - 1:>9,} rows  {options.output / name}")
    print(f"{len(texts):>9} files {options.output / 'submission.zip'}")
    if missing := [f"{target.stem}.tsv" for target in TARGETS if f"{target.stem}.tsv" not in texts]:
        print(f"note: the leaderboard takes all eleven files; missing are {listed(missing)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
