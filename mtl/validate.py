"""The commands `validate` and `prepare`: check definitions and data, and tokenise data, before a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mtl.config import Run, resolve
from mtl.definitions import read_task_defs
from mtl.encoder import find_encoder
from mtl.errors import Problem, UserError, counted
from mtl.leaks import Leak
from mtl.preflight import Checked, Request, directory, read_data, run_problems, training_data_itself
from mtl.report import dry_run_text, table
from mtl.run_files import read_config
from mtl.settings import Sourced
from mtl.taskdef import TaskDef, task_notes

LABELS_SHOWN = 6


@dataclass
class Findings:
    """Results of `validate`.

    Attributes:
        errors: Problems that prevent a run.
        warnings: Remarks that deserve the user's attention.
        tasks: Task to split to statistics: rows, unlabelled, columns, labels, duplicates, conflicts and, with an
            encoder, lengths.
        leaks: Evaluation rows that also occur in training rows, of any two tasks.
        dry_run: Results of a dry run: its plan, a step of each task, and estimates for the whole run.
    """

    errors: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    tasks: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    leaks: list[Leak] = field(default_factory=list)
    dry_run: dict[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        found = {
            "errors": [str(problem) for problem in self.errors],
            "warnings": [str(problem) for problem in self.warnings],
            "tasks": self.tasks,
            "leaks": [leak.as_json() for leak in self.leaks],
        }
        return found if self.dry_run is None else found | {"dry_run": self.dry_run}

    def as_text(self) -> str:
        lines = [f"error: {problem}" for problem in self.errors]
        lines += [f"warning: {problem}" for problem in self.warnings]
        lines += [f"warning: {leak}{leak.example}" for leak in self.leaks]
        rows = [
            (name, split, *(cell(facts) for cell in _CELLS.values()))
            for name, splits in self.tasks.items()
            for split, facts in splits.items()
        ]
        if rows:
            lines.append(table(("task", "split", *_CELLS), rows))
        if self.dry_run is not None:
            lines.append(dry_run_text(self.dry_run))
        warnings = len(self.warnings) + len(self.leaks)
        lines.append(f"{counted(len(self.errors), 'error')}, {counted(warnings, 'warning')}")
        return "\n".join(lines)


def _labels(facts: Mapping[str, Any]) -> str:
    if "labels" not in facts:
        text = f"{facts['minimum']:g} to {facts['maximum']:g}, mean {facts['mean']:.2f}"
        if without := facts.get("queries_without_relevant"):
            text += f"; {without:,} of {counted(facts['queries'], 'query', 'queries')} without a relevant candidate"
        return text
    shown = [f"{name} {number:,}" for name, number in list(facts["labels"].items())[:LABELS_SHOWN]]
    return ", ".join([*shown, "…"] if len(shown) < len(facts["labels"]) else shown)


_CELLS = {
    "rows": lambda facts: f"{facts['rows']:,}",
    "unlabelled": lambda facts: f"{facts['unlabelled']:,}",
    "duplicates": lambda facts: f"{facts['duplicates']:,}",
    "conflicts": lambda facts: f"{facts['conflicts']:,}",
    "truncated": lambda facts: f"{facts['truncated']:,}" if "truncated" in facts else "–",
    "columns": lambda facts: ", ".join(f"{column} ({kind})" for column, kind in facts["columns"].items()),
    "labels": _labels,
}


def validate(request: Request, *, dry_run: bool) -> Findings:
    """Check definitions, all rows of all splits, and leaks between tasks; with `dry_run`, run one step per task."""
    findings = Findings()
    run, tasks, data_root, findings.errors = _resolved(request)
    encoder = None if run is None or run.config.encoder == NO_ENCODER else run.config.encoder
    found = None
    try:
        found = find_encoder(encoder, on_hub=not findings.errors) if encoder else None
    except UserError as error:
        findings.errors += error.problems
    data = read_data(run.config if run else None, tasks, data_root, found)
    findings.errors = list(dict.fromkeys(findings.errors + data.problems))  # one file may be several splits
    findings.warnings += [Problem("", note) for note in data.notes]
    for name, summaries in data.summaries.items():
        findings.tasks[name] = {split: s.facts for split, s in summaries.items() if not s.problems}
    findings.leaks = data.leaks.leaks()
    findings.warnings += training_data_itself(tasks, data)
    if encoder is None and dry_run:
        findings.errors.append(Problem("--dry-run", "needs --encoder"))
    if run is not None and found is not None and not findings.errors:
        try:
            _with_encoder(Checked(run, found, data), findings, dry_run=dry_run)
        except UserError as error:
            findings.errors += error.problems
    return findings


NO_ENCODER = ""  # placeholder, since data can be checked without an encoder


def _resolved(request: Request) -> tuple[Run | None, dict[str, TaskDef], str | None, list[Problem]]:
    """The run (None if its configuration is invalid), the valid tasks, the data's root, and all problems."""
    definitions, problems = read_task_defs(request.task_defs)
    file, found = read_config(request.config)
    config, tasks, wrong = resolve(
        definitions, file.over(Sourced({"encoder": NO_ENCODER})), request.overrides, request.tasks
    )
    data_root = directory(request.overrides.over(file).data.get("data_root"))
    run = Run(config, tasks) if config else None
    wrong += run_problems(run, file, request.overrides) if run else []
    return run, tasks, data_root, problems + found + wrong


