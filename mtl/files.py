"""Atomic writes to disk, by one process at a time and never through a symbolic link.

Files and directories are written under a temporary name in the same directory, synced, and renamed, so that the final
name always refers to complete content. If writing fails, the previous content is kept and a `StorageError` is raised.
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
    """Return `$MTL_CACHE`, or `mtl` in the user's cache directory; an empty variable counts as unset."""
    if own := os.environ.get("MTL_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mtl"


@contextlib.contextmanager
def caching(path: Path, done: str = "written") -> Iterator[None]:
    """Convert an `OSError` of the block into a `StorageError` that suggests another cache directory.

    Args:
        path: The path in the cache that the block uses.
        done: Past participle of the operation, for the message: "written" or "read".

    Raises:
        StorageError: The path belongs to another user, the disk is full, ….
    """
    try:
        yield
    except OSError as error:
        remedy = "set $MTL_CACHE to another directory for the cache"
        raise StorageError(f"{path} cannot be {done}: {_reason(error)}; {remedy}") from error


@contextlib.contextmanager
def storing(path: Path) -> Iterator[None]:
    """Convert an `OSError` or `SafetensorError` of the block into a `StorageError` about `path`.

    Raises:
        StorageError: The disk is full, a quota is exhausted, the file system is read-only, ….
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise StorageError(f"{path} cannot be written: {_reason(error)}; its previous content is intact") from error


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    number = re.search(r"os error (\d+)", str(error))  # safetensors gives the system's error number in its message
    return os.strerror(int(number.group(1))) if number else first_line(error)


@contextlib.contextmanager
def new_directory(final: Path) -> Iterator[Path]:
    """Yield an empty temporary directory that is renamed to `final`, replacing it, if the block ends without error."""
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
    """Yield a temporary text file that is renamed to `final` if the block ends without error."""
    with _new(final, {"mode": "w", "encoding": "utf-8"}) as file:
        yield file


@contextlib.contextmanager
def new_bytes(final: Path) -> Iterator[IO[bytes]]:
    """Yield a temporary binary file that is renamed to `final` if the block ends without error."""
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
    """Write a small text file atomically."""
    with new_file(path) as file:
        file.write(text)


def digest(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def sync(path: Path) -> None:
    """Flush a file or directory to the disk."""
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
    """Lock a directory against other runs, creating it if necessary.

    The operating system releases the lock however this process ends. A directory created here is removed again if the
    block leaves it empty.

    Raises:
        UserError: Another process holds the lock.
        StorageError: The directory cannot be created or written.
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
            if made and not entries(folder):
                (folder / LOCK_FILE).unlink(missing_ok=True)
                folder.rmdir()
        lock.release()


def entries(folder: Path) -> list[Path]:
    """List the contents of a directory, without the lock file."""
    return [path for path in folder.iterdir() if path.name != LOCK_FILE]


def refuse_links(folder: Path) -> None:
    """Refuse a directory in which a symbolic link could redirect writes elsewhere.

    Raises:
        UserError: The directory contains a symbolic link, at any depth.
    """
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent) / name
            if path.is_symlink():
                raise UserError.of(str(path), "is a symbolic link; a run writes into its own directory only: remove it")


def empty_directory(folder: Path) -> None:
    """Remove the contents of a directory except the lock file; symbolic links are removed, not followed."""
    with storing(folder):
        for path in entries(folder):
            remove(path)


def remove(path: Path) -> None:
    """Remove a file or directory if it exists; of a symbolic link, remove the link and not its target."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def append(file: Any, text: str) -> None:
    """Append to an open file and flush it, so that other programs can follow the file as it grows."""
    with storing(Path(file.name)):
        file.write(text)
        file.flush()
