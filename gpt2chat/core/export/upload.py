"""Upload a model folder to the Hugging Face Hub: only listed files, and privately by default."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # pyright: ignore[reportPrivateImportUsage]
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from gpt2chat.core.errors import ConfigError, NetworkError


def check_repository(repo: str, *, private: bool) -> None:
    """Check that a model can be uploaded to a repository, before any work.

    Raises:
        ConfigError: It is no name of a repository, or it is public and `private` is set.
        NetworkError: The Hub cannot be reached, or refuses access.
    """
    with _hub_errors(repo):
        try:
            is_private = HfApi().model_info(repo).private
        except RepositoryNotFoundError:
            # Also the answer to a stranger's question about a private one.
            HfApi().whoami()
            return
    if private and not is_private:
        raise ConfigError(
            f"{repo} is public, so everybody could read what is uploaded. If they may, set "
            "`private=False`.",
            setting="private",
        )


def upload(folder: Path, files: Sequence[str], repo: str, *, private: bool) -> str:
    """Upload files of a folder in one commit, to a repository that is created if it is missing.

    Args:
        files: The files to upload, by their paths in the folder.

    Returns:
        The address of the commit.

    Raises:
        NetworkError: The Hub cannot be reached, or refuses access.
    """
    with _hub_errors(repo):
        api = HfApi()
        # `exist_ok` would also accept a public repository, which `check_repository` has refused
        # unless `private` is off.
        api.create_repo(repo, private=private, exist_ok=True)
        additions = [CommitOperationAdd(name, folder / name) for name in files]
        commit = api.create_commit(repo, additions, commit_message="Upload with gpt2chat")
        return commit.commit_url


@contextmanager
def _hub_errors(repo: str) -> Generator[None]:
    """Turn an error of the Hub into one line."""
    try:
        yield
    except HFValidationError as error:
        raise ConfigError(
            f"{repo!r} is not the name of a repository. Give one such as me/my-bot.",
            setting="repo",
        ) from error
    except (HfHubHTTPError, LocalTokenNotFoundError) as error:
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else 401
        if status in (401, 403):
            raise NetworkError(
                f"The Hugging Face Hub refuses to write {repo} ({status}). Log in with "
                "`hf auth login`, with a token that may write there.",
                setting="repo",
            ) from error
        raise NetworkError(
            f"The Hugging Face Hub failed for {repo} ({status}). Try again later.", setting="repo"
        ) from error
    except (HTTPError, OfflineModeIsEnabled, ConnectionError) as error:
        raise NetworkError(
            f"Cannot reach the Hugging Face Hub for {repo}. Check the network, or write a folder "
            'with `to="merged"`.',
            setting="repo",
        ) from error
