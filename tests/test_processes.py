"""Several processes of one run: the same result as one, whatever happens to them."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch
from accelerate.utils import parse_flag_from_env
from conftest import ROOT
from forked import SCRIPT, Forked
from safetensors.torch import load_file
from torch.torch_version import TorchVersion

from mtl import shards
from mtl.errors import UserError
from mtl.launch import UNSUPPORTED, launcher_warnings
from mtl.precision import best_device
from mtl.processes import make_accelerator

LIMIT = 600.0  # seconds after which a run counts as hanging
SHUTDOWN = 300.0  # seconds in which all processes have to end when one has
STEPS = 30
NOTHING: Mapping[str, str] = {}
# What `accelerate launch --use_fsdp --fsdp_version 2` says to each process.
FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}
SHARDS = pytest.mark.skipif(torch.__version__ < shards.NEEDED, reason="this PyTorch has no FSDP2 on CPUs")
# About once in thousands of steps of FSDP on gloo, one of PyTorch 2.13's own threads ("pt_gloo_runloop") finds the heap
# broken, and the process dies of SIGABRT or SIGSEGV. A test that saw one die so is tried once more; no other is.
MAY_DIE = pytest.mark.flaky(reruns=1, only_rerun=r"process \d+: -(6|11)\n")
Process: TypeAlias = "subprocess.Popen[str] | Forked"


@pytest.fixture(scope="module")
def still_encoder(encoder_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny encoder without dropout, whose masks depend on the number of processes."""
    folder = shutil.copytree(encoder_dir, tmp_path_factory.mktemp("still") / "encoder")
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


