"""Using what was trained: evaluate, predict and export runs and exports."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mtl.batch import Batch
from mtl.data import Examples, prepare, usable_length
from mtl.errors import Problem, UserError, counted
from mtl.evaluate import Outputs, prediction_records, score, split_outputs, write_predictions
from mtl.export import Loaded, load_tasks, run_of, save_export
from mtl.files import refuse_links, write_file
from mtl.preflight import check_data
from mtl.report import number, read_results, table
from mtl.source import SUFFIXES, Source
from mtl.taskdef import NAME, TaskDef

BATCH_SIZE = 64
MEASURED = {"best": "tasks", "final": "last"}  # weights to where a run's results hold their metrics
Say = Callable[[str], None]


def outputs_of(loaded: Loaded, examples: Examples) -> Outputs:
    """Raw outputs of a task's own model, (N, C), on the accelerator if there is one."""
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    model: PreTrainedModel = loaded.model.to(device)

    def forward(batch: Batch) -> Tensor:
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        if batch.token_type_ids is not None:
            inputs["token_type_ids"] = batch.token_type_ids
        logits: Tensor = model(**inputs).logits
        return logits

    return split_outputs(model, forward, examples, loaded.task, loaded.tokenizer.pad_token_id, BATCH_SIZE)


def _prepared(name: str, loaded: Loaded, source: Source, *, labelled: bool) -> Examples:
    limit = min(loaded.task.max_length, usable_length(loaded.tokenizer, loaded.model.config))
    return prepare(name, loaded.task, source, loaded.tokenizer, limit, labelled=labelled)


def evaluate(
    path: Path,
    *,
    names: list[str],
    split: str,
    data_root: str | None,
    weights: str,
    output: Path | None = None,
    say: Say = print,
) -> dict[str, dict[str, float]]:
    """Scores tasks of a run or an export on a split, and prints a table.

    Args:
        path: A run directory or an export's.
        names: Tasks; all when empty.
        split: A split of the tasks, or a split of their data set that the definition does not name.
        data_root: Local mirror of the hub; by default the run's.
        weights: Of a run, `best` or `final`.
        output: File for the metrics as JSON.
        say: Where lines for people go.

    Returns:
        Task to its metrics. Of a run, predictions are written to its `predictions` directory.
    """
    if not NAME.fullmatch(split):
        raise UserError.of("--split", f"{split!r} may hold letters, digits, '-' and '_' only (it names a file)")
    loaded = load_tasks(path, names, weights)
    run = run_of(path)
    if run is not None:
        refuse_links(path)
    root = data_root or (run.config.data_root if run else None)
    data = check_data({name: item.task for name, item in loaded.items()}, root, [split])
    if data.problems:
        raise UserError(data.problems)
    results: dict[str, dict[str, float]] = {}
    for name, item in loaded.items():
        examples = _prepared(name, item, data.sources[name][split], labelled=True)
        outputs = outputs_of(item, examples)
        results[name] = score(item.task, outputs, examples)
        if run is not None and weights == "best":
            records = prediction_records(item.task, outputs, examples)
            write_predictions(path / "predictions" / f"{name}.{split}.jsonl", records)
    rows = [
        (name, split, f"{values['n']:,}", metric, number(values[metric]))
        for name, values in results.items()
        for metric in loaded[name].task.metrics
    ]
    say(table(("task", "split", "rows", "metric", "value"), rows))
    if output is not None:
        write_file(output, json.dumps({"tasks": {name: {split: values} for name, values in results.items()}}, indent=1))
    return results


def predict(path: Path, name: str | None, file: Path, output: Path, *, weights: str, say: Say = print) -> None:
    """Predicts every row of a file with one task's model and writes JSON lines in the order of the rows.

    Raises:
        UserError: No such task, or a file that can't be read or lacks a column.
    """
    problems = []
    if file.suffix not in SUFFIXES:
        problems.append(Problem("--input", f"{file} is of an unknown type; allowed: {', '.join(SUFFIXES)}"))
    elif not file.is_file():
        problems.append(Problem("--input", f"there is no file {file}"))
    if output.suffix not in (".jsonl", ".json"):
        problems.append(
            Problem("--output", f"predictions are JSON lines: name the file {output.with_suffix('.jsonl')}")
        )
    if problems:
        raise UserError(problems)
    loaded = load_tasks(path, [name] if name else [], weights)
    if len(loaded) > 1:
        raise UserError.of("--task", f"name one of the tasks: {', '.join(loaded)}")
    name, item = next(iter(loaded.items()))
    examples = _prepared(name, item, Source(path=file), labelled=False)
    write_predictions(output, prediction_records(item.task, outputs_of(item, examples), examples))
    say(f"{counted(len(examples), 'row')} predicted by {name}: {output}")


def export(path: Path, names: list[str], output: Path, *, weights: str, overwrite: bool, say: Say = print) -> None:
    """Writes tasks of a run as standalone models to `output/TASK`, each verified, and prints a table.

    Raises:
        UserError: No run, no such task, or a directory in use.
    """
    run = run_of(path)
    if run is None:
        raise UserError.of(str(path), "is no run directory")
    loaded = load_tasks(path, names, weights)
    used = [name for name in loaded if (output / name).exists()]
    if output.exists() and not output.is_dir():
        raise UserError.of("--output", f"{output} is a file; name a directory")
    if used and not overwrite:
        raise UserError(Problem("--output", f"{output / name} exists; --overwrite replaces it") for name in used)
    results = read_results(path)
    rows: list[tuple[Any, ...]] = []
    for name, item in loaded.items():
        metrics = results[MEASURED[weights]].get(name, {}) if weights in MEASURED else {}
        save_export(item, name, output / name, metrics, verify=True)
        rows.append((name, *_headline(item.task, metrics, results["baselines"].get(name, {})), str(output / name)))
    say(table(("task", "metric", "value", "baseline", "model"), rows))


def _headline(task: TaskDef, metrics: dict[str, Any], baselines: dict[str, Any]) -> list[str]:
    metric = task.metrics[0]
    return [metric, *(number(values.get("validation", {}).get(metric)) for values in (metrics, baselines))]
