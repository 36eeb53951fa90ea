"""Tokenised rows in memory-mapped Arrow files, prepared once and cached by fingerprint.

Legend: N examples, V tokens of one example.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tqdm import tqdm

from mtl.checks import Row, RowChecker
from mtl.errors import UserError
from mtl.files import cache_directory, caching, sync
from mtl.source import Source
from mtl.taskdef import TaskDef
from mtl.tokenizer import TYPES, tokenizer_fingerprint

Ints = npt.NDArray[np.int64]

FORMAT = 6  # increment when the reading of rows or the layout of prepared files changes
CHUNK = 1000  # rows per record batch
ABANDONED = 24 * 60 * 60.0  # seconds without a write after which an unfinished preparation counts as abandoned
FEW = 20_000  # below this many rows, tokenising takes less time than starting worker processes

SCHEMA = pa.schema(
    {
        "input_ids": pa.list_(pa.int32()),
        "token_type_ids": pa.list_(pa.int8()),
        "label": pa.float64(),
        "group": pa.int64(),
        "row": pa.int64(),
        "truncated": pa.bool_(),
    }
)


@dataclass(frozen=True)
class Examples:
    """One split of one task, ready for batching; token arrays stay on disk until they are read.

    Attributes:
        table: The memory-mapped rows.
        index: Position of each example in the table, (N,).
        lengths: Tokens of each example, (N,).
        labels: Class index, value or relevance, (N,); NaN where unlabelled.
        groups: Query number of each example, (N,); −1 outside ranking.
        rows: Position of each example in the source, from 0, (N,).
        fingerprint: Digest of data, tokenizer and settings.
        unlabelled: Number of source rows left out because they have no label.
        truncated: Whether each example was truncated to the length limit, (N,).
        dropped: Number of training examples removed because they also occur in evaluation data.
        label_scale: Divisor of a regression's labels and outputs in training; see `scale`.
    """

    table: pa.Table
    index: Ints
    lengths: Ints
    labels: npt.NDArray[np.float64]
    groups: Ints
    rows: Ints
    fingerprint: str
    unlabelled: int
    truncated: npt.NDArray[np.bool_]
    dropped: int = 0
    label_scale: float = 1.0

    def __len__(self) -> int:
        return len(self.index)

    def tokens(self, column: str, example: int) -> npt.NDArray[Any]:
        """Token ids (or token types) of one example, (V,), as a view of the mapped file."""
        chunk, offset = divmod(int(self.index[example]), CHUNK)
        offsets, values = self._views[column][chunk]
        return values[offsets[offset] : offsets[offset + 1]]

    @cached_property
    def largest_id(self) -> int:
        """The largest token id of the table."""
        return max((int(values.max()) for _, values in self._views["input_ids"] if len(values)), default=0)

    @cached_property
    def _views(self) -> dict[str, list[tuple[npt.NDArray[Any], npt.NDArray[Any]]]]:
        """Offsets and values of each record batch by column, cached: an Arrow view per row costs more than its copy."""
        return {
            column: [(part.offsets.to_numpy(), part.values.to_numpy()) for part in self.table.column(column).chunks]
            for column in ("input_ids", "token_type_ids")
        }

    @property
    def has_token_types(self) -> bool:
        return len(self) > 0 and len(self.tokens("token_type_ids", 0)) > 0

    def select(self, chosen: Ints) -> Examples:
        """The chosen examples, in the order given."""
        arrays = {
            name: getattr(self, name)[chosen] for name in ("index", "lengths", "labels", "groups", "rows", "truncated")
        }
        return replace(self, **arrays)


def prepare(
    name: str,
    task: TaskDef,
    source: Source,
    tokenizer: Any,
    max_length: int,
    *,
    labelled: bool = True,
    num_proc: int = 1,
    rows: int | None = None,
    bar: bool = True,
) -> Examples:
    """Tokenise a split, or load it from the cache. Rows for prediction are not cached.

    Args:
        name: The task's name, for messages.
        task: Its definition.
        source: The source of the rows.
        tokenizer: The encoder's tokenizer.
        max_length: Maximum tokens of one input; longer pairs lose tokens from the longer text first.
        labelled: Whether rows have labels; False for prediction.
        num_proc: Worker processes; with 1, the tokenizer's own threads are used. The result is the same.
        rows: Number of rows, if known, for the progress bar; with fewer than `FEW`, no worker processes are started.
        bar: Whether to show a progress bar if stderr is a terminal.

    Returns:
        The examples, in source order.

    Raises:
        UserError: `checks.RowChecker` found invalid rows, which are all reported together.
    """
    few = rows is not None and rows < FEW
    checker = RowChecker(name, task, labelled=labelled)
    tokenisers = _tokenisers(tokenizer, max_length, 1 if few else num_proc)
    if not labelled:
        return _used_once(_shown(checker, source, rows, bar), checker, tokenisers)
    key = {
        "format": FORMAT,
        "source": source.fingerprint(),
        "encoding": source.encoding,
        "suffix": source.path.suffix if source.path else None,  # quotes are read differently in CSV and TSV
        "columns": task.data.columns.model_dump(),
        "unlabelled": sorted(map(repr, task.data.unlabelled)),
        "type": task.type,
        "labels": task.labels,
        "labelled": True,
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "max_length": max_length,
    }
    fingerprint = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    folder = cache_directory() / "prepared" / fingerprint
    with caching(folder, "read"):
        known = folder.is_dir()
    if not known:
        with caching(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
        with tokenisers as tokenise:
            _build(folder, _shown(checker, source, rows, bar), checker, tokenise)
    with caching(folder, "read"):
        return _open(folder, fingerprint)


Chunk = tuple[list[Row], list[int]]  # rows, and the number of each row's query
Tokenise = Callable[[Iterator[Chunk]], Iterator[pa.RecordBatch]]


@contextlib.contextmanager
def _tokenisers(tokenizer: Any, max_length: int, num_proc: int) -> Iterator[Tokenise]:
    """Yield a function that turns chunks into record batches, in order, while the caller reads and writes others."""
    pool: Executor
    work: Callable[[Chunk], pa.RecordBatch]
    if num_proc == 1:
        pool, work = ThreadPoolExecutor(1), partial(_tokenise, tokenizer, max_length)
    else:
        start = (_start_worker, (tokenizer, max_length))
        # Spawn, because forking a process with threads, as tokenizers and torch create them, may hang.
        pool = ProcessPoolExecutor(num_proc, multiprocessing.get_context("spawn"), *start)
        work = _tokenise_in_worker

    def tokenise(chunks: Iterator[Chunk]) -> Iterator[pa.RecordBatch]:
        waiting: deque[Future[pa.RecordBatch]] = deque()
        for chunk in chunks:
            waiting.append(pool.submit(work, chunk))
            if len(waiting) > 2 * num_proc:  # bounded, so that memory does not grow with the rows
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    try:
        yield tokenise
    finally:
        pool.shutdown(cancel_futures=True)


_worker: Callable[[Chunk], pa.RecordBatch]


def _start_worker(tokenizer: Any, max_length: int) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and stops its workers
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one core per worker
    _worker = partial(_tokenise, tokenizer, max_length)


def _tokenise_in_worker(chunk: Chunk) -> pa.RecordBatch:
    return _worker(chunk)


def _shown(checker: RowChecker, source: Source, total: int | None, bar: bool) -> Iterator[Row]:
    """Checked rows, with a progress bar if `bar` is set and stderr is a terminal."""
    options: dict[str, Any] = {"desc": f"preparing {checker.name}", "total": total, "unit": " rows", "leave": False}
    yield from tqdm(checker.read(source), file=sys.stderr, disable=None if bar else True, **options)


def _used_once(rows: Iterator[Row], checker: RowChecker, tokenisers: AbstractContextManager[Tokenise]) -> Examples:
    """Tokenise a split into a mapped temporary file that is unlinked at once; its fingerprint is empty."""
    folder = cache_directory()
    with caching(folder), tokenisers as tokenise:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder)
        with tempfile.TemporaryDirectory(prefix=".building-", dir=folder) as temporary:
            _write(Path(temporary), rows, checker, tokenise)
            return _open(Path(temporary), "")


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left, if nothing was written to it for a day."""
    for temporary in folder.glob(".building-*"):
        with contextlib.suppress(OSError):  # another process may have removed it
            if time.time() - max(path.stat().st_mtime for path in (temporary, *temporary.rglob("*"))) > ABANDONED:
                shutil.rmtree(temporary, ignore_errors=True)


