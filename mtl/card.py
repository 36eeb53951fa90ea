"""Model cards: description, usage, results, training, data, limits and licence of an exported model.

A card contains only what its run recorded; anything else is omitted, and nothing is looked up or guessed. Because a
card may be published, texts from users (labels, columns, files) appear only in code spans, never in tables or metadata,
and paths are reduced to their last component. Metadata is written by a YAML dumper.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from mtl.card_metadata import is_number, metadata
from mtl.encoder import PACKAGE
from mtl.errors import counted, listed, printable
from mtl.facts import Facts
from mtl.heads import stored_head
from mtl.leaks import KINDS, Leak
from mtl.origin import Licence, Origin
from mtl.plain_data import dump_yaml
from mtl.presets import PRESETS
from mtl.report import interval
from mtl.run_record import Provenance
from mtl.taskdef import NAME, TaskDef

CARD_FILE = "README.md"
LABELS_SHOWN = 100
DIGEST = re.compile(r"[A-Za-z0-9]{8,128}")
PLACE = "path/to/this/directory"  # path in the usage example


def model_card(name: str, task: TaskDef, facts: Facts, limit: int, *, own_code: bool = False) -> str:
    """The text of a model's README.md.

    Args:
        name: Name of the task.
        task: Its definition.
        facts: The recorded information about the model.
        limit: Maximum input length in tokens, which may be less than the task's `max_length`.
        own_code: Whether the model needs its own code to be loaded.
    """
    task = task.model_copy(update={"max_length": min(task.max_length, limit)})
    sections = {
        "": _summary(task),
        "Use": _use(task, own_code=own_code),
        "Results": _results(task, facts),
        "Training": _training(name, task, facts),
        "Data": _data(name, task, facts),
        "Limits": _limits(name, task, facts),
        "Licence": _licence(facts.origin),
        "Made with": _versions(facts.provenance),
    }
    lines = ["---", dump_yaml(metadata(name, task, facts)).rstrip(), "---", "", f"# {name}", ""]
    for title, body in sections.items():
        if body:
            lines += [*([f"## {title}", ""] if title else []), *body, ""]
    return "\n".join(lines)


def code_span(text: str) -> str:
    """A text from a user as a Markdown code span, so that nothing in it is interpreted as markup."""
    text = printable(text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if text[:1] in ("`", " ", "") or text[-1:] in ("`", " ") else ""
    return f"{fence}{pad}{text}{pad}{fence}"


# Sections


def _summary(task: TaskDef) -> list[str]:
    columns = task.data.columns
    inputs = code_span(columns.text_a) + (f" and {code_span(columns.text_b)}" if columns.text_b else "")
    output = {
        "classification": f"one of {len(task.labels):,} labels",
        "regression": "a number",
        "ranking": "a score that ranks the candidates of a query",
    }[task.type]
    lines = [f"A {task.type} model. Input: {inputs}, at most {task.max_length} tokens. Output: {output}."]
    if task.labels:
        spans = listed([code_span(label) for label in task.labels], LABELS_SHOWN)
        lines += ["", f"Labels, in the order of the logits: {spans}."]
    return lines


def _use(task: TaskDef, *, own_code: bool) -> list[str]:
    place = f'"{PLACE}"' + (", trust_remote_code=True" if own_code else "")
    where = "# or the id of its repository on the hub"
    if task.is_cross_encoder:
        code = [
            "from sentence_transformers import CrossEncoder",
            "",
            f"model = CrossEncoder({place})  {where}",
            'print(model.rank("the query", ["one candidate", "another candidate"]))  # best first',
        ]
    else:
        text = '{"text": "first text", "text_pair": "second text"}' if task.is_pair else '"a text"'
        comment = "top_k=None gives all labels" if task.type == "classification" else "the number is `score`"
        code = [
            "from transformers import pipeline",
            "",
            f'model = pipeline("text-classification", model={place})  {where}',
            f"print(model({text}, truncation=True))  # {comment}",
        ]
    more = "`AutoModelForSequenceClassification` and `AutoTokenizer` load it too; `task.yml` is the task's definition."
    if own_code:
        more += " The model runs its own code, the `.py` files here: loading it needs `trust_remote_code=True`."
    return ["```python", *code, "```", "", more]


def _results(task: TaskDef, facts: Facts) -> list[str]:
    of = f" of {facts.steps:,}" if facts.steps is not None else ""
    lines = []
    if facts.weights == "teacher":
        lines = ["These are the weights of the proximal term's teacher, a moving average; they were not evaluated.", ""]
    elif facts.step is not None and facts.weights == "final":
        lines = [f"After the last step, {facts.step:,}.", ""]
    elif facts.step is not None:
        chosen = f"chosen by `{task.metrics[0]}` on {_deciding(facts)}"
        lines = [f"At the task's best step, {facts.step:,}{of}: {chosen}.", ""]
    for split, values in facts.metrics.items():
        if NAME.fullmatch(split):
            lines += _table(task, split, values, facts)
    unit = "queries" if task.type == "ranking" else "rows"
    columns = [
        *([f"intervals are bootstraps over {unit}"] if facts.intervals else []),
        *(["the baseline ignores the text"] if facts.metrics and facts.baselines else []),
        *(["“trained alone” is the same encoder on this task only, for as many steps"] if facts.single else []),
        *(["the difference is the value less that, with a paired 95 % interval"] if facts.over_single else []),
    ]
    text = "; ".join(columns)
    return [*lines, f"{text[:1].upper()}{text[1:]}."] if columns else lines[:-1]


def _deciding(facts: Facts) -> str:
    held_out = facts.run is not None and facts.run.selection_split == "holdout"
    return "rows held out of the training data" if held_out else "`validation`"


def _table(task: TaskDef, split: str, values: Mapping[str, Any], facts: Facts) -> list[str]:
    """Table of one split's metrics, with a column for each kind of value that is known."""
    spread = facts.intervals.get(split, {})
    guess, alone, over = (part.get(split, {}) for part in (facts.baselines, facts.single, facts.over_single))
    columns = {
        f"metric on `{split}`": [f"`{metric}`" for metric in task.metrics],
        "value": [_value(values.get(metric)) for metric in task.metrics],
        "95 % interval": [interval(spread.get(metric)) for metric in task.metrics] if spread else [],
        "baseline": [_value(guess.get(metric)) for metric in task.metrics] if guess else [],
        "trained alone": [_value(alone.get(metric)) for metric in task.metrics] if alone else [],
        "difference": [_difference(over.get(metric)) for metric in task.metrics] if over else [],
    }
    shown = {title: cells for title, cells in columns.items() if cells}
    rows = [list(shown), ["---"] * len(shown), *zip(*shown.values(), strict=True)]
    lines = [*("| " + " | ".join(row) + " |" for row in rows), ""]
    counts = [
        counted(int(values[key]), noun, plural)
        for key, noun, plural in (
            ("n", "row", "rows"),
            ("queries", "query", "queries"),
            ("queries_without_relevant", "query without a relevant candidate", "queries without a relevant candidate"),
        )
        if is_number(values.get(key)) and (values[key] or key == "n")
    ]
    return [f"On `{split}`: {', '.join(counts)}.", "", *lines] if counts else lines


