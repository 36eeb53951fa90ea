"""Writing to the disk: whole or not at all, by one process at a time, and never through a link.

A name stands for a complete file or directory only: everything is written under a temporary name beside it, synced, and
renamed. Whatever goes wrong on the way leaves what stood there before, and is told as a `StorageError`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from mtl.errors import StorageError, UserError, first_line

TEMPORARY = ".writing-"
REPLACED = ".replaced-"
LOCK_FILE = ".lock"


def cache_directory() -> Path:
    """`$MTL_CACHE`, or `mtl` in the user's cache directory; a variable that is empty counts as unset."""
    if own := os.environ.get("MTL_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mtl"


@contextlib.contextmanager
def caching(path: Path, done: str = "written") -> Iterator[None]:
    """Tells what fails inside as a failure to use a path of the cache, which can be kept elsewhere.

    Args:
        path: What is used.
        done: What is done to it.

    Raises:
        StorageError: It is another user's, the disk is full, ….
    """
    try:
        yield
    except OSError as error:
        remedy = "set $MTL_CACHE to another directory for the cache"
        raise StorageError(f"{path} cannot be {done}: {_reason(error)}; {remedy}") from error


@contextlib.contextmanager
def storing(path: Path) -> Iterator[None]:
    """Tells what fails inside as a failure to write a path.

    Raises:
        StorageError: The disk is full, a quota is used up, the place is read-only, ….
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise StorageError(f"{path} cannot be written: {_reason(error)}; what stood there before is intact") from error


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    number = re.search(r"os error (\d+)", str(error))  # safetensors tells the system's error in words
    return os.strerror(int(number.group(1))) if number else first_line(error)


@contextlib.contextmanager
def new_directory(final: Path) -> Iterator[Path]:
    """Yields an empty directory that takes its name, and replaces what had it, when the block ends without error."""
    temporary, old = (final.with_name(prefix + final.name) for prefix in (TEMPORARY, REPLACED))
    with storing(final):
        try:
            if old.exists() and not final.exists():  # a process was killed between the two renames below
                old.rename(final)
            for leftover in (temporary, old):
                remove(leftover)
            temporary.mkdir(parents=True)
            yield temporary
            for path in temporary.rglob("*"):
                sync(path)
            sync(temporary)
            if final.exists():
                final.rename(old)
            try:
                temporary.rename(final)
            except OSError:
                if old.exists():
                    old.rename(final)
                raise
            sync(final.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            if final.exists():
                with contextlib.suppress(OSError):
                    remove(old)


@contextlib.contextmanager
def new_file(final: Path) -> Iterator[IO[str]]:
    """Yields a text file that takes its name when the block ends without error."""
    with _new(final, {"mode": "w", "encoding": "utf-8"}) as file:
        yield file


@contextlib.contextmanager
def new_bytes(final: Path) -> Iterator[IO[bytes]]:
    """The same for a file of bytes."""
    with _new(final, {"mode": "wb"}) as file:
        yield file


@contextlib.contextmanager
def _new(final: Path, how: dict[str, Any]) -> Iterator[Any]:
    temporary = final.with_name(TEMPORARY + final.name)
    with storing(final):
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open(**how) as file:
                yield file
            sync(temporary)
            temporary.replace(final)
        finally:
            temporary.unlink(missing_ok=True)


def write_file(path: Path, text: str) -> None:
    """Writes a small text file."""
    with new_file(path) as file:
        file.write(text)


def digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def sync(path: Path) -> None:
    """Flushes a file or directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot sync directories
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds a directory, made if need be, against other runs; the system lets go of it however this process ends.

    Raises:
        UserError: Another process holds it.
        StorageError: It cannot be made or written.
    """
    if (folder / LOCK_FILE).is_symlink():
        refuse_links(folder)
    with storing(folder):
        made = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK_FILE)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            message = f"another run is writing to {folder}; wait for it, or name another directory"
            raise UserError.of("--output", message) from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if made and not entries(folder):  # nothing came of it
                (folder / LOCK_FILE).unlink(missing_ok=True)
                folder.rmdir()
        lock.release()


def entries(folder: Path) -> list[Path]:
    """What a directory holds, but for the lock."""
    return [path for path in folder.iterdir() if path.name != LOCK_FILE]


def refuse_links(folder: Path) -> None:
    """Refuses a directory that would lead a writer out of it.

    Raises:
        UserError: A symbolic link is in it.
    """
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent) / name
            if path.is_symlink():
                raise UserError.of(str(path), "is a symbolic link; a run writes into its own directory only: remove it")


def empty_directory(folder: Path) -> None:
    """Removes all that a directory holds, but for the lock; links are removed, not followed."""
    with storing(folder):
        for path in entries(folder):
            remove(path)


def remove(path: Path) -> None:
    """Removes a file or directory, if it is there; a link itself, and nothing behind it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def append(file: Any, text: str) -> None:
    """Appends to an open file and hands it to the system, so that it can be followed."""
    with storing(Path(file.name)):
        file.write(text)
        file.flush()