@contextmanager
def started(
    commands: Sequence[Sequence[str]], *, double: bool = False, more: Mapping[str, str] = NOTHING
) -> Iterator[list[Process]]:
    """Processes of one run, one for each command; none of them survives.

    What `more` puts on $PYTHONPATH is there when the libraries are imported: such processes are not forked.
    """
    shared = {"WORLD_SIZE": str(len(commands)), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    base = {**os.environ, **shared, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    base |= {"PYTHONFAULTHANDLER": "1", **({"DOUBLE": "1"} if double else {}), **more}

    def start(words: Sequence[str], env: Mapping[str, str]) -> Process:
        if "PYTHONPATH" not in more:
            return Forked(words, env)
        command, pipe = [sys.executable, str(SCRIPT), *words], subprocess.PIPE
        return subprocess.Popen(command, env=env, stdout=pipe, stderr=pipe, text=True, cwd=ROOT)

    processes: list[Process] = []
    try:
        for rank, words in enumerate(commands):
            mine = {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(len(commands))}
            processes.append(start(words, base | mine))
        yield processes
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.communicate()


def ended(processes: Sequence[Process], limit: float = LIMIT) -> list[tuple[int, str, str]]:
    """Status, stdout and stderr of each, once all have ended."""
    until = time.monotonic() + limit
    found = []
    for process in processes:
        out, error = process.communicate(timeout=max(0.1, until - time.monotonic()))
        assert process.returncode is not None
        found.append((process.returncode, out, error))
    return found


def run(
    count: int, words: Sequence[str], *, double: bool = False, more: Mapping[str, str] = NOTHING
) -> list[tuple[int, str, str]]:
    """A run of so many processes, which has to succeed."""
    with started([words] * count, double=double, more=more) as processes:
        found = ended(processes)
    said = "\n".join(f"process {rank}: {status}\n{out}{error}" for rank, (status, out, error) in enumerate(found))
    assert all(status == 0 for status, _, _ in found), said
    return found


def train_words(corpus: Path, encoder: Path, output: Path, *more: str, rate: str = "1e-3") -> list[str]:
    settings = [
        "defaults.dropout=0", "evaluation.every=20", "checkpoint.every=10", "checkpoint.keep_last=9", "leaks=ignore",
        "defaults.smart.epsilon=0.02", "defaults.smart.noise_std=0.01", "defaults.smart.step_size=1e-3",
        "defaults.smart.unit=absolute", "defaults.proximal.beta_early=0.9", "defaults.proximal.beta_late=0.999",
    ]  # fmt: skip
    return [
        "train", str(corpus), "--encoder", str(encoder), "--output", str(output), "--batch-size", "7",
        "--learning-rate", rate, "--max-steps", str(STEPS), *(w for s in settings for w in ("--set", s)), *more,
    ]  # fmt: skip


def weights(output: Path, step: int = STEPS) -> dict[str, torch.Tensor]:
    folder = output / "checkpoints" / f"step-{step:07d}"
    return {
        f"{part}.{name}": tensor
        for part in ("model", "teacher")
        for name, tensor in load_file(folder / f"{part}.safetensors").items()
    }


def distance(one: Path, other: Path, step: int = STEPS) -> float:
    """‖θ − θ'‖ / ‖θ‖ of students and teachers after the last step.

    The bias of a listwise ranking has no gradient but rounding, which Adam makes a step of: it is left out.
    """
    a, b, start = weights(one, step), weights(other, step), weights(one, 10)
    assert a.keys() == b.keys()
    names = [name for name in a if not name.endswith("heads.answer.classifier.bias")]

    def norm(values: Iterable[torch.Tensor]) -> float:
        return math.sqrt(sum(float(value.square().sum()) for value in values))

    length = norm(a[name].double() for name in names)
    assert norm(a[name].double() - start[name].double() for name in names) > 1e-4 * length, "nothing was learned"
    return norm(a[name].double() - b[name].double() for name in names) / length


def losses(output: Path) -> list[tuple[int, str, float]]:
    events = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [(event["step"], event["task"], event["loss"]) for event in events if event["event"] == "step"]


MIXED = ("--set", "train.tasks_per_step=2", "--set", "train.loss_scaling=log_classes")


@pytest.mark.parametrize(
    ("double", "more", "tolerance"),
    [(True, (), 1e-12), (True, MIXED, 1e-12), (False, (), 1e-6)],
    ids=["float64", "float64-mixed", "float32"],
)
def test_the_result_does_not_depend_on_the_number_of_processes(
    corpus: Path, still_encoder: Path, tmp_path: Path, double: bool, more: tuple[str, ...], tolerance: float
) -> None:
    ways = {"one": (1, ()), "halves": (1, ("--set", "train.accumulation=2")), "two": (2, ())}
    for name, (count, settings) in ways.items():
        # Adam turns small gradients into steps of the learning rate, their rounding too: in float32 the usual one.
        rate = "1e-3" if double else "5e-5"
        words = train_words(corpus, still_encoder, tmp_path / name, *more, *settings, rate=rate)
        said = run(count, words, double=double)
        assert all(out == "" for _, out, _ in said[1:]), "only the main process talks"
    assert distance(tmp_path / "one", tmp_path / "halves") <= tolerance
    assert distance(tmp_path / "one", tmp_path / "two") <= tolerance
    alone, both = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert [row[:2] for row in alone] == [row[:2] for row in both]
    assert [row[2] for row in alone] == pytest.approx([row[2] for row in both], rel=100 * tolerance)
    one, two = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two"))
    assert one["best_steps"] == two["best_steps"]
    for task in ("mood", "strength", "answer"):
        for name in ("one", "two"):
            text = (tmp_path / name / "predictions" / f"{task}.validation.jsonl").read_text()
            rows = [json.loads(line)["row"] for line in text.splitlines()]
            assert rows == list(range(len(rows))) and len(rows) == one["tasks"][task]["validation"]["n"]


def remove_steps_after(output: Path, step: int) -> None:
    """Leaves a run as if it had been killed after a checkpoint."""
    for folder in (output / "checkpoints").iterdir():
        if int(folder.name.removeprefix("step-")) > step:
            shutil.rmtree(folder)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_resume_with_another_number_of_processes(
    corpus: Path, still_encoder: Path, tmp_path: Path, before: int, after: int
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run(1, train_words(corpus, still_encoder, whole), double=True)
    run(before, train_words(corpus, still_encoder, cut), double=True)
    remove_steps_after(cut, 20)
    said = run(after, ["train", "--output", str(cut), "--resume"], double=True)
    assert "resuming after step 20" in said[0][1]
    assert distance(whole, cut) <= 1e-12
    steps = [row[:2] for row in losses(cut)]
    assert steps == [row[:2] for row in losses(whole)] and len(steps) == STEPS


# Twenty steps of what differs most under FSDP: both regularizers, tasks mixed in a step, unequal pieces, checkpointing.
SHARDED = {
    "plain": (),
    "mixed": (*MIXED, "--set", "train.accumulation=3"),
    "others": (
        *("--set", "train.gradient_checkpointing=true", "--set", "optimizer.name=adamax"),
        *("--set", "defaults.smart.steps=2", "--set", "defaults.smart.dropout=independent"),
    ),
}


@SHARDS
@MAY_DIE
@pytest.mark.parametrize(
    "more",
    [pytest.param(m, id=name, marks=() if name == "plain" else pytest.mark.slow) for name, m in SHARDED.items()],
)
def test_shards_give_the_same_weights(corpus: Path, still_encoder: Path, tmp_path: Path, more: tuple[str, ...]) -> None:
    for name, count, launched in (("one", 1, NOTHING), ("shards", 2, FSDP)):
        words = train_words(corpus, still_encoder, tmp_path / name, *more, "--max-steps", "20")
        run(count, words, double=True, more=launched)
    assert distance(tmp_path / "one", tmp_path / "shards", 20) <= 1e-12
    alone, both = losses(tmp_path / "one"), losses(tmp_path / "shards")
    assert [row[:2] for row in alone] == [row[:2] for row in both]
    assert [row[2] for row in alone] == pytest.approx([row[2] for row in both], rel=1e-10)
    one, two = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "shards"))
    assert one["best_steps"] == two["best_steps"]
    assert files(tmp_path / "one") == files(tmp_path / "shards")
    for path in sorted(tmp_path.glob("one/**/*.safetensors")):
        other = load_file(tmp_path / "shards" / path.relative_to(tmp_path / "one"))
        for name, tensor in load_file(path).items():
            if path.name != "random.safetensors":
                assert (tensor.shape, tensor.dtype) == (other[name].shape, other[name].dtype), (path, name)
            if path.parent.name in ("model", "teacher") or path.parent.parent.name == "best":
                torch.testing.assert_close(tensor, other[name], rtol=1e-6, atol=1e-9)


def files(output: Path) -> set[str]:
    """Paths of a run but TensorBoard's, whose names hold times."""
    return {str(path.relative_to(output)) for path in output.rglob("*") if "tensorboard" not in path.parts}


@SHARDS
@MAY_DIE
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((2, FSDP), (1, NOTHING)),
        ((1, NOTHING), (2, FSDP)),
        pytest.param((2, FSDP), (2, NOTHING), marks=pytest.mark.slow),
    ],
)
def test_resume_with_and_without_shards(
    corpus: Path,
    still_encoder: Path,
    tmp_path: Path,
    before: tuple[int, Mapping[str, str]],
    after: tuple[int, Mapping[str, str]],
) -> None:
    whole, cut, steps = tmp_path / "whole", tmp_path / "cut", ("--max-steps", "20")
    run(1, train_words(corpus, still_encoder, whole, *steps), double=True)
    run(before[0], train_words(corpus, still_encoder, cut, *steps), double=True, more=before[1])
    remove_steps_after(cut, 10)
    said = run(after[0], ["train", "--output", str(cut), "--resume"], double=True, more=after[1])
    assert "resuming after step 10" in said[0][1]
    assert distance(whole, cut, 20) <= 1e-12