def _with_encoder(checked: Checked, findings: Findings, *, dry_run: bool) -> None:
    """Add token lengths and, in a dry run, a training step of every task."""
    from mtl.dryrun import lengths, try_steps

    found = lengths(checked)
    limit = max(facts["max_length"] for facts in found.values())  # the encoder's limit, if any task exceeds it
    as_trained = {name: checked.run.as_trained(name) for name in checked.run.tasks}
    findings.warnings += [Problem("", note) for note in task_notes(as_trained, limit)]
    for (name, split), facts in found.items():
        if split in findings.tasks[name]:  # false for the split `holdout`, drawn from the training data
            findings.tasks[name][split] |= facts
        if facts["truncated"]:
            shown = f"{facts['truncated']:,} of {counted(facts['examples'], 'input')}"
            message = f"{shown} longer than {facts['max_length']} tokens, truncated"
            findings.warnings.append(Problem(f"{name}/{split}", message))
    if dry_run:
        findings.dry_run, warnings = try_steps(checked)
        findings.warnings += [Problem("", line) for line in warnings]


def prepare_all(request: Request) -> str:
    """Tokenise every split of every task into the cache, and return a table of the splits.

    Raises:
        UserError: With all problems found.
    """
    run, tasks, data_root, problems = _resolved(request)
    encoder = None
    try:
        encoder = find_encoder(request.overrides.data["encoder"])
    except UserError as error:
        problems += error.problems
    data = read_data(run.config if run else None, tasks, data_root, encoder)
    if run is None or encoder is None or problems + data.problems:
        raise UserError(problems + data.problems)
    from mtl.data import prepare
    from mtl.tokenizer import load_config, load_tokenizer, usable_length

    num_proc, trust = run.config.num_proc, run.config.trust_remote_code
    tokenizer = load_tokenizer(encoder, trust_remote_code=trust)
    limit = usable_length(tokenizer, load_config(encoder, trust_remote_code=trust))
    rows = []
    for name, task in tasks.items():
        for split, source in data.sources[name].items():
            number = data.summaries[name][split].rows
            length = min(task.max_length, limit)
            examples = prepare(name, task, source, tokenizer, length, num_proc=num_proc, rows=number)
            truncated = f"{examples.truncated.mean():.1%}"
            rows.append((name, split, f"{len(examples):,}", f"{examples.lengths.sum():,}", truncated))
    as_trained = {name: run.as_trained(name) for name in tasks}
    notes = [f"note: {note}" for note in [*data.notes, *task_notes(as_trained, limit)]]
    return "\n".join([*notes, table(("task", "split", "rows", "tokens", "truncated"), rows)])
