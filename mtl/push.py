"""Uploads exports to the Hugging Face hub, through its own library and its own login."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mtl.errors import Problem, StorageError, UserError, first_line

FLAG = "--push-to-hub"
LOGIN = "log in with `hf auth login`, or set HF_TOKEN"
REFUSED = (401, 403, 404)  # HTTP status codes of missing permission; the hub may answer 404 for it


def check_push(repository: str, names: Sequence[str]) -> dict[str, str]:
    """Checks repository names and login, without network access.

    Args:
        repository: OWNER/NAME, or NAME for a repository of the user who is logged in.
        names: The tasks.

    Returns:
        Task → repository: `repository` for a single task, else `REPOSITORY-TASK`.

    Raises:
        UserError: A name is invalid on the hub, or nobody is logged in.
    """
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    found = {name: repository if len(names) == 1 else f"{repository}-{name}" for name in names}
    problems = []
    for repo_id in found.values():
        try:
            validate_repo_id(repo_id)
        except HFValidationError as error:
            problems.append(Problem(FLAG, f"{repo_id!r} is no name of a repository: {first_line(error)}"))
    if get_token() is None:
        problems.append(Problem(FLAG, f"nobody is logged in to the hub: {LOGIN}"))
    if problems:
        raise UserError(problems)
    return found


def push(folder: Path, repository: str, name: str) -> str:
    """Uploads one export.

    A new repository is private, because the card and `task.yml` describe the user's data and files: publishing can be
    done later, but not undone. An existing repository keeps its visibility.

    Args:
        folder: The export.
        repository: Repository on the hub.
        name: Name of the task.

    Returns:
        The repository's URL.

    Raises:
        UserError: The user who is logged in may not write to the repository.
        StorageError: The hub cannot be reached, or the upload fails.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HTTPError  # HTTPError: that of the HTTP library in use

    api, kept = HfApi(), f"the export in {folder} is complete"
    try:
        address = api.create_repo(repository, private=True, exist_ok=True)
        api.upload_folder(repo_id=address.repo_id, folder_path=folder, commit_message=f"Export of {name}")
    except HfHubHTTPError as error:
        if error.response.status_code in REFUSED:
            message = f"the hub does not let you write to {repository!r} ({first_line(error)}); {LOGIN}; {kept}"
            raise UserError.of(FLAG, message) from error
        raise StorageError(f"{repository} cannot be written: {first_line(error)}; {kept}") from error
    except (HTTPError, OSError, RuntimeError, ValueError) as error:  # a failed upload may raise any of these
        raise StorageError(f"{repository} cannot be written: {first_line(error)}; {kept}") from error
    return str(address)