@SHARDS
@MAY_DIE
@pytest.mark.slow
def test_shards_of_fewer_rows_and_in_half_precision(corpus: Path, still_encoder: Path, tmp_path: Path) -> None:
    rows = ("--batch-size", "1", "--max-steps", "20")
    halves = ("--precision", "bf16", "--set", "defaults.smart.epsilon=0.5", "--set", "defaults.smart.noise_std=0.5")
    for name, count, launched in (("one", 1, NOTHING), ("shards", 3, FSDP)):
        run(count, train_words(corpus, still_encoder, tmp_path / name, *rows), double=True, more=launched)
    assert distance(tmp_path / "one", tmp_path / "shards", 20) <= 1e-12
    for name, launched in (("half", NOTHING), ("half-shards", FSDP)):
        run(
            2,
            train_words(corpus, still_encoder, tmp_path / name, *halves, "--max-steps", "20", rate="5e-5"),
            more=launched,
        )
    assert distance(tmp_path / "half", tmp_path / "half-shards", 20) <= 1e-3


@SHARDS
def test_what_shards_cannot_do_is_told_once(corpus: Path, still_encoder: Path, tmp_path: Path) -> None:
    words = train_words(corpus, still_encoder, tmp_path / "run")
    with started([words] * 2, more={**FSDP, "FSDP_VERSION": "1", "FSDP_OFFLOAD_PARAMS": "true"}) as processes:
        (status, _, error), (_, out, other_error) = ended(processes)
    assert status == 2 and out == other_error == ""
    assert error.splitlines() == [
        "error: --fsdp_version: 1 is not supported; use --fsdp_version 2",
        "error: --fsdp_offload_params: is not supported",
    ]


