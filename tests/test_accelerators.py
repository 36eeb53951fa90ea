"""What goes wrong on accelerators alone, as far as it can be tried without one."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from architectures import save_random_encoder
from test_mixed_steps import make_setup
from test_model import TASKS
from test_trainer import arguments

from mtl import precision
from mtl.batch import send
from mtl.cli import main
from mtl.config import OptimizerSettings
from mtl.machine import device_name, processor
from mtl.model import MultiTaskModel, build_model, layers
from mtl.objective import Objective
from mtl.optimizer import make_optimizer
from mtl.probe import Probe

FULL = "CUDA out of memory. Tried to allocate 2.00 GiB"


def no_room(*words: Any, **keys: Any) -> Any:
    raise torch.OutOfMemoryError(FULL)


@pytest.mark.parametrize("name", ["cpu", "cuda", "mps", "xpu"])
def test_copies_are_waited_for_where_the_source_may_be_read_later(name: str) -> None:
    calls: list[bool] = []
    tensor: Any = SimpleNamespace(to=lambda device, non_blocking: calls.append(non_blocking))
    send(tensor, torch.device(name))
    assert calls == [name == "cuda"]


@pytest.mark.parametrize(("device", "fused"), [("cpu", True), ("meta", False)])
def test_kernels_that_may_not_clip_are_not_used(device: str, fused: bool) -> None:
    weight = torch.nn.Parameter(torch.zeros(2, 2, device=device))
    optimizer = make_optimizer({"encoder.weight": weight}, OptimizerSettings(name="adamw"), {})
    assert bool(optimizer.defaults["fused"]) is fused


def test_devices_have_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: f"GPU {device.index}")
    assert device_name(torch.device("cuda", 3)) == "GPU 3"
    assert device_name(torch.device("mps")) == "mps", "PyTorch has no name for it"
    assert device_name(torch.device("cpu")) == processor() != ""


def test_heads_leave_an_accelerators_generator_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_random_encoder("bert", tmp_path)
    seeds: list[int] = []
    monkeypatch.setattr("torch.cuda.manual_seed_all", seeds.append)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    seeds.clear()
    build_model(str(tmp_path), TASKS, seed=1)
    assert seeds == [] and torch.equal(torch.rand(3), expected), "nor do they move the CPU's"


def test_checkpointing_is_refused_where_it_would_draw_other_masks(
    corpus: Path, encoder_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mtl.run_setup.make_accelerator", lambda *words: SimpleNamespace(device=torch.device("mps")))
    words = arguments(corpus, encoder_dir, tmp_path / "run", "--set", "train.gradient_checkpointing=true")
    assert main(words) == 2
    assert "train.gradient_checkpointing: would compute wrong gradients on mps" in capsys.readouterr().err


def test_too_little_memory_is_no_fault_of_the_encoder(
    corpus: Path, encoder_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(MultiTaskModel, "forward", no_room)
    assert main(arguments(corpus, encoder_dir, tmp_path / "run")) == 1
    error = capsys.readouterr().err
    assert FULL in error and "--set train.accumulation=4" in error and "cannot be run on texts" not in error


def test_too_little_memory_is_no_fault_of_the_checkpoint(
    corpus: Path, encoder_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(corpus, encoder_dir, tmp_path / "run", "--no-smart", "--max-steps", "2")) == 0
    monkeypatch.setattr(MultiTaskModel, "load_tensors", no_room)
    assert main(["train", "--output", str(tmp_path / "run"), "--resume"]) == 1
    error = capsys.readouterr().err
    assert FULL in error and "does not fit this run" not in error


def test_models_of_a_run_before_are_gone(
    corpus: Path, encoder_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An accelerator that runs out of memory does not make Python collect what only refers to itself."""
    alive: list[int] = []
    made: list[weakref.ref[Objective]] = []
    real = Objective.__init__

    def counting(self: Objective, *words: Any, **keys: Any) -> None:
        alive.append(sum(reference() is not None for reference in made))
        made.append(weakref.ref(self))
        real(self, *words, **keys)

    monkeypatch.setattr(Objective, "__init__", counting)
    words = ["--precision", "bf16", "--no-smart", "--max-steps", "1", "--tasks", "mood"]
    gc.disable()
    try:
        for name in ("one", "two"):
            assert main(arguments(corpus, encoder_dir, tmp_path / name, *words)) == 0
    finally:
        gc.enable()
    assert alive == [0, 0]


def test_a_probe_needs_no_more_memory_than_checkpointed_training(
    corpus: Path, encoder_dir: Path, tmp_path: Path
) -> None:
    overrides = ["telemetry.gradient_cosine_every=1", "telemetry.probe_rows=16", "defaults.batch_size=8"]
    longest = []
    for checkpointing in ("false", "true"):
        setup = make_setup(corpus, encoder_dir, tmp_path, *overrides, f"train.gradient_checkpointing={checkpointing}")
        probe = Probe(setup.run, setup.objective, setup.streams, setup.pad_id, setup.processes)
        longest.append(max(len(piece) for piece in probe._rows["mood"][1]))
    assert longest == [8, 8 / len(layers(setup.objective.model.encoder))]


