"""The two phases, `train` and `adapt`: from a checked request to a finished run directory."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mtl.checkpoint import load_newest
from mtl.display import Display
from mtl.errors import Interrupted, StorageError, counted
from mtl.export import save_model
from mtl.files import locked
from mtl.hooks import RunHooks
from mtl.preflight import Checked
from mtl.processes import Processes
from mtl.remarks import show_data_notes, show_plan, unlearned
from mtl.report import results_table
from mtl.run_files import CHECKPOINTS_DIR, MODEL_DIR, TEACHER_DIR
from mtl.run_log import Log, RunLog
from mtl.run_setup import RunSetup, check_model, set_up
from mtl.run_start import resume_command, start_directory
from mtl.state import TrainState, separate_dropout
from mtl.stop import StopSignal
from mtl.trackers import Trackers, hyperparameters


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
        for name, model in ((MODEL_DIR, setup.objective.model), (TEACHER_DIR, setup.objective.teacher)):
            if model is not None and (whole := setup.whole(model)) is not None:
                save_model(whole, setup.tokenizer, output / name)
        results = hooks.store_results(state, intervals=hooks.intervals() if processes.is_main else {})
        hooks.renew_cards(results)
    display.say(results_table(results, setup.run.tasks, output), "quiet")
    for line in unlearned(results, setup.run):
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
    checkpoint, damaged = load_newest(output / CHECKPOINTS_DIR) if resume else (None, [])
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


def _log(setup: RunSetup, output: Path, state: TrainState) -> Log:
    """The log of this process; trackers are not started if nothing is left to train."""
    if not setup.processes.is_main:
        return Log()
    config, trackers = setup.run.config, None
    with contextlib.ExitStack() as failed:
        if config.telemetry.trackers and not state.is_done(setup.plan.steps, config.evaluation.patience):
            trackers = Trackers(setup.accelerator, setup.run, output, resumed=state.step > 0)
            failed.callback(trackers.finish)
        log = RunLog(output, state.log_position, state.step, trackers)
        failed.pop_all()
    return log