@pytest.mark.parametrize("variable", sorted(UNSUPPORTED))
def test_options_of_the_launcher_that_would_change_training_are_refused(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "NO" if variable == "ACCELERATE_DYNAMO_BACKEND" else "false")  # as the launcher does
    make_accelerator("fp32")
    monkeypatch.setenv(variable, "INDUCTOR" if variable == "ACCELERATE_DYNAMO_BACKEND" else "true")
    with pytest.raises(UserError, match=f"{UNSUPPORTED[variable][0]}: is not supported: .*{variable} is"):
        make_accelerator("fp32")


def test_the_environment_does_not_scale_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    weight = torch.ones(1, requires_grad=True)
    make_accelerator("fp32").backward(3 * weight.sum())
    assert weight.grad is not None and weight.grad.tolist() == [3]


def test_another_precision_of_the_launcher_is_told(corpus: Path, still_encoder: Path, tmp_path: Path) -> None:
    told = "warning: --mixed_precision bf16 of accelerate launch has no effect, use --precision: this run is fp32"
    words = train_words(corpus, still_encoder, tmp_path / "run", "--max-steps", "1")
    with started([words], more={"ACCELERATE_MIXED_PRECISION": "bf16"}) as processes:
        ((status, out, _),) = ended(processes)
    assert status == 0 and told in out
    assert launcher_warnings("bf16") == []


def test_shards_need_a_new_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARDED", True)
    monkeypatch.setattr(shards, "PROCESSES", 2)
    for version, told in (("2.7.1+cu126", True), ("2.9.1+cpu", True), ("2.10.0", False), ("3.0.0", False)):
        monkeypatch.setattr(torch, "__version__", TorchVersion(version))
        problems = [problem.message for problem in shards.shard_problems("fp32")]
        assert problems == ([f"needs PyTorch 2.10 or newer; this is {version}"] if told else [])


@pytest.mark.parametrize("asked", ["true", "True", "1", "yes", "on", "false", "0", "no", ""])
def test_the_launcher_may_ask_for_the_cpu(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Accelerate reads it, for training and prediction alike."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", asked)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    expected = parse_flag_from_env("ACCELERATE_USE_CPU") if asked else False
    assert (best_device().type == "cpu") is expected


def test_a_precision_that_accelerate_refuses_is_wrong_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """As fp16 on MPS before PyTorch 2.8."""

    def refuse(**_: Any) -> None:
        raise ValueError("Grad Scaler with MPS device requires a Pytorch >= 2.8.0\nmore")

    monkeypatch.setattr("mtl.processes.Accelerator", refuse)
    with pytest.raises(UserError, match=r"--precision.*fp16: Grad Scaler with MPS .* >= 2\.8\.0$"):
        make_accelerator("fp16")
    with pytest.raises(ValueError, match="Grad Scaler"):
        make_accelerator("fp32")


def test_adapt_with_two_processes(corpus: Path, still_encoder: Path, tmp_path: Path) -> None:
    run(2, train_words(corpus, still_encoder, tmp_path / "run", "--max-steps", "20"))
    words = ["adapt", str(tmp_path / "run"), "--task", "mood", "--max-steps", "20", "--set", "checkpoint.every=10"]
    for count, name in ((1, "one"), (2, "two")):
        run(count, [*words, "--output", str(tmp_path / name)])
    ends = [
        load_file(tmp_path / name / "checkpoints" / "step-0000020" / "model.safetensors") for name in ("one", "two")
    ]
    for name, tensor in ends[0].items():
        torch.testing.assert_close(tensor, ends[1][name], rtol=1e-4, atol=1e-6)
    assert (tmp_path / "two" / "best" / "mood" / "model.safetensors").is_file()


def test_fewer_rows_than_processes(corpus: Path, still_encoder: Path, tmp_path: Path) -> None:
    """Batches of one row or query: one process has nothing to do but to take part."""
    more = ("--batch-size", "1")
    for count, name in ((1, "one"), (3, "three")):
        run(count, train_words(corpus, still_encoder, tmp_path / name, *more), double=True)
    assert distance(tmp_path / "one", tmp_path / "three") <= 1e-12