def _build(folder: Path, rows: Iterator[Row], checker: RowChecker, tokenise: Tokenise) -> None:
    """Write a prepared split under a temporary name and rename it, so that the final name only holds complete ones."""
    with caching(folder):
        _remove_leftovers(folder.parent)
        temporary = Path(tempfile.mkdtemp(prefix=".building-", dir=folder.parent))
        new = temporary / folder.name  # mkdir applies the user's umask, as the cache may be shared
        try:
            new.mkdir()
            _write(new, rows, checker, tokenise)
            for path in new.iterdir():
                sync(path)  # otherwise a system crash could leave the name without the content
            try:
                new.rename(folder)
            except OSError:
                if not folder.is_dir():  # another process was faster, with the same result
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _write(folder: Path, rows: Iterator[Row], checker: RowChecker, tokenise: Tokenise) -> None:
    with pa.OSFile(str(folder / "examples.arrow"), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        for batch in tokenise(_chunks(rows)):
            writer.write_batch(batch)
    if checker.findings.faults:
        raise UserError(checker.findings.problems())
    assert writer.stats.num_record_batches == -(-(checker.rows - checker.unlabelled) // CHUNK), "rows went missing"
    (folder / "info.json").write_text(json.dumps({"rows": checker.rows, "unlabelled": checker.unlabelled}))


def _chunks(rows: Iterator[Row]) -> Iterator[Chunk]:
    numbers: dict[str, int] = {}
    while chunk := list(itertools.islice(rows, CHUNK)):
        yield chunk, [-1 if row.group is None else numbers.setdefault(row.group, len(numbers)) for row in chunk]


_one_at_a_time = threading.Lock()  # truncation is mutable state of the tokenizer, which threads may share


def _tokenise(tokenizer: Any, max_length: int, chunk: Chunk) -> pa.RecordBatch:
    """Tokenise a chunk without truncation, to know which rows exceed the limit, and those again with truncation."""
    rows, groups = chunk
    ids, types = _encode(rows, tokenizer, None)
    long = [position for position, tokens in enumerate(ids) if len(tokens) > max_length]
    if long:
        short_ids, short_types = _encode([rows[position] for position in long], tokenizer, max_length)
        for position, new_ids, new_types in zip(long, short_ids, short_types, strict=True):
            ids[position], types[position] = new_ids, new_types
    truncated = np.zeros(len(rows), dtype=bool)
    truncated[long] = True
    columns = {
        "input_ids": ids,
        "token_type_ids": types,
        "label": [np.nan if row.label is None else float(row.label) for row in rows],
        "group": groups,
        "row": [row.position for row in rows],
        "truncated": truncated,
    }
    return pa.record_batch(columns, schema=SCHEMA)


def _encode(rows: Sequence[Row], tokenizer: Any, max_length: int | None) -> tuple[list[list[int]], list[list[int]]]:
    pairs = [row.text_b for row in rows] if rows[0].text_b is not None else None
    with _one_at_a_time:
        encoded = tokenizer(
            [row.text_a for row in rows],
            pairs,
            truncation="longest_first" if max_length else False,
            max_length=max_length,
            return_attention_mask=False,
            verbose=False,
        )
    ids = encoded["input_ids"]
    types = encoded.get(TYPES) if TYPES in tokenizer.model_input_names else None
    for position, tokens in enumerate(ids):
        if not tokens:  # an empty text without special tokens; the encoder needs at least one token
            ids[position] = [_stand_in(tokenizer)]
            if types:
                types[position] = [0]
    return ids, types or [[] for _ in rows]


def _stand_in(tokenizer: Any) -> int:
    found = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    return int(next(token for token in found if token is not None))


def _open(folder: Path, fingerprint: str) -> Examples:
    with pa.memory_map(str(folder / "examples.arrow")) as source:
        table = pa.ipc.open_file(source).read_all()
    return _examples(table, fingerprint, json.loads((folder / "info.json").read_text())["unlabelled"])


def _examples(table: pa.Table, fingerprint: str, unlabelled: int) -> Examples:
    lengths = [np.diff(chunk.offsets.to_numpy()) for chunk in table.column("input_ids").chunks]
    return Examples(
        table=table,
        index=np.arange(len(table)),
        lengths=np.concatenate([*lengths, np.empty(0)]).astype(np.int64),
        labels=table.column("label").to_numpy(),
        groups=table.column("group").to_numpy(),
        rows=table.column("row").to_numpy(),
        fingerprint=fingerprint,
        unlabelled=unlabelled,
        truncated=table.column("truncated").to_numpy(),
    )


def encode(rows: Iterable[Row], tokenizer: Any, max_length: int) -> Examples:
    """Tokenise rows in memory, without the cache; see `prepare`."""
    batches = [_tokenise(tokenizer, max_length, chunk) for chunk in _chunks(iter(rows))]
    return _examples(pa.Table.from_batches(batches, SCHEMA), "", 0)