def _training(name: str, task: TaskDef, facts: Facts) -> list[str]:
    run, origin = facts.run, facts.origin
    if run is None:
        return []
    config, trained = run.config, run.as_trained(name) if name in run.tasks else task
    lines = []
    if origin is not None:
        lines.append(f"- Encoder: {_encoder(origin.encoder, origin.hub_id)}.")
        lines += [
            f"- Trained before on {listed([code_span(other) for other in phase.tasks], LABELS_SHOWN)}"
            f"{', together,' if len(phase.tasks) > 1 else ''} for {counted(phase.steps, 'step')}."
            for phase in origin.phases
        ]
    others = [f"`{other}` ({run.tasks[other].type})" for other in run.tasks if other != name]
    if others:
        lines.append(f"- Encoder shared with other tasks, each with its own head: {listed(others, LABELS_SHOWN)}.")
    elif config.phase == "adapt":
        taken = stored_head(config.head, name)
        began = "new" if taken is None else "reused" if taken == name else f"taken from {code_span(taken)}"
        lines.append(f"- Adapted to this task alone; its head was {began}.")
    if facts.steps is not None:
        several = config.train.tasks_per_step > 1
        each, units = (f" of {config.train.tasks_per_step} batches", "the batches") if several else ("", "them")
        own = f", {facts.own_steps:,} of {units} on this task" if facts.own_steps is not None else ""
        lines.append(f"- {counted(facts.steps, 'optimizer step')}{each}{own}; seed {config.train.seed}.")
    settings = trained.training_settings() | {"max_length": task.max_length}
    sections = {
        "task": {key: value for key, value in settings.items() if key not in PRESETS},
        "SMART, R_s ([1911.03437](https://arxiv.org/abs/1911.03437))": _regularizer(trained.smart),
        "proximal term, D (same source)": _regularizer(trained.proximal),
        "run": config.train.model_dump(include=set(RUN_SETTINGS), exclude_none=True),
        "optimizer": config.optimizer.model_dump(),
        "schedule": config.schedule.model_dump(),
        "sampling": config.sampling.model_dump() if others else {},
    }
    lines += ["", "| part | settings |", "|---|---|"]
    return lines + [f"| {title} | {_settings(values)} |" for title, values in sections.items() if values]


RUN_SETTINGS = (
    *("precision", "clip_norm", "accumulation", "tasks_per_step", "loss_scaling"),
    *("train_size", "train_fraction", "holdout"),
)


def _regularizer(settings: Any) -> dict[str, Any] | str:
    return settings.model_dump(exclude_none=True) if settings.weight > 0 else "off"


def _settings(values: dict[str, Any] | str) -> str:
    return values if isinstance(values, str) else code_span(", ".join(f"{k}: {value}" for k, value in values.items()))


def _encoder(spec: str, hub_id: str | None) -> str:
    if hub_id is not None or spec.startswith(PACKAGE):
        return code_span(spec)
    return f"a local directory, {code_span(PurePath(spec).name)}"


