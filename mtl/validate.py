"""`validate` and `prepare`: what can be known of definitions and data before a run, without training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mtl.config import resolve
from mtl.encoder import find_encoder
from mtl.errors import Problem, UserError, counted
from mtl.leaks import Leak, Texts, find_leaks
from mtl.preflight import Request, check_data
from mtl.report import table
from mtl.settings import Sourced
from mtl.source import RowChecker, Source, read_rows
from mtl.taskdef import TaskDef, read_task_defs

IMBALANCE = 0.9  # share of one class above which a warning is due


@dataclass
class Findings:
    """What `validate` found.

    Attributes:
        errors: What stops a run.
        warnings: What a user should look at.
        tasks: Task to split to figures: rows, unlabelled, labels, duplicates, conflicts, and lengths with an encoder.
        leaks: Training rows that stand in evaluation rows, of any two tasks.
        steps: With a dry run, lines about each task's step.
    """

    errors: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    tasks: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    leaks: list[Leak] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return {
            "errors": [str(problem) for problem in self.errors],
            "warnings": [str(problem) for problem in self.warnings],
            "tasks": self.tasks,
            "leaks": [leak.as_json() for leak in self.leaks],
        }

    def as_text(self) -> str:
        lines = [f"error: {problem}" for problem in self.errors]
        lines += [f"warning: {problem}" for problem in self.warnings]
        lines += [f"warning: {leak}" for leak in self.leaks]
        rows = [
            (name, split, f"{facts['rows']:,}", f"{facts['duplicates']:,}", f"{facts['conflicts']:,}", _labels(facts))
            for name, splits in self.tasks.items()
            for split, facts in splits.items()
        ]
        if rows:
            lines.append(table(("task", "split", "rows", "duplicates", "conflicts", "labels"), rows))
        lines += self.steps
        lines.append(
            f"{counted(len(self.errors), 'error')}, {counted(len(self.warnings) + len(self.leaks), 'warning')}"
        )
        return "\n".join(lines)


def _labels(facts: Mapping[str, Any]) -> str:
    if "labels" not in facts:
        return f"{facts['minimum']:g} to {facts['maximum']:g}, mean {facts['mean']:.2f}"
    return ", ".join(f"{name} {number:,}" for name, number in list(facts["labels"].items())[:6])


def validate(request: Request, *, dry_run: bool) -> Findings:
    """Checks definitions, then all rows of all splits, then leaks between tasks; with `dry_run` one step per task."""
    findings = Findings()
    tasks, findings.errors, data_root = _resolved(request)
    sources, summaries, notes, problems = check_data(tasks, data_root)
    findings.errors += problems
    findings.warnings += [Problem("", note) for note in notes]
    texts: dict[str, dict[str, list[Texts]]] = {}
    for name, splits in sources.items():
        findings.tasks[name], texts[name] = {}, {}
        for split, source in splits.items():
            if summaries[name][split].problems:
                continue
            facts, texts[name][split] = examine(name, tasks[name], source)
            findings.tasks[name][split] = facts
            findings.warnings += _remarks(f"{name}/{split}", facts)
    findings.leaks = find_leaks(texts)
    encoder = request.typed.data.get("encoder")
    if dry_run and encoder is None:
        findings.errors.append(Problem("--dry-run", "needs --encoder"))
    elif encoder is not None:
        _with_encoder(request, findings, dry_run=dry_run)
    return findings


def _resolved(request: Request) -> tuple[dict[str, TaskDef], list[Problem], str | None]:
    definitions, problems = read_task_defs(request.task_defs)
    typed = request.typed.over(Sourced({"encoder": "none"}))
    config, tasks, found = resolve(definitions, Sourced(), typed, request.tasks)
    data_root = config.data_root if config else None
    return tasks, problems + found, str(Path(data_root).resolve()) if data_root else None


def examine(name: str, task: TaskDef, source: Source) -> tuple[dict[str, Any], list[Texts]]:
    """Reads a sound split.

    Returns:
        Its figures, and the texts of its rows.
    """
    checker = RowChecker(name, task)
    labels: Counter[float] = Counter()
    first_label: dict[Texts, Any] = {}
    rows: list[Texts] = []
    duplicates = conflicts = empty = 0
    for row in checker.check(read_rows(source)):
        assert row.label is not None
        labels[row.label] += 1
        texts = (row.text_a,) if row.text_b is None else (row.text_a, row.text_b)
        rows.append(texts)
        empty += not all(text.strip() for text in texts)
        duplicates += texts in first_label
        conflicts += first_label.setdefault(texts, row.label) != row.label
    facts: dict[str, Any] = {"rows": checker.rows, "unlabelled": checker.unlabelled, "empty": empty}
    facts |= {"duplicates": duplicates, "conflicts": conflicts, "source": str(source)}
    if task.type == "classification":
        facts["labels"] = {label: labels[index] for index, label in enumerate(task.labels)}
    else:
        total = sum(labels.values())
        facts |= {"minimum": min(labels), "maximum": max(labels), "mean": sum(v * n for v, n in labels.items()) / total}
    return facts, rows


def _remarks(where: str, facts: Mapping[str, Any]) -> list[Problem]:
    messages = []
    if facts["empty"]:
        messages.append(f"{counted(facts['empty'], 'row')} with an empty text")
    if facts["conflicts"]:
        messages.append(f"{counted(facts['conflicts'], 'row')} with the texts of an earlier row and another label")
    labels = facts.get("labels", {})
    messages += [f"no row has the label {label!r}" for label, number in labels.items() if not number]
    total = sum(labels.values())
    messages += [
        f"{number / total:.0%} of the rows have the label {label!r}"
        for label, number in labels.items()
        if number > IMBALANCE * total
    ]
    return [Problem(where, message) for message in messages]


def _with_encoder(request: Request, findings: Findings, *, dry_run: bool) -> None:
    """Adds token lengths, and in a dry run a training step of every task, where there is nothing wrong so far."""
    if findings.errors:
        return
    from mtl.dryrun import lengths, try_steps
    from mtl.preflight import check_train

    try:
        checked = check_train(replace(request, output=Path("does-not-exist-and-is-not-made")))
        for (name, split), facts in lengths(checked).items():
            findings.tasks[name][split] |= facts
            if facts["truncated"]:
                message = f"{facts['truncated'] / findings.tasks[name][split]['rows']:.1%} of the inputs are truncated"
                findings.warnings.append(Problem(f"{name}/{split}", message))
        if dry_run:
            findings.steps = try_steps(checked)
    except UserError as error:
        findings.errors += error.problems


def prepare_all(request: Request) -> str:
    """Tokenises every split of every task into the cache and returns a table of what is there.

    Raises:
        UserError: With all that is wrong.
    """
    tasks, problems, data_root = _resolved(request)
    encoder = ""
    try:
        encoder = find_encoder(request.typed.data["encoder"])
    except UserError as error:
        problems += error.problems
    sources, _, notes, found = check_data(tasks, data_root)
    if problems + found:
        raise UserError(problems + found)
    from transformers import AutoConfig

    from mtl.data import load_tokenizer, prepare, usable_length

    tokenizer = load_tokenizer(encoder)
    limit = usable_length(tokenizer, AutoConfig.from_pretrained(encoder))
    rows = []
    for name, task in tasks.items():
        for split, source in sources[name].items():
            examples = prepare(name, task, source, tokenizer, min(task.max_length, limit))
            truncated = f"{examples.truncated.mean():.1%}"
            rows.append((name, split, f"{len(examples):,}", f"{examples.lengths.sum():,}", truncated))
    return "\n".join(
        [*(f"note: {note}" for note in notes), table(("task", "split", "rows", "tokens", "truncated"), rows)]
    )
