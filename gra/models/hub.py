"""Find models of the hub on this machine, and download them."""

from __future__ import annotations

import errno
from pathlib import Path

from gra.core.errors import ModelUnavailable
from gra.downloads.cache import Progress, require_space
from gra.models.weights import read_object

_SAFE = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.md", "LICENSE*", "NOTICE*"]
_SMALL = ["*.json", "*.txt", "*.model", "*.jinja"]
_NOT_NEEDED = ["onnx/*", "openvino/*", "original/*", "*.gguf", "consolidated*"]


def local_snapshot(hub_id: str, revision: str | None) -> Path | None:
    """Find the complete snapshot on this machine; None without one."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import IncompleteSnapshotError, LocalEntryNotFoundError

    try:
        path = Path(snapshot_download(hub_id, revision=revision, local_files_only=True, allow_patterns=_SAFE))
    except IncompleteSnapshotError as error:
        path = Path(error.snapshot_path)  # other tools leave out files that are not needed here
    except LocalEntryNotFoundError:
        return None
    return path if missing_file(path) is None else None


def download(hub_id: str, revision: str | None, progress: Progress, *, code: bool = False) -> Path:
    """Download a repository's weights, configuration and tokenizer; its commit is the folder's name.

    Python files are left out unless `code` is set.

    Raises:
        ModelUnavailable: the repository is gated, unknown or incomplete, or the download broke off.
    """
    import httpx
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    name = f"{hub_id}@{revision}" if revision else hub_id
    page = f"{constants.ENDPOINT}/{hub_id}"
    folder = Path(constants.HF_HUB_CACHE)
    wanted = [*_SAFE, "*.py"] if code else _SAFE
    try:
        # Asked first because planning the download hides why a repository cannot be read.
        HfApi().model_info(hub_id, revision=revision)
        planned = snapshot_download(
            hub_id, revision=revision, allow_patterns=wanted, ignore_patterns=_NOT_NEEDED, dry_run=True
        )
        size = sum(file.file_size or 0 for file in planned if file.will_download)
        require_space(folder, size, f"downloading {name}")
        progress(f"{name}: downloading {size / 1e9:.1f} GB from the hub")
        path = Path(snapshot_download(hub_id, revision=revision, allow_patterns=wanted, ignore_patterns=_NOT_NEEDED))
    except GatedRepoError as error:
        raise ModelUnavailable(
            f"{name} is gated: accept its terms on {page}, then log in with `hf auth login` or set HF_TOKEN"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelUnavailable(
            f"the hub has no model {hub_id} (or it is private: log in with `hf auth login`)"
        ) from error
    except RevisionNotFoundError as error:
        raise ModelUnavailable(f"{hub_id} has no revision {revision}; see {page}/commits/main") from error
    except (httpx.HTTPError, OSError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ModelUnavailable(
                f"the disk of {folder} ran full while {name} was downloaded; free some space"
            ) from error
        raise ModelUnavailable(
            f"the download of {name} from the hub broke off ({error}); run the same command again, "
            "finished files are kept"
        ) from error
    if gap := missing_file(path):
        raise ModelUnavailable(
            f"{name} has no {gap}, so it is not a model GRA can load (safetensors weights are needed)"
        )
    return path


def download_configuration(hub_id: str, revision: str | None) -> Path:
    """Download the configuration and tokenizer of a repository, a few megabytes, without its weights.

    Raises:
        ModelUnavailable: the repository cannot be read.
    """
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        path = snapshot_download(hub_id, revision=revision, allow_patterns=_SMALL, ignore_patterns=_NOT_NEEDED)
    except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
        raise ModelUnavailable(f"the configuration of {hub_id} cannot be had from the hub ({error})") from error
    if not (Path(path) / "config.json").is_file():
        raise ModelUnavailable(f"{hub_id} has no config.json")
    return Path(path)


def missing_file(path: Path) -> str | None:
    """Name the first file that a model directory lacks; None when it is complete."""
    if not (path / "config.json").is_file():
        return "config.json"
    index = path / "model.safetensors.index.json"
    if index.is_file():
        try:
            shards = sorted(set(map(str, read_object(index)["weight_map"].values())))
        except (ValueError, LookupError, AttributeError):  # the file is no index
            return index.name
        return next((shard for shard in shards if not (path / shard).is_file()), None)
    if not any(path.glob("*.safetensors")):
        return "model.safetensors"
    tokenizers = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
    return None if any((path / name).is_file() for name in tokenizers) else "tokenizer.json"
