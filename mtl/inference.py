"""Evaluation and prediction with runs and exports, and export of runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mtl.batch import Batch
from mtl.config import PrecisionName, Run
from mtl.data import Examples, prepare
from mtl.errors import UserError, counted, listed
from mtl.evaluate import Outputs, prediction_records, score, score_intervals, split_outputs, write_predictions
from mtl.export import Loaded, load_tasks, save_export
from mtl.facts import Facts, read_facts
from mtl.files import locked, write_file
from mtl.intervals import Interval
from mtl.precision import autocast, best_device, precision_problems, precision_warnings
from mtl.predictions import Predictions, predictions_file
from mtl.push import push
from mtl.reading import Data
from mtl.report import interval, number, table
from mtl.run_files import read_results
from mtl.run_record import read_provenance
from mtl.source import Source
from mtl.taskdef import TaskDef
from mtl.trained_tasks import TrainedTasks

Say = Callable[[str], None]


class KnownBase(nn.Module):
    """Replaces a base model and returns its output for the current batch, which is computed already."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.config, self.output = base.config, None

    def note(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.output = output

    def forward(self, *inputs: Any, **options: Any) -> Any:
        return self.output


def outputs_of(items: Sequence[Loaded], examples: Examples, precision: PrecisionName = "fp32") -> list[Outputs]:
    """Raw outputs of each task in float32, (N, C), on the accelerator if there is one.

    Args:
        items: Tasks that share one base model, which runs once per batch.
        examples: Their common input.
        precision: Precision of the computation; the weights are not converted.
    """
    device = best_device()
    models: list[PreTrainedModel] = [item.model.to(device).eval() for item in items]
    base, known = models[0].base_model, KnownBase(models[0].base_model)

    def forward(batch: Batch) -> Tensor:
        return torch.cat([model(**batch.inputs).logits for model in models], dim=1)

    first, widths = items[0], [item.task.num_labels for item in items]
    handle = base.register_forward_hook(known.note)
    try:
        for model in models[1:]:
            setattr(model, model.base_model_prefix, known)
        pad_id = first.tokenizer.pad_token_id
        with autocast(precision, device):
            outputs = split_outputs(base, forward, examples, first.task, pad_id, width=sum(widths))
    finally:
        handle.remove()
        for model in models[1:]:
            setattr(model, model.base_model_prefix, base)
    return np.split(outputs, np.cumsum(widths)[:-1], axis=1)


def release(items: Sequence[Loaded]) -> None:
    """Moves models to the CPU, to free the accelerator's memory for the next tasks."""
    for item in items:
        item.model.to("cpu")


def _require(precision: PrecisionName) -> None:
    if problems := precision_problems(precision, best_device()):
        raise UserError(problems)


def _warn(precision: PrecisionName, say: Say) -> None:
    for line in precision_warnings(precision, best_device()):
        say(f"warning: {line}")


def _prepared(name: str, loaded: Loaded, source: Source, *, labelled: bool) -> Examples:
    return prepare(name, loaded.task, source, loaded.tokenizer, loaded.limit, labelled=labelled)


def evaluate(
    trained: TrainedTasks,
    data: Data,
    split: str,
    *,
    precision: PrecisionName = "fp32",
    output: Path | None = None,
    trust_remote_code: bool = False,
    say: Say = print,
) -> dict[str, dict[str, float]]:
    """Scores tasks of a run or an export on a split, and prints a table.

    Args:
        trained: The tasks.
        data: Their data.
        split: Name of the split.
        precision: Precision of the computation.
        output: File for the metrics, as JSON.
        trust_remote_code: Whether the models may run their own code.
        say: Prints a line of text.

    Returns:
        Task → metrics. For a run, predictions of best-step weights are also written to its `predictions` directory,
        except for a split that the run itself evaluated in another precision or on other data.

    Raises:
        UserError: A model cannot be loaded, or the device does not support the precision.
    """
    _require(precision)
    path, run = trained.path, trained.run
    for warning in data.warnings:
        say(f"warning: {warning}")
    for note in data.notes:
        say(f"note: {note}")
    loaded = load_tasks(trained, trust_remote_code=trust_remote_code)
    _warn(precision, say)
    results: dict[str, dict[str, float]] = {}
    spread: dict[str, dict[str, Interval]] = {}
    unlike: dict[str, list[str]] = {}
    for name, item in loaded.items():
        source = data.sources[name][split]
        examples = _prepared(name, item, source, labelled=True)
        (outputs,) = outputs_of([item], examples, precision)
        release([item])
        results[name] = score(item.task, outputs, examples)
        spread[name] = score_intervals(item.task, Predictions(examples.rows, outputs), examples)
        if run is None:
            continue
        difference = _difference(path, run, f"{name}/{split}", source, trained.weights, precision)
        if difference is None:
            records = prediction_records(item.task, outputs, examples)
            difference = _store(path, predictions_file(path, name, split), records)
        if difference is not None:
            unlike.setdefault(difference, []).append(name)
    say(_scores_table(loaded, split, results, spread))
    for difference, tasks in unlike.items():
        if kept := [name for name in tasks if predictions_file(path, name, split).exists()]:
            told = f"{path / 'predictions'} keeps what it has of {listed(kept)}"
            say(f"note: {told}: {difference}")
    if output is not None:
        write_file(output, _scores_json(split, {"tasks": results, "intervals": spread}))
    return results


def _scores_json(split: str, found: Mapping[str, Mapping[str, Any]]) -> str:
    nested = {key: {name: {split: values} for name, values in parts.items()} for key, parts in found.items()}
    return json.dumps(nested, indent=1)


def _scores_table(
    loaded: Mapping[str, Loaded],
    split: str,
    results: Mapping[str, Mapping[str, float]],
    spread: Mapping[str, Mapping[str, Interval]],
) -> str:
    rows = [
        (name, split, f"{values['n']:,}", metric, number(values[metric]), interval(spread[name][metric]))
        for name, values in results.items()
        for metric in loaded[name].task.metrics
    ]
    return table(("task", "split", "rows", "metric", "value", "95% interval"), rows)


def _difference(
    run_dir: Path, run: Run, place: str, source: Source, weights: str, precision: PrecisionName
) -> str | None:
    """How predictions of `TASK/SPLIT` differ from those behind the run's results, in words; None if they do not.

    Predictions that differ must not replace the run's own.
    """
    results = "the run's results are not"
    if weights != "best":
        return f"{results} of its {weights} weights"
    provenance = read_provenance(run_dir)
    if place.endswith("/train") or (provenance is not None and place not in provenance.data):
        return None  # the run has no results of that split
    if precision != "fp32":  # training always evaluates in float32
        return f"{results} in {precision}"
    held_out = run.config.train.holdout is not None  # the run evaluated held-out training rows, not this split
    known = None if provenance is None or held_out else provenance.contents.get(place)
    return None if source.fingerprint() == known else f"{results} of this data"


def _store(run_dir: Path, file: Path, records: Iterator[dict[str, Any]]) -> str | None:
    """Write predictions into a run, unless it is being trained: its own may be newer. Then say so, else None."""
    try:
        with locked(run_dir):
            write_predictions(file, records)
    except UserError:
        return "the run is being trained"
    return None


def predict(
    trained: TrainedTasks,
    file: Path,
    output: Path,
    *,
    precision: PrecisionName = "fp32",
    trust_remote_code: bool = False,
    say: Say = print,
) -> None:
    """Predicts every row of a file with the models of one or more tasks and writes JSON lines in row order.

    With several tasks, each line holds `row` and, under each task's name, the record that the task alone would have,
    without `row`.
    Tasks that share an encoder (a run's `final` or `teacher` weights), read the same columns and truncate at the same
    length encode every row once.

    Raises:
        UserError: A model or the file cannot be read, a column is missing, or the device does not support the
            precision.
    """
    _require(precision)
    loaded = load_tasks(trained, trust_remote_code=trust_remote_code)
    _warn(precision, say)
    rows = predict_file(loaded, file, output, precision)
    say(f"{counted(rows, 'row')} predicted by {', '.join(loaded)}: {output}")


def predict_file(loaded: dict[str, Loaded], file: Path, output: Path, precision: PrecisionName = "fp32") -> int:
    """Like `predict`, with loaded tasks; returns the number of rows."""
    together: dict[tuple[Any, ...], list[str]] = {}
    for name, item in loaded.items():
        columns = item.task.data.columns
        encoding = item.task.data.encoding_of(file)
        key = (id(item.model.base_model), columns.text_a, columns.text_b, columns.group, item.limit, encoding)
        together.setdefault(key, []).append(name)
    records: dict[str, Iterator[dict[str, Any]]] = {}
    for group in together.values():
        source = Source(path=file, encoding=loaded[group[0]].task.data.encoding_of(file))
        examples = _prepared(group[0], loaded[group[0]], source, labelled=False)
        items = [loaded[name] for name in group]
        outputs = outputs_of(items, examples, precision)
        release(items)
        for name, own in zip(group, outputs, strict=True):
            records[name] = prediction_records(loaded[name].task, own, examples)
    write_predictions(output, _merged({name: records[name] for name in loaded}))
    return len(examples)


def _merged(records: dict[str, Iterator[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """Records of one task unchanged; records of several tasks merged into one per row."""
    if len(records) == 1:
        yield from next(iter(records.values()))
        return
    for parts in zip(*records.values(), strict=True):
        row = {"row": parts[0]["row"]}
        for name, part in zip(records, parts, strict=True):
            place = part.pop("row")
            assert place == row["row"], "the same rows in the same order"
            row[name] = part
        yield row


def export(
    trained: TrainedTasks,
    output: Path,
    *,
    repositories: Mapping[str, str],
    trust_remote_code: bool = False,
    say: Say = print,
) -> None:
    """Writes tasks of a run as standalone models to `output/TASK`, each verified, and prints a table.

    Args:
        trained: The tasks.
        output: Directory in which each task gets a subdirectory.
        repositories: Task → repository on the hub to upload to.
        trust_remote_code: Whether the models may run their own code.
        say: Prints a line of text.

    Raises:
        UserError: A model cannot be loaded, or the user may not write to the hub repository.
        StorageError: A file could not be written, locally or on the hub.
    """
    path, run = trained.path, trained.run
    assert run is not None, "an export is not exported again"
    loaded = load_tasks(trained, trust_remote_code=trust_remote_code)
    results = read_results(path)
    rows: list[tuple[Any, ...]] = []
    for name, item in loaded.items():
        facts = read_facts(name, path, run, results, trained.weights)
        save_export(item, name, output / name, facts, verify=True, trust_remote_code=trust_remote_code)
        rows.append((name, *_headline(item.task, facts, run.selection_split), str(output / name)))
    say(table(("task", "metric", "value", "baseline", "model"), rows))
    for name, repository in repositories.items():
        say(f"pushed: {push(output / name, repository, name)}")


def _headline(task: TaskDef, facts: Facts, split: str) -> list[str]:
    metric = task.metrics[0]
    parts = (facts.metrics, facts.baselines)
    return [metric, *(number(values.get(split, {}).get(metric)) for values in parts)]