def test_data_that_differs_stops_everyone(corpus: Path, still_encoder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(corpus.parent, tmp_path / "other") / corpus.name
    rows = (other.parent / "mood" / "train.jsonl").read_text().splitlines()
    (other.parent / "mood" / "train.jsonl").write_text("\n".join([*rows[1:], rows[0]]) + "\n")
    commands = [train_words(path, still_encoder, tmp_path / "run") for path in (corpus, other)]
    with started(commands) as processes:
        (status, _, error), (other_status, _, other_error) = ended(processes)
    assert (status, other_status) == (2, 1) and other_error == ""
    assert "data: mood/train is not the same as in process 0 (in process 1)" in error
    assert not (tmp_path / "run").exists()


def test_an_error_of_one_process_is_told_once(corpus: Path, still_encoder: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(corpus.parent, tmp_path / "broken") / corpus.name
    (broken.parent / "mood" / "train.jsonl").write_text('{"text": "a", "mood": "unheard of"}\n')
    for paths, where in (((corpus, broken), " (in process 1)"), ((broken, broken), "")):
        with started([train_words(path, still_encoder, tmp_path / "run") for path in paths]) as processes:
            (status, _, error), (_, out, other_error) = ended(processes)
        assert status == 2 and out == other_error == ""
        assert error.count("unheard of") == 1
        assert error.rstrip().endswith(where) and (where or "in process" not in error)


def test_an_error_of_all_processes_is_told_once(corpus: Path, still_encoder: Path, tmp_path: Path) -> None:
    words = train_words(corpus, still_encoder, tmp_path / "run", "--precision", "bf16")
    erased = ("--set", "defaults.smart.epsilon=1e-7", "--set", "defaults.smart.noise_std=1e-7")
    with started([[*words, *erased]] * 2) as processes:
        (status, _, error), (other_status, _, other_error) = ended(processes)
    assert (status, other_status, other_error) == (2, 1, "")
    assert error.count("bf16 rounds away the perturbation of mood") == 1


def wait_for_step(output: Path, step: int) -> None:
    until = time.monotonic() + LIMIT
    while not (output / "checkpoints" / f"step-{step:07d}").is_dir():
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_dies_ends_the_run(corpus: Path, still_encoder: Path, tmp_path: Path, rank: int) -> None:
    words = train_words(corpus, still_encoder, tmp_path / "run", "--max-steps", "5000")
    with started([words] * 2) as processes:
        wait_for_step(tmp_path / "run", 10)
        processes[rank].kill()
        found = ended(processes, SHUTDOWN)
    assert found[rank][0] == -signal.SIGKILL
    assert found[1 - rank][0] == 1
    assert "another process of the run, or the network, failed (" in found[1 - rank][2]
    assert f"(in process {1 - rank})" in found[1 - rank][2]
    remove_steps_after(tmp_path / "run", 10)
    with started([["train", "--output", str(tmp_path / "run"), "--resume"]] * 2) as processes:
        wait_for_step(tmp_path / "run", 20)
        for process in processes:
            process.send_signal(signal.SIGINT)
        found = ended(processes, SHUTDOWN)
    assert "resuming after step 10" in found[0][1]


def test_a_signal_stops_all_after_the_same_step(corpus: Path, still_encoder: Path, tmp_path: Path) -> None:
    """As a launcher does it: everyone gets the signal, and then gets it again."""
    words = train_words(corpus, still_encoder, tmp_path / "run", "--max-steps", "5000")
    with started([words] * 2) as processes:
        wait_for_step(tmp_path / "run", 10)
        processes[1].send_signal(signal.SIGINT)
        time.sleep(0.05)
        for process in [*processes, *processes]:
            process.send_signal(signal.SIGINT)
        found = ended(processes, SHUTDOWN)
    assert [status for status, _, _ in found] == [130, 130]
    assert "continue with the same launcher and:\n  run_mtl.py train" in found[0][2] and found[1][2] == ""
    newest = max((tmp_path / "run" / "checkpoints").iterdir())
    assert f"after step {int(newest.name.removeprefix('step-')):,}" in found[0][2]


def test_other_commands_are_refused(tmp_path: Path) -> None:
    """Each process would do all of the work, and write the same files."""
    with started([["evaluate", str(tmp_path)]] * 2) as processes:
        found = ended(processes)
    assert [status for status, _, _ in found] == [2, 2]
    assert "runs as one process; only train and adapt share their work" in found[0][2]


@pytest.mark.slow
def test_accelerate_launches(corpus: Path, still_encoder: Path, tmp_path: Path) -> None:
    """The command of the README, with every feature on and dropout too."""
    launcher = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", str(free_port())]
    words = train_words(corpus, still_encoder, tmp_path / "run", "--set", "defaults.dropout=0.1")
    done = subprocess.run(
        [sys.executable, *launcher, str(ROOT / "run_mtl.py"), *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=ROOT, timeout=LIMIT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"{STEPS} steps; an epoch is") == 1
    assert json.loads((tmp_path / "run" / "results.json").read_text())["finished"]
