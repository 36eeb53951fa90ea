"""Runs a study: each run in its own process; finished runs are kept, interrupted ones resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from mtl.errors import Interrupted, counted
from mtl.files import locked, storing
from mtl.ledger import Ledger, Record, failure, run_arguments
from mtl.outcomes import cells_of, gather_outcomes, outcome_key, read_outcomes, selected
from mtl.stop import handling
from mtl.study import Cell, Study, StudyRun, read_study
from mtl.summary import store_summary, summary_text

Say = Callable[[str], None]
POLL = 0.1  # seconds
WARNINGS = 10  # maximum number of the runs' warnings that are printed


def compare(
    path: Path,
    *,
    output: Path | None = None,
    jobs: int = 1,
    data_root: str | None = None,
    arms: Sequence[str] = (),
    summary: Path | None = None,
    summary_only: bool = False,
    say: Say = print,
) -> bool:
    """Runs the unfinished cells of a study, then writes and prints its summary.

    Args:
        path: The study file.
        output: Directory of the study; by default `runs/STUDY`, where STUDY is the file's name without suffix.
        jobs: Number of concurrent runs; the machine's threads are divided among them.
        data_root: Local mirror of the hub; overrides that of the file.
        arms: Arms to run now; all by default.
        summary: A file to which the summary is also written. Cells whose outcome it already contains count as
            finished, wherever they ran.
        summary_only: Whether to only write the summary, without running anything.
        say: Prints a line of text.

    Returns:
        Whether all requested cells are finished; always true with `summary_only`.

    Raises:
        UserError: The study file is invalid, or the directory holds something else.
        Interrupted: A signal was received; unfinished runs wrote a checkpoint, and the summary has the finished cells.
    """
    study = read_study(path, data_root)
    wanted = cells_of(study, arms)
    earlier = read_outcomes(summary, study) if summary else {}
    unfinished = [cell for cell in study.cells if outcome_key(cell) not in earlier]
    folder = output or Path("runs") / study.name
    with locked(folder):
        ledger = Ledger(folder.resolve())
        ledger.begin(path)
        failures: dict[str, str] = {}
        try:
            if not summary_only:
                failures = _Scheduler(study, unfinished, arms, ledger, jobs, say).run()
        finally:
            outcomes = gather_outcomes(study, ledger, earlier)
            say(summary_text(store_summary(study, outcomes, folder, summary), folder))
    warnings = ledger.warnings(study.nodes)
    for line, number in warnings.most_common(WARNINGS):
        say(f"warning: in {counted(number, 'run')}: {line}")
    if len(warnings) > WARNINGS:
        say(f"warning: {len(warnings) - WARNINGS:,} more in the logs in {folder / 'runs'}")
    if uncounted := earlier.keys() - {outcome_key(cell) for cell in study.cells}:
        say(f"note: {counted(len(uncounted), 'outcome')} of other cells in {summary}: not counted, not removed")
    if strangers := ledger.strangers(study.nodes):
        runs = counted(len(strangers), "run")
        say(f"note: {runs} of earlier versions of the study in {folder / 'runs'}: not counted, not removed")
    for name, message in failures.items():
        say(f"failed: {name}: {message}")
    return summary_only or all(outcome_key(cell) in outcomes for cell in wanted)


@dataclass
class _Job:
    """A run in progress.

    Attributes:
        node: The run.
        process: Its process.
        log: The open log file that receives its output.
        logged: Size of the log in bytes when the process was started.
        started: Time of the start, `time.monotonic()`.
        before: Seconds that earlier executions of the run took.
    """

    node: StudyRun
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    logged: int
    started: float
    before: float


class _Scheduler:
    """Starts the runs of unfinished cells, each as soon as the run that it starts from is finished, `jobs` at a time.

    Args:
        study: The study.
        unfinished: Cells whose outcome is not in an earlier summary file.
        arms: Arms to run now; all if empty.
        ledger: The ledger of the study's directory.
        jobs: Maximum number of concurrent runs.
        say: Prints a line of text.
    """

    def __init__(
        self, study: Study, unfinished: Sequence[Cell], arms: Sequence[str], ledger: Ledger, jobs: int, say: Say
    ) -> None:
        self.study, self.unfinished, self.ledger, self.limit, self.say = study, unfinished, ledger, jobs, say
        self.left = [cell for cell in unfinished if not arms or cell.arm in arms]
        self.failures: dict[str, str] = {}
        self.jobs: list[_Job] = []
        self.cells: dict[str, Cell] = {}
        for cell in study.cells:
            self.cells.setdefault(cell.node.fingerprint, cell)
        self.finished = {node.fingerprint for node in study.nodes if ledger.results(node) is not None}
        self.waiting = self._needed()
        self.total, self.ended = len(self.waiting), 0
        self.received: int | None = None

    def _needed(self) -> list[StudyRun]:
        return list({node.fingerprint: node for cell in self.left for node in self.ledger.to_do(cell.node)}.values())

    def _is_ready(self, node: StudyRun) -> bool:
        return node.fingerprint in self.finished and self.ledger.has_model(node)

    def run(self) -> dict[str, str]:
        """Runs everything; returns run name → error message of the failed runs."""
        self.say(f"{self.total:,} of {counted(len(self.study.nodes), 'run')} to do")
        self.finished -= {node.fingerprint for node in self.waiting}
        with handling(self._forward, signal.SIGINT, signal.SIGTERM), self._ended():
            while self.jobs or (self.waiting and self.received is None):
                while len(self.jobs) < self.limit and self.received is None and (node := self._next()) is not None:
                    self._start(node)
                for job in [job for job in self.jobs if job.process.poll() is not None]:
                    self.jobs.remove(job)
                    self._end(job)
                if self.jobs:
                    time.sleep(POLL)
        if self.received is not None:
            number = self.received
            raise Interrupted(number, f"stopped by signal {number}; the same command continues the study")
        return self.failures

    def _next(self) -> StudyRun | None:
        """The first waiting run that can start, or None; runs whose preceding run failed are marked as failed."""
        for node in list(self.waiting):
            parent = node.parent
            if parent is None or self._is_ready(parent):
                self.waiting.remove(node)
                return node
            if parent.name in self.failures:
                self.waiting.remove(node)
                self._fail(node, f"starts from {parent.name}, which failed")
        return None

    def _start(self, node: StudyRun) -> None:
        resume = self.ledger.start(node)
        folder = self.ledger.run_dir(node)
        parent = self.ledger.run_dir(node.parent) if node.parent else None
        words = run_arguments(node, folder, parent, resume=resume)
        record = self.ledger.record(node)
        threads = str(max(1, _threads() // self.limit))
        # The run gets its own session: Ctrl-C reaches only this process, which forwards it.
        with storing(self.ledger.log(node)):
            log = self.ledger.log(node).open("ab")
        logged = log.tell()
        process = subprocess.Popen(
            [sys.executable, "-m", "mtl", *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=os.environ | {"OMP_NUM_THREADS": threads, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,
        )
        self.jobs.append(_Job(node, process, log, logged, time.monotonic(), record.seconds if record else 0.0))
        if self.received is not None:  # the signal arrived during the start
            process.send_signal(self.received)

    def _end(self, job: _Job) -> None:
        job.log.close()
        node, status = job.node, job.process.returncode
        seconds = job.before + time.monotonic() - job.started
        record = Record(fingerprint=node.fingerprint, seconds=seconds, finished=status == 0)
        if status == 0:
            self.ledger.store(node, record)
            self.finished.add(node.fingerprint)
            self.ended += 1
            self.say(f"[{self.ended}/{self.total}] {node.label}{self._score(node)}  {seconds:.0f} s")
            self._drop()
        elif self.received is not None:
            self.ledger.store(node, record)
        else:
            message = failure(self.ledger.log(node), status, job.logged)
            self.ledger.store(node, record.model_copy(update={"message": message}))
            self._fail(node, message)

    def _fail(self, node: StudyRun, message: str) -> None:
        self.ended += 1
        self.failures[node.name] = message
        self.say(f"[{self.ended}/{self.total}] {node.label}  FAILED: {message}")

    def _score(self, node: StudyRun) -> str:
        cell, results = self.cells.get(node.fingerprint), self.ledger.results(node)
        if cell is None or results is None:
            return ""
        metric = self.study.tasks[cell.task].metrics[0]
        return f"  {metric} {selected(self.study, cell, results)[metric]:.4f}"

    def _drop(self) -> None:
        """Deletes the weights of finished runs from which no unfinished cell of any arm starts."""
        open_nodes = (node for cell in self.unfinished for node in cell.node.chain())
        awaited = {n.parent.fingerprint for n in open_nodes if n.parent and n.fingerprint not in self.finished}
        for node in self.study.nodes:
            if node.fingerprint in self.finished and node.fingerprint not in awaited:
                self.ledger.drop_weights(node, self.study.config.keep)

    @contextmanager
    def _ended(self) -> Iterator[None]:
        """Terminates the remaining runs, which write a checkpoint, if the study itself fails."""
        try:
            yield
        finally:
            for job in self.jobs:
                job.process.terminate()
            for job in self.jobs:
                job.process.wait()
                job.log.close()

    def _forward(self, number: int, frame: Any) -> None:
        """Forwards a signal to the runs, which write a checkpoint; a second one stops them at once."""
        self.received = number
        for job in self.jobs:
            with suppress(ProcessLookupError):
                job.process.send_signal(number)


def _threads() -> int:
    """Number of threads that this process may use: `OMP_NUM_THREADS`, or else the available cores."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(said) if said.isdigit() and int(said) > 0 else cores