@contextmanager
def products(precision: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this processor always multiplies in full")
def test_products_of_fewer_digits_are_asked_like_half_precision(
    corpus: Path, encoder_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = ["--set", "defaults.smart.epsilon=1e-9", "--set", "defaults.smart.noise_std=1e-9", "--max-steps", "1"]
    with products("medium"):
        assert main(arguments(corpus, encoder_dir, tmp_path / "run", *tiny)) == 2
        assert torch.get_float32_matmul_precision() == "medium"
        error = capsys.readouterr().err
        assert "torch.set_float32_matmul_precision('medium') rounds away the perturbation of" in error
        assert main(arguments(corpus, encoder_dir, tmp_path / "run", "--max-steps", "1")) == 0
    assert main(arguments(corpus, encoder_dir, tmp_path / "full", *tiny)) == 0


NEWER = pytest.mark.skipif(
    not hasattr(torch.backends, "fp32_precision"), reason="PyTorch has had these settings since 2.9"
)


@NEWER
@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this processor always multiplies in full")
def test_the_newer_settings_of_products_are_asked_too(
    corpus: Path, encoder_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = ["--set", "defaults.smart.epsilon=1e-9", "--set", "defaults.smart.noise_std=1e-9", "--max-steps", "1"]
    backends: Any = torch.backends
    plain = torch.get_float32_matmul_precision()
    try:
        backends.mkldnn.matmul.fp32_precision = "bf16"
        assert main(arguments(corpus, encoder_dir, tmp_path / "run", *tiny)) == 2
        assert backends.mkldnn.matmul.fp32_precision == "bf16"
        error = capsys.readouterr().err
        assert "torch.backends.mkldnn.matmul.fp32_precision = 'bf16' rounds away the perturbation of" in error
        assert "or use 'ieee' or --no-smart" in error
        backends.mkldnn.matmul.fp32_precision = "none"
        # What a GPU's program may set, which PyTorch then refuses to describe by its older name:
        backends.cuda.matmul.fp32_precision = "tf32"
        with pytest.raises(RuntimeError):
            torch.get_float32_matmul_precision()
        assert main(arguments(corpus, encoder_dir, tmp_path / "run", *tiny)) == 0
    finally:
        backends.mkldnn.matmul.fp32_precision = backends.cuda.matmul.fp32_precision = "none"
    assert torch.get_float32_matmul_precision() == plain


CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_before_pytorch_2_9_the_older_settings_are_changed_and_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    if hasattr(torch.backends, "fp32_precision"):
        monkeypatch.delattr(type(torch.backends), "fp32_precision")
    assert precision._products(CPU) == precision._products(GPU) == {}
    assert precision._fewer_digits(CPU) is None
    assert precision._fewer_digits(GPU) == ("torch.backends.cudnn.allow_tf32 = True", "False"), "of convolutions"
    with products("medium"):
        for device in (CPU, GPU):
            assert precision._fewer_digits(device) == ("torch.set_float32_matmul_precision('medium')", "'highest'")
            with precision._full_products(device):
                assert torch.get_float32_matmul_precision() == "highest" and not torch.backends.cudnn.allow_tf32
                assert precision._fewer_digits(device) is None
            assert torch.get_float32_matmul_precision() == "medium" and torch.backends.cudnn.allow_tf32


GENERAL = """
b = torch.backends
def state():
    settings = b, b.cudnn, b.cuda.matmul, b.cudnn.conv, b.mkldnn, b.mkldnn.matmul, b.mkldnn.conv
    return [setting.fp32_precision for setting in settings]
{program}
before = state()
for device in map(torch.device, ("cpu", "cuda")):
    with precision._full_products(device):
        assert {{s.fp32_precision for s in precision._products(device).values()}} == {{"ieee"}}, state()
    assert state() == before, (device, before, state())
b.fp32_precision = "ieee"
print(b.cuda.matmul.fp32_precision, b.mkldnn.matmul.fp32_precision, b.cudnn.conv.fp32_precision)
"""


EACH = """
import os, sys, torch
from mtl import precision
for text in sys.argv[1:]:
    if not (child := os.fork()):
        exec(text)
        sys.stdout.flush()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, text
"""
AFTERWARDS = {
    "": "ieee ieee tf32",  # PyTorch's own setting of convolutions does not follow
    "b.fp32_precision = 'tf32'": "ieee ieee ieee",
    "b.cudnn.fp32_precision = 'tf32'": "tf32 ieee tf32",
    "b.cuda.matmul.allow_tf32 = True": "tf32 ieee tf32",
    "torch.set_float32_matmul_precision('high')": "tf32 tf32 tf32",
    "torch.set_float32_matmul_precision('high'); b.cuda.matmul.fp32_precision = 'ieee'": "ieee tf32 tf32",
}


@NEWER
def test_full_products_are_full_and_leave_all_settings_as_they_were() -> None:
    programs = [GENERAL.format(program=program) for program in AFTERWARDS]
    done = subprocess.run([sys.executable, "-c", EACH, *programs], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = dict(zip(AFTERWARDS, done.stdout.splitlines(), strict=True))
    assert found == AFTERWARDS, "what followed a more general setting still does"
