"""Whole or not at all: writing that fails, other writers, and links that lead elsewhere."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError

from mtl import checkpoint as checkpoint_module
from mtl import cli, files
from mtl import export as export_module
from mtl.checkpoint import Checkpoint, load_checkpoint, load_newest, save_checkpoint
from mtl.cli import main
from mtl.errors import StorageError, UserError
from mtl.export import Loaded, load_tasks, save_export
from mtl.facts import Facts
from mtl.files import LOCK_FILE, empty_directory, locked, new_directory, new_file, refuse_links, write_file
from mtl.run_record import output_problems
from mtl.run_start import resume_command
from mtl.trained_tasks import find_tasks


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("error", [OSError(errno.EDQUOT, "x"), ValueError("no"), KeyboardInterrupt()])
def test_what_fails_half_way_leaves_what_was_there(error: BaseException, tmp_path: Path) -> None:
    with new_directory(tmp_path / "a") as folder:
        (folder / "old").write_text("old")
    write_file(tmp_path / "b", "old")
    with pytest.raises(StorageError if isinstance(error, OSError) else type(error)), new_directory(tmp_path / "a") as f:
        (f / "new").write_text("half")
        raise error
    with pytest.raises(StorageError if isinstance(error, OSError) else type(error)), new_file(tmp_path / "b") as file:
        file.write("half")
        raise error
    assert content(tmp_path) == {"a/old": b"old", "b": b"old"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_the_system_s_reason_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for error in (OSError(errno.ENOSPC, "x"), SafetensorError("I/O error: x (os error 28)")):
        told = f"{path} cannot be written: No space left on device; its previous content is intact"
        with pytest.raises(StorageError, match=told), files.storing(path):
            raise error


def test_a_process_killed_between_two_renames_has_lost_nothing(tmp_path: Path) -> None:
    with new_directory(tmp_path / "a") as folder:
        (folder / "old").write_text("old")
    (tmp_path / "a").rename(tmp_path / f"{files.REPLACED}a")
    (tmp_path / f"{files.TEMPORARY}a").mkdir()
    with pytest.raises(ValueError), new_directory(tmp_path / "a"):
        raise ValueError
    assert content(tmp_path) == {"a/old": b"old"}


class Failing:
    """Lets the n-th writing operation of the process fail as a full disk does, half of its bytes written."""

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path) -> None:
        self.folder, self.left, self.stages = folder, 0, 0
        for owner, name in (
            (checkpoint_module, "save_file"),
            (export_module, "save_file"),
            (Path, "write_text"),
            (Path, "mkdir"),
            (Path, "rename"),
            (files, "sync"),
        ):
            patch.setattr(owner, name, self.wrapped(getattr(owner, name), name))

    def wrapped(self, real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def run(*words: Any, **keys: Any) -> Any:
            path = Path(words[1] if name == "save_file" else words[0])
            if not path.is_relative_to(self.folder):
                return real(*words, **keys)
            self.left -= 1
            self.stages += 1
            if self.left:
                return real(*words, **keys)
            if name in ("save_file", "write_text"):
                real(*words, **keys)
                os.truncate(path, path.stat().st_size // 2)
                if name == "save_file":
                    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

        return run

    def at(self, stage: int) -> None:
        self.left = stage


def make_checkpoint(step: int) -> Checkpoint:
    tensors = {part: {"w": torch.full((300,), float(step))} for part in ("model", "optimizer", "random")}
    return Checkpoint(step, tensors, {"step": step})


def test_a_full_disk_at_any_stage_of_a_checkpoint_leaves_the_one_before(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        failing = Failing(patch, tmp_path)
        save_checkpoint(tmp_path, make_checkpoint(1), keep_last=1)
        before, stages = content(tmp_path), failing.stages
        assert stages >= 10
        for stage in range(1, stages + 1):
            failing.at(stage)
            with pytest.raises(StorageError, match="No space left on device"):
                save_checkpoint(tmp_path, make_checkpoint(2), keep_last=1)
            newest, damaged = load_newest(tmp_path)
            assert newest is not None and damaged == []
            if newest.step == 1:
                assert content(tmp_path) == before
            else:  # only the sync after the last rename may fail with the new one in its place, whole
                assert stage == stages and newest.step == 2
    save_checkpoint(tmp_path, make_checkpoint(2), keep_last=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-0000002"]


@pytest.fixture(scope="module")
def run_dir(corpus: Path, encoder_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("files") / "run"
    assert main(arguments(corpus, encoder_dir, output)) == 0
    return output


def arguments(corpus: Path, encoder: Path, output: Path, *more: str) -> list[str]:
    words = ["--encoder", str(encoder), "--output", str(output), "--batch-size", "8", "--learning-rate", "1e-3"]
    return ["train", str(corpus), *words, "--max-steps", "9", "--set", "evaluation.every=3", *more]


@pytest.fixture
def loaded(run_dir: Path) -> Loaded:
    return load_tasks(find_tasks(run_dir, ["mood"], "best"))["mood"]


def test_a_full_disk_at_any_stage_of_an_export_leaves_the_one_before(loaded: Loaded, tmp_path: Path) -> None:
    folder = tmp_path / "mood"
    with pytest.MonkeyPatch.context() as patch:
        failing = Failing(patch, tmp_path)
        save_export(loaded, "mood", folder, Facts(), verify=True)
        before, stages = content(tmp_path), failing.stages
        assert stages >= 6
        for stage in range(1, stages + 1):
            failing.at(stage)
            with pytest.raises(StorageError, match="No space left on device"):
                save_export(loaded, "mood", folder, Facts(weights="teacher"), verify=False)
            if "teacher" in (folder / "README.md").read_text():
                assert stage == stages
            else:
                assert content(tmp_path) == before


@pytest.mark.parametrize("what", ["save_pretrained", "save_file"])
def test_a_library_s_failure_is_told_as_one_of_the_disk(
    what: str, loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise SafetensorError("I/O error: Disk quota exceeded (os error 122)")

    monkeypatch.setattr(loaded.model if what == "save_pretrained" else safetensors.torch, what, fail)
    if what == "save_file":
        monkeypatch.setattr(loaded.model, "save_pretrained", fail)
    with pytest.raises(StorageError, match="Disk quota exceeded"):
        save_export(loaded, "mood", tmp_path / "mood", Facts(), verify=False)
    assert list(tmp_path.iterdir()) == []


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Callable[[str], None]]:
    """Mounts a disk of some bytes; yields what mounts it anew with other options."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only the superuser may mount a small disk")
    try:

        def remount(options: str) -> None:
            subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)

        yield remount
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_run_on_a_full_disk_stops_and_goes_on_when_there_is_room_again(
    corpus: Path,
    encoder_dir: Path,
    run_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from mtl import hooks

    evaluate, evaluated = hooks.RunHooks.evaluate, list[hooks.RunHooks]()
    with small_disk(tmp_path / "disk", 64 << 20) as remount:

        def spoil(self: Any) -> Any:
            evaluated.append(self)
            if len(evaluated) == 2:
                used = sum(-(-len(data) // 4096) * 4096 for data in content(tmp_path / "disk").values())
                remount(f"size={used + (64 << 10)}")
            return evaluate(self)

        output = tmp_path / "disk" / "run"
        with monkeypatch.context() as patch:
            patch.setattr(hooks.RunHooks, "evaluate", spoil)
            assert main(arguments(corpus, encoder_dir, output)) == 1
        error = capsys.readouterr().err
        assert "cannot be written: No space left on device; its previous content is intact; continue with:" in error
        assert error.rstrip().endswith("--resume")
        newest, damaged = load_newest(output / "checkpoints")
        assert newest is not None and newest.step == 3 and damaged == []
        remount(f"size={64 << 20}")
        assert main(["train", "--output", str(output), "--resume"]) == 0
        for name in ("results.json", "metrics.jsonl", "model/model.safetensors", "best/mood/model.safetensors"):
            assert (output / name).read_bytes() == (run_dir / name).read_bytes(), name


def test_a_run_in_a_read_only_place_is_told(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with small_disk(tmp_path / "disk", 64 << 20) as remount:
        output = Path(shutil.copytree(run_dir, tmp_path / "disk" / "run"))
        before = content(output)
        remount("ro")
        assert main(["train", "--output", str(output), "--resume"]) == 1
        assert f"{output} cannot be written: Read-only file system" in capsys.readouterr().err
        assert content(output) == before


def test_another_run_in_the_same_directory_is_refused(
    corpus: Path, encoder_dir: Path, run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(run_dir)
    with locked(run_dir):
        for more in (["--resume"], ["--overwrite"]):
            capsys.readouterr()
            assert main(arguments(corpus, encoder_dir, run_dir, *more)) == 2
            assert f"--output: another run is writing to {run_dir}; wait for it" in capsys.readouterr().err
    assert content(run_dir) == before
    with locked(tmp_path / "new"):
        assert main(arguments(corpus, encoder_dir, tmp_path / "new")) == 2
    assert not (tmp_path / "new").exists()


def test_a_run_that_ended_meanwhile_is_not_overwritten(
    corpus: Path, encoder_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Between the check of the directory and its lock, another run may begin and end there."""
    from mtl import run_setup

    prepare_splits, output = run_setup.prepare_splits, tmp_path / "run"

    def slowly(*words: Any, **options: Any) -> Any:
        output.mkdir()
        (output / "run.yml").write_text("another's")
        return prepare_splits(*words, **options)

    monkeypatch.setattr(run_setup, "prepare_splits", slowly)
    assert main(arguments(corpus, encoder_dir, output)) == 2
    assert "holds a run; --resume continues it, --overwrite replaces it" in capsys.readouterr().err
    assert (output / "run.yml").read_text() == "another's"


@pytest.mark.parametrize("words", ["--overwrite", "--over", "--resume", "--res"])
def test_how_to_resume_is_told_without_flags_that_exclude_it(words: str) -> None:
    told = resume_command(["run-mtl", "train", "a.yml", words, "--output", "runs/over"])
    assert told == ":\n  run-mtl train a.yml --output runs/over --resume"


def test_sigterm_ends_a_command_in_order(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    ended, before = [], signal.getsignal(signal.SIGTERM)

    def command(arguments: Any) -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            ended.append("in order")

    monkeypatch.setitem(cli.COMMANDS, "schema", command)
    assert main(["schema"]) == 128 + signal.SIGTERM
    assert (ended, capsys.readouterr().err) == (["in order"], "terminated\n")
    assert signal.getsignal(signal.SIGTERM) is before


def copy_of(run_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run_dir, tmp_path / "run"))


@pytest.mark.parametrize("name", ["best", "checkpoints", "metrics.jsonl", "predictions", "tensorboard", LOCK_FILE])
def test_a_link_out_of_the_run_is_not_written_through(
    name: str, run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, outside = copy_of(run_dir, tmp_path), tmp_path / "outside"
    (output / name).rename(outside)
    (output / name).symlink_to(outside)
    before = outside.read_bytes() if outside.is_file() else content(outside)
    assert main(["train", "--output", str(output), "--resume"]) == 2
    assert f"{output / name}: is a symbolic link" in capsys.readouterr().err
    if name == "predictions":
        assert main(["evaluate", str(output)]) == 2
        assert "is a symbolic link" in capsys.readouterr().err
    assert before == (outside.read_bytes() if outside.is_file() else content(outside))


def test_overwriting_removes_links_and_nothing_behind_them(
    corpus: Path, encoder_dir: Path, run_dir: Path, tmp_path: Path
) -> None:
    output, outside = copy_of(run_dir, tmp_path), tmp_path / "outside"
    shutil.copytree(output / "best", outside)
    shutil.rmtree(output / "best")
    (output / "best").symlink_to(outside)
    (output / "predictions" / "mine").symlink_to(outside / "mood" / "task.yml")
    before = content(outside)
    empty_directory(output)
    assert content(outside) == before
    assert [path.name for path in output.iterdir() if path.name != LOCK_FILE] == []


def test_an_export_replaces_a_link_and_nothing_behind_it(run_dir: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine").write_text("mine")
    (tmp_path / "exports").mkdir()
    (tmp_path / "exports" / "mood").symlink_to(outside)
    words = ["export", str(run_dir), "--task", "mood", "--output", str(tmp_path / "exports"), "--overwrite"]
    assert main(words) == 0
    assert content(outside) == {"mine": b"mine"}
    assert not (tmp_path / "exports" / "mood").is_symlink()
    assert [path.name for path in (tmp_path / "exports").iterdir()] == ["mood"]


def test_an_output_replaces_neither_its_input_nor_a_part_of_a_run_or_an_export(
    corpus: Path, run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, data, exports = copy_of(run_dir, tmp_path), tmp_path / "data", tmp_path / "exports"
    shutil.copytree(corpus.parent, data)
    definitions = (run / "task_defs.yml").read_text().replace(str(corpus.parent), str(data))
    (run / "task_defs.yml").write_text(definitions)
    assert main(["export", str(run), "--task", "mood", "--output", str(exports)]) == 0
    (tmp_path / "link").symlink_to(run)
    (tmp_path / "link.json").symlink_to(run / "results.json")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "provenance.json").touch()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "other" / "metrics.jsonl").symlink_to(data / "tasks.yml")
    rows, mood = data / "mood" / "validation.jsonl", str(exports / "mood")
    before = content(tmp_path)
    for folder in (run, exports / "mood"):
        assert [name for name in content(folder) if not output_problems(folder / name)] == []
    score, predict = ["evaluate", mood], ["predict", mood, "--input", str(rows)]
    export = ["export", str(run), "--weights", "final", "--overwrite", "--task", "mood"]
    for words, output, message in (
        (predict, rows, "is one of the inputs"),
        (predict, data / "mood" / ".." / "mood" / rows.name, "is one of the inputs"),
        (predict, run / "predictions" / "mood.validation.jsonl", f"is a part of a run, {run}"),
        (predict, run / "best" / "mood" / "config.json", f"is a part of an export, {run / 'best' / 'mood'}"),
        (predict, tmp_path / "other" / "metrics.jsonl", "is a part of a run"),
        (score, rows, "is one of the inputs"),
        (score, tmp_path / "link" / "results.json", f"is a part of a run, {run}"),
        (score, tmp_path / "link.json", f"is a part of a run, {run}"),
        (score, exports / "mood" / "task.yml", f"is a part of an export, {exports / 'mood'}"),
        (["report", str(run)], run / "checkpoints" / "r.html", f"is a part of a run, {run}"),
        (["report", str(run)], tmp_path / "other", "is a directory; name a file"),
        (predict, tmp_path / "other", "is a directory; name a file"),
        (score, tmp_path / "other", "is a directory; name a file"),
        (predict, tmp_path / "pipe", "is no regular file; name another"),
        (score, tmp_path / "pipe", "is no regular file; name another"),
        (predict, Path("/dev/stdout"), "is no regular file; name another"),
        (predict, Path("-"), "is no regular file; name another"),
        (export, run / "best", f"is a part of a run, {run}"),
    ):
        assert main([*words, "--output", str(output)]) == 2, output
        assert f"error: --output: {output}" in (told := capsys.readouterr().err) and message in told
        assert content(tmp_path) == before
    for mine in ("mood/run.yml", "mood/mine.txt", "mood"):
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)
        path = tmp_path / "runs" / mine
        path.parent.mkdir(parents=True)
        path.write_text("mine")
        assert main([*export, "--output", str(tmp_path / "runs")]) == 2
        assert "is no export, and is not replaced; name another directory" in capsys.readouterr().err
        assert path.read_text() == "mine"
    for words, output in (
        (predict, run / "predictions" / "mine.jsonl"),
        (score, exports / "mood" / "metrics.json"),
        (score, tmp_path / "results.json"),
        (["report", str(run)], run / "r.html"),
    ):
        assert main([*words, "--output", str(output)]) == 0, output


def test_links_are_found_at_any_depth(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    refuse_links(tmp_path)
    (tmp_path / "a" / "b" / "c").symlink_to("nowhere")
    with pytest.raises(UserError, match="c: is a symbolic link"):
        refuse_links(tmp_path)


REGIONS = 8


def test_damage_anywhere_in_a_checkpoint_is_found(run_dir: Path, tmp_path: Path) -> None:
    """Every file: removed, emptied, cut and flipped in each of its regions; and a file too many."""
    root = tmp_path / "checkpoints"
    shutil.copytree(run_dir / "checkpoints", root)
    newest = sorted(root.iterdir())[-1]
    names = sorted(path.name for path in newest.iterdir())
    assert {"manifest.json", "model.safetensors", "optimizer.safetensors", "state.json", "teacher.safetensors"} <= {
        *names
    }

    def assert_found(what: str) -> None:
        checkpoint, damaged = load_newest(root)
        assert checkpoint is not None and checkpoint.step == 6, what
        assert len(damaged) == 1 and newest.name in damaged[0], what

    for name in names:
        path = newest / name
        whole = path.read_bytes()
        path.unlink()
        assert_found(f"{name} removed")
        for region in range(REGIONS):
            start, end = len(whole) * region // REGIONS, len(whole) * (region + 1) // REGIONS
            path.write_bytes(whole[:start])
            assert_found(f"{name} cut at {start}")
            for place in {start, (start + end) // 2, end - 1}:
                path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x20]) + whole[place + 1 :])
                assert_found(f"{name} flipped at {place}")
        path.write_bytes(whole)
    (newest / "more.safetensors").write_bytes(whole)
    assert_found("a file too many")
    (newest / "more.safetensors").unlink()
    assert load_checkpoint(newest).step == 9
    newest.rename(root / "step-0000010")
    assert "step-0000010 holds step 9" in load_newest(root)[1][0]


def test_a_damaged_checkpoint_is_told_and_the_one_before_taken(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = copy_of(run_dir, tmp_path)
    path = output / "checkpoints" / "step-0000009" / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert main(["train", "--output", str(output), "--resume"]) == 0
    out = capsys.readouterr().out
    assert f"warning: passed over a damaged checkpoint: {path} has changed since it was written" in out
    assert "resuming after step 6" in out
    for name in ("results.json", "metrics.jsonl", "model/model.safetensors"):
        assert (output / name).read_bytes() == (run_dir / name).read_bytes(), name


def test_a_checkpoint_of_another_run_and_a_log_cut_short_are_told(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = copy_of(run_dir, tmp_path)
    (output / "metrics.jsonl").write_text("")
    assert main(["train", "--output", str(output), "--resume"]) == 2
    assert "metrics.jsonl: is shorter than at step 9, where the run would continue" in capsys.readouterr().err
    shutil.rmtree(output)
    copy_of(run_dir, tmp_path)
    shutil.rmtree(output / "checkpoints")
    tensors = {part: {"w": torch.zeros(3)} for part in ("model", "teacher", "optimizer", "random")}
    state = json.loads((run_dir / "checkpoints" / "step-0000009" / "state.json").read_text())
    save_checkpoint(output / "checkpoints", Checkpoint(9, tensors, state), 1)
    assert main(["train", "--output", str(output), "--resume"]) == 2
    assert "the checkpoint of step 9 does not fit this run" in capsys.readouterr().err
