"""The two phases, `train` and `adapt`: from a checked request to a finished run directory."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtl.batch import BatchStream
from mtl.checkpoint import load_newest
from mtl.config import Run
from mtl.data import Examples
from mtl.display import Display
from mtl.errors import Interrupted, StorageError, counted, listed
from mtl.evaluate import counts
from mtl.export import save_model
from mtl.files import locked
from mtl.hooks import RunHooks
from mtl.metrics import ANSWERABLE, is_better
from mtl.preflight import Checked
from mtl.processes import Processes
from mtl.report import number, plan_table, results_table
from mtl.run_setup import RunSetup, check_model, set_up
from mtl.rundir import Splits, resume_command, start_directory
from mtl.runlog import NoLog, RunLog
from mtl.state import TrainState, separate_dropout
from mtl.stop import StopSignal
from mtl.subsets import count_units, repeated
from mtl.taskdef import task_notes
from mtl.trackers import Trackers, hyperparameters

UNTRAINED = "gets no training step"
WIDE, MANY_TOKENS = 4, 4096  # ratio to the median, and number of tokens, above which a task's largest batch is told


def run_phase(
    checked: Checked,
    output: Path,
    *,
    resume: bool,
    command: Sequence[str] | None = None,
    overwrite: bool = False,
    display: Display | None = None,
    quiet_data: bool = False,
) -> dict[str, Any]:
    """Train or resume a run, and complete its directory.

    Args:
        checked: The run, checked by `preflight`.
        output: Its directory, to which no other run may write.
        resume: Whether to continue from its newest checkpoint.
        command: The command line, for the record; None if called from Python.
        overwrite: Whether an earlier run in the directory may be replaced.
        display: Console output; by default that of the command line.
        quiet_data: Whether notes about the data, leaks among them, have been shown before.

    Returns:
        The contents of `results.json`.

    Raises:
        UserError: The run cannot start, or another one is writing to the directory.
        Interrupted: A signal was received; the message says how to continue, or that the run had just finished.
        NonFiniteError: A term became NaN or infinite, and may not be skipped.
        StorageError: Something could not be written.
    """
    processes = Processes.current()
    display = (display or Display()) if processes.is_main else Display("silent")
    if not quiet_data:
        show_data_notes(checked, display)
    setup = set_up(checked, processes, bar=display.shows("normal"))
    show_plan(setup, display)
    for warning in processes.together(lambda: check_model(setup)):
        display.warn(warning)
    separate_dropout(setup.run.config.train.seed, processes)
    hooks = RunHooks(setup, output, display)
    with contextlib.ExitStack() as held:

        def start() -> None:
            held.enter_context(locked(output))
            how = {"resume": resume, "overwrite": overwrite}
            start_directory(checked, setup.splits, output, **how, command=command, hardware=setup.hardware)

        processes.in_main(start)
        # Installed before log and checkpoint are opened, because imports there may swallow a plain KeyboardInterrupt.
        with StopSignal(launched=processes.count > 1).installed() as stop:
            state = _train(setup, hooks, output, stop, resume=resume, command=command)
        for name, model in (("model", setup.objective.model), ("teacher", setup.objective.teacher)):
            if model is not None and (whole := setup.whole(model)) is not None:
                save_model(whole, setup.tokenizer, output / name)
        results = hooks.store_results(state, intervals=hooks.intervals() if processes.is_main else {})
        hooks.renew_cards(results)
    display.say(results_table(results, setup.run.tasks, output), "quiet")
    for line in _unlearned(results, setup.run):
        display.say(f"note: {line}")
    # Too late to stop this run, but not what would follow it. With several processes, `agreed` returns the result of
    # the previous call, hence the second one.
    if asked := max(processes.agreed(stop.received or 0), processes.agreed(0)):
        raise Interrupted(asked, f"stopped by {signal.Signals(asked).name}; the run is finished")
    return results


def _train(
    setup: RunSetup, hooks: RunHooks, output: Path, stop: StopSignal, *, resume: bool, command: Sequence[str] | None
) -> TrainState:
    """Train from the newest checkpoint, or from the first step, to the end of the plan."""
    processes = setup.processes
    checkpoint, damaged = load_newest(output / "checkpoints") if resume else (None, [])
    if resume:
        step = "none" if checkpoint is None else str(checkpoint.step)
        processes.require_same({"newest checkpoint": step}, f"{output}, which all machines have to share")
    for line in damaged:
        hooks.display.warn(f"passed over a damaged checkpoint: {line}")
    state = TrainState() if checkpoint is None else TrainState.stored(checkpoint)
    if resume:
        found = "no checkpoint: starting from the first step"
        steps, patience = setup.plan.steps, setup.run.config.evaluation.patience
        if state.is_done(steps, patience):
            over = state.stopped_early(steps, patience) or f"all {counted(steps, 'step')} are done"
            found = f"{over}; there is nothing left to train"
        elif checkpoint is not None:
            found = f"resuming after step {checkpoint.step:,}"
        hooks.display.say(found)
    continued = f"continue with{resume_command(command)}"
    try:
        with contextlib.closing(_log(setup, output, state)) as log:
            trainer = setup.trainer(log, hooks)
            if checkpoint is not None:
                trainer.state = trainer.tensors.restore(checkpoint)
            if resume:
                hooks.continues(trainer.state)
            hooks.display.continued(trainer.state.last)
            with hooks.display.bar(setup.plan.steps, trainer.state.step):
                trainer.fit(stop)
            log.finished(hyperparameters(setup.run), trainer.state.best, trainer.state.step)
    except Interrupted as error:
        raise Interrupted(error.signal_number, f"{error}; {continued}") from None
    except StorageError as error:
        raise StorageError(f"{error}; {continued}") from error
    return trainer.state


def _log(setup: RunSetup, output: Path, state: TrainState) -> NoLog:
    """The log of this process; trackers are not started if nothing is left to train."""
    if not setup.processes.is_main:
        return NoLog()
    config, trackers = setup.run.config, None
    with contextlib.ExitStack() as failed:
        if config.telemetry.trackers and not state.is_done(setup.plan.steps, config.evaluation.patience):
            trackers = Trackers(setup.accelerator, setup.run, output, resumed=state.step > 0)
            failed.callback(trackers.finish)
        log = RunLog(output, state.log_position, state.step, trackers)
        failed.pop_all()
    return log


def show_plan(setup: RunSetup, display: Display) -> None:
    """Show the plan, and what should be known of the data before the first step."""
    display.say(plan_table(setup.plan.rows, setup.plan.steps, setup.plan.epoch_steps))
    for leak in setup.seen:
        told = "on which the encoder was trained before; give both runs the same train.holdout and --seed"
        display.warn(f"{leak}, {told}")
    for row in setup.plan.rows:
        if row["steps"] == 0:
            display.warn(f"{row['task']} {UNTRAINED}: take more --max-steps, or another --sampler")
    lines = remarks(setup.run, setup.splits, setup.limit) + _cut_lists(setup.streams) + _wide_batches(setup.streams)
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


def remarks(run: Run, splits: Splits, limit: int) -> list[str]:
    """Notes on the data for the user: truncation, scaling, missing labels, rows left out, queries without task loss."""
    lines = task_notes(run.tasks, limit)
    if run.config.telemetry.gradient_cosine_every is not None and len(run.tasks) == 1:
        lines.append("telemetry.gradient_cosine_every has no effect: gradients are compared between two or more tasks")
    held = [parts["holdout"] for parts in splits.values() if "holdout" in parts]
    for name, parts in splits.items():
        for split, examples in parts.items():
            if cut := int(examples.truncated.sum()):
                longest = min(run.tasks[name].max_length, limit)
                shown = f"{cut:,} of {counted(len(examples), 'input')}"
                lines.append(f"{name}/{split}: {shown} truncated to {longest} tokens")
            if examples.unit != 1:
                size = f"{examples.unit:.4g}"
                lines.append(f"{name}: labels have a standard deviation of {size}; loss, R_s and D are in units of it")
            if absent := _absent(run, name, split, examples):
                lines.append(f"{name}/{split}: none of the {counted(len(examples), 'row')} drawn has {absent}")
            asked = run.config.train.task_sizes.get(name, run.config.train.train_size) if split == "train" else None
            if asked is not None and asked > (there := count_units(run.tasks[name], examples)):
                unit = "queries" if run.tasks[name].type == "ranking" else "rows"
                lines.append(f"{name}/train: {there:,} {unit} in all, although {asked:,} were asked for")
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


def _unlearned(results: Mapping[str, Any], run: Run) -> list[str]:
    """Tasks without a training step, or whose best step is no better than a guess that ignores the text."""
    lines = []
    for name, task in run.tasks.items():
        if results["task_steps"][name] == 0:
            lines.append(f"{name} {UNTRAINED}: its head is as it was initialized")
            continue
        metric = task.metrics[0]
        value, guess = (results[key][name][run.deciding][metric] for key in ("tasks", "baselines"))
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
