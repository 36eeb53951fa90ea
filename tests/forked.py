"""Programs in processes of their own, forked where the libraries are imported already: seconds less for each.

`python forked.py WORDS` runs the command line once; without words it serves orders of `Forked`, a JSON line each.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

SCRIPT = Path(__file__).resolve()
ROOT = SCRIPT.parent.parent
POLL = 0.02  # seconds


class Forked:
    """As much of a `subprocess.Popen` as tests need: with pipes, or with a log.

    Args:
        words: What follows `python -m MODULE`.
        env: All of its environment.
        module: What to run.
        log: Gets what it prints, at its end.
    """

    def __init__(
        self, words: Sequence[str], env: Mapping[str, str], module: str = "mtl", log: Path | None = None
    ) -> None:
        self.returncode: int | None = None
        self._folder = Path(tempfile.mkdtemp())
        self._said: tuple[str, str] | None = None
        files = [str(log or self._folder / name) for name in ("out", "error")]
        self.pid: int = _asked({"module": module, "words": list(words), "env": dict(env), "files": files})

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = _asked({"pid": self.pid})
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its status, once it has ended."""
        until = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if timeout is not None and until is not None and time.monotonic() > until:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            time.sleep(POLL)
        assert self.returncode is not None
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """All of stdout and stderr that is not in a log, once it has ended."""
        self.wait(timeout)
        if self._said is None:
            files = (self._folder / "out", self._folder / "error")
            out, error = (file.read_text() if file.exists() else "" for file in files)
            self._said = out, error
            shutil.rmtree(self._folder)
        return self._said

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@cache
def _server() -> subprocess.Popen[str]:
    """The process that forks; it ends with this one, whose end of the pipe it reads."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, str(SCRIPT)], env=env, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)


def _asked(order: Mapping[str, Any]) -> Any:
    server = _server()
    assert server.stdin and server.stdout
    print(json.dumps(order), file=server.stdin, flush=True)
    return json.loads(server.stdout.readline())


def _serve() -> tuple[str, list[str]]:
    """Answers orders until there are no more; in a process that it forks, returns module and words."""
    for line in sys.stdin:
        order = json.loads(line)
        if "pid" in order:
            pid, status = os.waitpid(order["pid"], os.WNOHANG)
            print(os.waitstatus_to_exitcode(status) if pid else "null", flush=True)
        elif pid := os.fork():
            print(pid, flush=True)
        else:
            _become(order["env"], order["files"])
            return order["module"], order["words"]
    os._exit(0)  # nothing has been run here


def _import_libraries() -> None:
    """All that a run needs but our own modules: they read the environment as they are imported."""
    # The first two import much as it is asked for.
    from torch.utils import tensorboard  # noqa: F401
    from transformers import AutoModel, AutoTokenizer, BertModel, BertTokenizerFast  # noqa: F401

    from mtl import phases  # noqa: F401

    for name in [name for name in sys.modules if name.partition(".")[0] == "mtl"]:
        del sys.modules[name]


def _become(env: Mapping[str, str], files: Sequence[str]) -> None:
    os.environ.clear()
    os.environ.update(env)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, file in enumerate(files, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)


def _look_for_threads() -> None:
    """A thread of a group that outlives it may abort the process when the interpreter ends; whether it does is luck."""
    left: list[str] = []
    for wait in (0, 0.1, 1, 5):  # a thread that has ended may be seen a little longer
        time.sleep(wait)
        names = []
        for file in Path("/proc/self/task").glob("*/comm"):
            with contextlib.suppress(OSError):  # it ends at this moment
                names.append(file.read_text().strip())
        left = [name for name in names if "gloo" in name]
        if not left:
            return
    print("threads are left:", *left, file=sys.stderr, flush=True)
    os._exit(9)


def _main(words: Sequence[str]) -> NoReturn:
    """Double precision where $DOUBLE is set; under FSDP it fails where a process holds whole weights."""
    if sys.platform == "linux":
        atexit.register(_look_for_threads)  # the first to be registered is the last to be called
    module = "mtl"
    if not words:
        _import_libraries()
        module, words = _serve()
    if module != "mtl":
        sys.argv = [module, *words]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        sys.exit()
    from mtl import cli, run_setup

    make_model, shard, shares = run_setup.make_model, run_setup.shard, list[float]()
    if "DOUBLE" in os.environ:
        run_setup.make_model = lambda *words: make_model(*words).double()

    def shard_and_look(model: Any) -> None:
        shard(model)
        whole = sum(p.numel() for p in model.parameters())
        shares.append(sum(p.to_local().numel() for p in model.parameters()) / whole)

    run_setup.shard = shard_and_look
    status = cli.main(words)
    if status == 0 and os.environ.get("ACCELERATE_USE_FSDP") == "true":
        assert len(shares) == 2 and max(shares) < 0.6, shares
    sys.exit(status)


if __name__ == "__main__":
    _main(sys.argv[1:])
