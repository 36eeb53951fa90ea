"""`export --push-to-hub`, with the hub's library up to where it would ask the network."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import HfApi, ModelCard, RepoUrl
from huggingface_hub.errors import HfHubHTTPError

from mtl.cli import main

TASKS = ("mood", "strength", "answer")


@pytest.fixture(scope="module")
def run_dir(corpus: Path, encoder_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("push") / "run"
    words = ["train", str(corpus), "--encoder", str(encoder_dir), "--output", str(output), "--max-steps", "3"]
    assert main([*words, "--no-smart", "--no-proximal"]) == 0
    return output


@pytest.fixture
def logged_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_xxx")


@pytest.fixture
def hub(logged_in: None, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Repository to how it was made and what was uploaded; `fails` holds errors by repository."""
    found: dict[str, Any] = {"fails": {}}

    def create_repo(api: HfApi, repo_id: str, *, private: bool, exist_ok: bool) -> RepoUrl:
        full = repo_id if "/" in repo_id else f"me/{repo_id}"
        if full in found["fails"]:
            raise found["fails"][full]
        found[full] = {"private": private, "exist_ok": exist_ok}
        return RepoUrl(f"https://huggingface.co/{full}")

    def upload_folder(api: HfApi, *, repo_id: str, folder_path: Path, commit_message: str) -> None:
        files = {path.name: path.read_bytes() for path in folder_path.iterdir()}
        found[repo_id] |= {"files": files, "message": commit_message}

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    return found


def refused(status: int) -> HfHubHTTPError:
    response: Any = SimpleNamespace(headers={}, status_code=status, request=None)
    return HfHubHTTPError(f"{status} Client Error.\nYou may not.", response=response)


def export(run_dir: Path, output: Path, *more: str) -> list[str]:
    return ["export", str(run_dir), "--output", str(output), *more]


def test_one_task_goes_to_the_repository_named(
    run_dir: Path, hub: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(export(run_dir, tmp_path, "--task", "mood", "--push-to-hub", "mood-model")) == 0
    assert capsys.readouterr().out.endswith("pushed: https://huggingface.co/me/mood-model\n")
    del hub["fails"]
    (repository,) = hub.values()
    assert list(hub) == ["me/mood-model"] and repository["private"] and repository["exist_ok"]
    assert repository["files"] == {path.name: path.read_bytes() for path in (tmp_path / "mood").iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "task.yml"} < repository["files"].keys()
    assert ModelCard(repository["files"]["README.md"].decode()).data.to_dict()["library_name"] == "transformers"
    assert repository["message"] == "Export of mood"


def test_several_tasks_have_a_repository_each(run_dir: Path, hub: dict[str, Any], tmp_path: Path) -> None:
    assert main(export(run_dir, tmp_path, "--push-to-hub", "lab/all")) == 0
    assert set(hub) - {"fails"} == {f"lab/all-{task}" for task in TASKS}
    for task in TASKS:
        assert hub[f"lab/all-{task}"]["message"] == f"Export of {task}"


@pytest.mark.parametrize("name", ["a/b/c", "", "a b", "-x", "lab/a--b", "x" * 97])
def test_a_name_that_the_hub_does_not_take_is_told_before_anything_is_written(
    name: str, run_dir: Path, hub: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(export(run_dir, tmp_path / "out", f"--push-to-hub={name}")) == 2
    error = capsys.readouterr().err
    assert error.count("error: --push-to-hub: ") == len(TASKS) and "is no name of a repository" in error
    assert not (tmp_path / "out").exists()


def test_without_a_login_nothing_begins(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert main(export(run_dir, tmp_path / "out", "--push-to-hub", "x")) == 2
    error = capsys.readouterr().err
    assert (
        error == "error: --push-to-hub: nobody is logged in to the hub: log in with `hf auth login`, or set HF_TOKEN\n"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("status", "expected"), [(401, 2), (403, 2), (404, 2), (429, 1), (500, 1)])
def test_a_refusal_is_one_message_and_leaves_the_exports(
    status: int,
    expected: int,
    run_dir: Path,
    hub: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hub["fails"]["lab/all-strength"] = refused(status)
    assert main(export(run_dir, tmp_path, "--push-to-hub", "lab/all")) == expected
    captured = capsys.readouterr()
    assert captured.out.endswith("pushed: https://huggingface.co/lab/all-mood\n"), "what succeeded before is told"
    assert captured.err.count("\n") == 1 and captured.err.startswith("error: ") and "Traceback" not in captured.err
    assert "lab/all-strength" in captured.err and f"{status} Client Error" in captured.err
    assert f"the export in {tmp_path / 'strength'} is complete" in captured.err
    for task in TASKS:
        assert (tmp_path / task / "model.safetensors").is_file()


def test_without_a_network_it_is_the_same(
    run_dir: Path, logged_in: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The library itself refuses: tests run with HF_HUB_OFFLINE=1."""
    assert main(export(run_dir, tmp_path, "--task", "mood", "--push-to-hub", "x")) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: x cannot be written: Cannot reach ") and error.count("\n") == 1
    assert (tmp_path / "mood" / "model.safetensors").is_file()


@pytest.mark.parametrize("error", [RuntimeError("Error while uploading 'a'"), ValueError("LFS batch"), TimeoutError()])
def test_an_upload_that_fails_is_told(
    error: Exception,
    run_dir: Path,
    hub: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(api: HfApi, **_: Any) -> None:
        raise error

    monkeypatch.setattr(HfApi, "upload_folder", fail)
    assert main(export(run_dir, tmp_path, "--task", "mood", "--push-to-hub", "x")) == 1
    assert f"error: x cannot be written: {str(error) or 'TimeoutError'}" in capsys.readouterr().err


def test_a_token_is_no_argument(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(export(run_dir, tmp_path, "--push-to-hub", "x", "--token", "hf_xxx"))
    assert stopped.value.code == 2