def _data(name: str, task: TaskDef, facts: Facts) -> list[str]:
    data, columns = task.data, task.data.columns
    config = f", configuration {code_span(data.config)}" if data.config else ""
    source = f"The data set {code_span(data.hub)} of the hub{config}" if data.hub else "Local files"
    used = [columns.text_a, columns.text_b, columns.label, columns.group]
    lines = [f"{source}; columns {', '.join(code_span(column) for column in dict.fromkeys(filter(None, used)))}.", ""]
    for split in dict.fromkeys([*data.splits, *filter(NAME.fullmatch, facts.data)]):
        target = data.splits.get(split)
        place = PurePath((data.files or {}).get(target, target)).name if target else "out of the training data"
        counts = facts.data.get(split, {})
        known = [
            f"{int(counts[key]):,} {words}"
            for key, words in DATA_COUNTS.items()
            if is_number(counts.get(key)) and (counts[key] or key == "rows")
        ]
        digest = facts.provenance.contents.get(f"{name}/{split}", "")
        known += [f"fingerprint `{digest}`"] if DIGEST.fullmatch(digest) else []
        lines.append(f"- `{split}` ({code_span(place)}){': ' if known else ''}{', '.join(known)}")
    if any(DIGEST.fullmatch(digest) for digest in facts.provenance.contents.values()):
        what = "that of the `datasets` library, or for a local copy its SHA-256" if data.hub else "the file's SHA-256"
        lines += ["", f"The fingerprint is {what}."]
    return lines


DATA_COUNTS = {
    "rows": "rows",
    "truncated": "of them truncated",
    "unlabelled": "without a label excluded",
    "dropped": "excluded because they are also evaluation rows",
}


PARTS = {"train_size", "train_fraction", "task_sizes", "holdout"}  # settings of `train` that leave rows out


def _seen(name: str, facts: Facts) -> list[str]:
    """Evaluation rows of a task that are also in the training data of this run or of the runs before it."""
    lines, config = [], facts.run.config if facts.run else None
    own = facts.run.tasks if facts.run else {}
    part = config is not None and any(config.train.model_dump(include=PARTS).values())
    for leak in facts.provenance.leaks:
        train, evaluation, rows = leak.get("train"), leak.get("evaluation"), leak.get("rows")
        if not (isinstance(train, str) and str(evaluation).startswith(f"{name}/") and isinstance(rows, int)):
            continue
        here = train.removesuffix("/train") in own
        if here and config is not None and config.leaks == "drop":
            continue
        told = "In the data that training rows were drawn from" if here and part else "In the training data"
        kind = leak["kind"] if leak.get("kind") in KINDS else "alike"
        lines.append(f"- {told}: {Leak(code_span(train), code_span(str(evaluation)), rows, kind)}.")
    return lines


def _limits(name: str, task: TaskDef, facts: Facts) -> list[str]:
    measured = "Only the results above were measured: no other kinds of text, languages, or groups of people."
    lines = [f"- {measured if facts.metrics else 'No evaluation results were recorded.'}"]
    if facts.weights == "best" and facts.metrics:
        lines.append(f"- The best step was chosen on {_deciding(facts)}, so values there are slightly optimistic.")
    if facts.intervals:
        lines.append("- The intervals cover variation with the evaluated rows, not with the seed: this is one run.")
    lines += ["- No step of the run was on this task: its head is not trained."] if facts.own_steps == 0 else []
    lines += _seen(name, facts)
    if facts.run is not None and facts.run.config.leaks == "ignore":
        lines.append("- The training data was not searched for evaluation rows.")
    lines.append(f"- Inputs longer than {task.max_length} tokens are truncated.")
    lines.append(
        {
            "classification": "- Probabilities were not calibrated, and the model always predicts one of its labels.",
            "regression": "- Outputs are unbounded: they may lie outside the range of the training labels.",
            "ranking": "- Scores rank the candidates of one query; they are not comparable between queries.",
        }[task.type]
    )
    return lines


def _licence(origin: Origin | None) -> list[str]:
    licence = origin.licence if origin else None
    if licence is None:
        return ["The encoder's licence is not known: check it at its source before you redistribute this model."]
    return [f"The encoder's card states {_licence_words(licence)}. The data has its own terms."]


def _licence_words(licence: Licence) -> str:
    more = [code_span(part) for part in (licence.name, licence.link) if part]
    return f"`{licence.id}`" + (f" ({', '.join(more)})" if more else "")


def _versions(provenance: Provenance) -> list[str]:
    known = {**provenance.versions, "Python": provenance.python}
    known |= {"git revision of the toolkit": provenance.git_revision, "device": provenance.device}
    words = ("Python", "git revision of the toolkit", "device")
    shown = {title if title in words else code_span(title): version for title, version in known.items() if version}
    return [f"- {title} {code_span(version)}" for title, version in shown.items()]


def _difference(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "–"
    bounds = found["interval"]
    return f"{found['difference']:+.4f}" + (f" [{bounds[0]:+.4f}, {bounds[1]:+.4f}]" if bounds else " (no interval)")


def _value(value: Any) -> str:
    return f"{value:.4f}" if is_number(value) else "–"
