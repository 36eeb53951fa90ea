"""What a run tells of its data and plan before the first step, and of tasks that learned nothing after the last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mtl.batch import BatchStream
from mtl.config import Run
from mtl.data import Examples
from mtl.display import Display
from mtl.errors import counted, listed
from mtl.evaluate import counts
from mtl.metrics import ANSWERABLE, is_better
from mtl.preflight import Checked
from mtl.report import number, plan_table
from mtl.run_setup import RunSetup
from mtl.run_start import Splits
from mtl.subsets import count_units, repeated
from mtl.taskdef import task_notes

UNTRAINED = "gets no training step"
FEW = 10  # evaluated rows, or queries, below which their metrics and intervals say little
WIDE, MANY_TOKENS = 4, 4096  # ratio to the median, and number of tokens, above which a task's largest batch is told


def show_plan(setup: RunSetup, display: Display) -> None:
    """Show the plan, and what should be known of the data before the first step."""
    display.say(plan_table([task.model_dump() for task in setup.plan.tasks], setup.plan.steps, setup.plan.epoch_steps))
    for leak in setup.seen:
        told = "on which the encoder was trained before; give both runs the same train.holdout and --seed"
        display.warn(f"{leak}, {told}")
    for task in setup.plan.tasks:
        if task.steps == 0:
            display.warn(f"{task.task} {UNTRAINED}: take more --max-steps, or another --sampler")
    lines = _remarks(setup.run, setup.splits, setup.limit) + _cut_lists(setup.streams) + _wide_batches(setup.streams)
    for line in lines + _class_weights(setup):
        display.say(f"note: {line}")


def show_data_notes(checked: Checked, display: Display) -> None:
    """Show what was found in the data before tokenisation: notes, and training rows that are also evaluation rows."""
    for note in checked.data.notes:
        display.say(f"note: {note}")
    for warning in checked.data.warnings:
        display.warn(warning)
    own, warn = False, checked.run.config.leaks == "warn"
    for leak in checked.data.leaks.leaks():
        if checked.data.is_before(leak):
            display.warn(f"{leak}, on which the encoder was trained before")
        elif warn:
            own = True
            display.warn(str(leak))
        else:
            display.say(f"note: {leak}")
    if own:
        display.say("note: --leaks drop leaves such training rows out, --leaks ignore does not look for them")


def _remarks(run: Run, splits: Splits, limit: int) -> list[str]:
    """Notes on the data for the user: truncation, scaling, missing labels, rows left out, queries without task loss."""
    lines = task_notes({name: run.as_trained(name) for name in run.tasks}, limit)
    if run.config.telemetry.gradient_cosine_every is not None and len(run.tasks) == 1:
        lines.append("telemetry.gradient_cosine_every has no effect: gradients are compared between two or more tasks")
    held = [parts["holdout"] for parts in splits.values() if "holdout" in parts]
    for name, parts in splits.items():
        for split, examples in parts.items():
            if cut := int(examples.truncated.sum()):
                longest = min(run.tasks[name].max_length, limit)
                shown = f"{cut:,} of {counted(len(examples), 'input')}"
                lines.append(f"{name}/{split}: {shown} truncated to {longest} tokens")
            if examples.label_scale != 1:
                size = f"{examples.label_scale:.4g}"
                lines.append(f"{name}: labels have a standard deviation of {size}; loss, R_s and D are in units of it")
            if absent := _absent(run, name, split, examples):
                lines.append(f"{name}/{split}: none of the {counted(len(examples), 'row')} drawn has {absent}")
            asked = run.config.train.task_sizes.get(name, run.config.train.train_size) if split == "train" else None
            units = count_units(run.tasks[name], examples)
            nouns = ("query", "queries") if run.tasks[name].type == "ranking" else ("row", "rows")
            if asked is not None and asked > units:
                lines.append(f"{name}/train: {units:,} {nouns[1]} in all, although {asked:,} were asked for")
            if split != "train" and units < FEW:
                lines.append(f"{name}/{split}: {counted(units, *nouns)} only, too few for its metrics to say much")
            if examples.unlabelled:
                lines.append(f"{name}/{split}: {counted(examples.unlabelled, 'row')} without a label left out")
            if examples.dropped:
                lines.append(f"{name}/{split}: {counted(examples.dropped, 'row')} left out because of leaks")
            if split == "train" and run.config.leaks == "warn" and (same := repeated(examples, held)):
                rows = counted(len(same), "row")
                lines.append(f"{name}/train: {rows} identical to held-out rows; --leaks drop leaves them out")
            without = int(counts(run.tasks[name], examples).get("queries_without_relevant", 0))
            if without:
                effect = "no task loss" if split == "train" else _counting(run.tasks[name].metrics)
                what = counted(without, "query", "queries")
                lines.append(f"{name}/{split}: {what} without a relevant candidate: {effect}")
    return lines


def _absent(run: Run, name: str, split: str, examples: Examples) -> str:
    """Labels without a row in a subset that was drawn from a split; for whole splits, they are reported elsewhere."""
    task, train = run.tasks[name], run.config.train
    drawn = train.holdout or (
        split == "train" and (train.task_sizes.get(name, train.train_size) or train.train_fraction)
    )
    if task.type != "classification" or not drawn:
        return ""
    absent = [repr(label) for index, label in enumerate(task.labels) if not (examples.labels == index).any()]
    return f"the label{'s' if len(absent) > 1 else ''} {listed(absent)}" if absent else ""


def _cut_lists(streams: Mapping[str, BatchStream]) -> list[str]:
    return [
        f"{name}/train: {counted(cut, 'query', 'queries')} with more candidates than a batch holds; "
        "each pass takes a part of them, the relevant ones first"
        for name, stream in streams.items()
        if (cut := stream.cut_lists)
    ]


def _wide_batches(streams: Mapping[str, BatchStream]) -> list[str]:
    """Tasks in which a few long texts decide how much memory training needs."""
    lines = []
    for name, stream in streams.items():
        lengths = stream.examples.lengths
        batches = [stream[turn] for turn in range(stream.per_pass)]
        tokens = [int(lengths[chosen].max()) * len(chosen) for chosen in batches]
        if max(tokens) > max(MANY_TOKENS, WIDE * np.median(tokens)):
            size = f"{max(tokens):,} tokens, {max(tokens) / np.median(tokens):.0f} times the usual"
            lower = f"--max-length or --set tasks.{name}.batch_tokens={MANY_TOKENS} takes less memory"
            lines.append(f"{name}/train: a long text pads its batch to {size}; {lower}")
    return lines


def _class_weights(setup: RunSetup) -> list[str]:
    return [
        f"{name}: class weights {listed([f'{w:.3g} {label}' for w, label in zip(weights, task.labels, strict=True)])}"
        for name, task in setup.run.tasks.items()
        if task.class_weights == "balanced" and isinstance(weights := setup.objective.tasks[name].class_weights, list)
    ]


def unlearned(results: Mapping[str, Any], run: Run) -> list[str]:
    """Tasks without a training step, or whose best step is no better than a guess that ignores the text."""
    lines = []
    for name, task in run.tasks.items():
        if results["task_steps"][name] == 0:
            lines.append(f"{name} {UNTRAINED}: its head is as it was initialized")
            continue
        metric = task.metrics[0]
        value, guess = (results[key][name][run.selection_split][metric] for key in ("tasks", "baselines"))
        if not is_better(metric, value, guess):
            lines.append(f"{name}: {metric} {number(value)} is no better than the baseline's {number(guess)}")
    return lines


def _counting(metrics: Sequence[str]) -> str:
    """How queries without a relevant candidate count in the given metrics, in words."""
    zero = [metric for metric in metrics if not metric.endswith(ANSWERABLE)]
    if not zero:
        return "left out of the metrics"
    more = f" ({zero[0]}{ANSWERABLE} leaves them out)" if zero == list(metrics) else ""
    return f"0 in {listed(zero)}{more}"
