"""Push the dataset of a run to the hub: `gra push runs/quickstart/arms/gra OWNER/NAME`; private by default.

The `dataset/` folder of the run is uploaded: rows, preference pairs, disputed rows, lineage and card.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gra.core.errors import DataError, HubUnavailable, Mismatch, RecipeError
from gra.core.files import refuse_link, refuse_special_files, unfinished_files
from gra.core.hashing import file_digest
from gra.core.run_folder import MANIFEST, RunFolder
from gra.core.stored.reader import damaged

_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN to a token that may write"


@dataclass(frozen=True)
class Destination:
    """A dataset repository, and the user's name on the hub."""

    repository: str
    public: bool
    user: str


def check_hub(repository: str, *, public: bool) -> Destination:
    """Check that the hub answers and knows the user's token; nothing is written there yet.

    Raises:
        RecipeError: when the name is no OWNER/NAME.
        HubUnavailable: when the hub cannot be reached or the user is not logged in.
    """
    from huggingface_hub import HfApi, constants, get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise RecipeError(f"`{repository}` cannot be a dataset's name on the hub ({error})") from None
    if "/" not in repository:
        raise RecipeError(f"`{repository}` names no owner; write OWNER/{repository}")
    if constants.HF_HUB_OFFLINE:
        raise HubUnavailable("HF_HUB_OFFLINE is set, so nothing can be pushed; unset it, or push later with `gra push`")
    if get_token() is None:
        raise HubUnavailable(f"you are not logged in to {constants.ENDPOINT}, so nothing can be pushed; {_LOG_IN}")
    with _hub_errors(repository):
        return Destination(repository, public, str(HfApi().whoami()["name"]))


def push(run: Path, to: Destination) -> str:
    """Upload the dataset of a run folder in one commit and return the address of its page.

    Raises:
        DataError: when the folder is no finished synthesis run.
        Mismatch: when a data file is not what the run wrote.
        RecipeError: when the repository is public already and that was not asked for.
        HubUnavailable: when the hub refuses or the upload breaks off.
    """
    from huggingface_hub import HfApi

    rows = _check_dataset(run)
    with _hub_errors(to.repository):
        api = HfApi()
        page = str(api.create_repo(to.repository, repo_type="dataset", private=not to.public, exist_ok=True))
        if not to.public and api.dataset_info(to.repository).private is False:
            raise RecipeError(f"{to.repository} exists already and is public; say --public if that is meant")
        api.upload_folder(
            repo_id=to.repository,
            repo_type="dataset",
            folder_path=run / "dataset",
            allow_patterns=["*.parquet", "README.md"],
            commit_message=f"{rows:,} rows",
        )
    return page


def _check_dataset(run: Path) -> int:
    """Check the data files and count the rows to train on; the card may have been edited by hand."""
    refuse_special_files(run)
    section = RunFolder(run).manifest().get("synthesis")
    if not section:
        arms = sorted(str(folder.parent) for folder in run.glob("arms/*/dataset"))
        hint = f"; it is an experiment, push one of its arms: {', '.join(arms)}" if arms else ""
        raise DataError(f"{run} holds no finished dataset{hint}")
    refuse_link(run / "dataset")  # what a link leads to is not for the hub
    unfinished_files(run / "dataset")
    for name, expected in section["files"].items():
        file = run / name
        data = name.startswith("dataset/") and file.suffix == ".parquet"
        if data and (not file.is_file() or file_digest(file) != expected):
            raise Mismatch(f"{file} is not what the run wrote, so it is not pushed; see `gra verify {run}`")
    rows = section.get("states", {}).get("accepted")
    if rows is None:
        raise DataError(damaged(RunFolder(run) / MANIFEST, "`synthesis.states.accepted` is missing"))
    return int(rows)


@contextmanager
def _hub_errors(repository: str) -> Iterator[None]:
    """Turn the errors of the hub's library into one sentence."""
    import httpx
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError

    hub = constants.ENDPOINT
    try:
        yield
    except HfHubHTTPError as error:
        match error.response.status_code:
            case 401:
                raise HubUnavailable(f"{hub} does not know your token; {_LOG_IN}") from error
            case 403 | 404:
                raise HubUnavailable(
                    f"{hub} does not let you write to {repository}; check the owner's name, and that your "
                    "token may write"
                ) from error
            case status:
                said = error.server_message or "no reason given"
                raise HubUnavailable(f"{hub} answered with status {status} ({said}); try `gra push` again") from error
    except ValueError as error:  # among others a card whose header was edited into something else than YAML
        raise HubUnavailable(f"{hub} did not take the dataset: {error}") from error
    except (httpx.HTTPError, OSError, RuntimeError) as error:
        raise HubUnavailable(
            f"{hub} cannot be reached ({error or type(error).__name__}); the dataset stays on this disk, and "
            "`gra push` can be run again at any time"
        ) from error
