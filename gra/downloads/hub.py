"""Check whether the model and dataset hub can be reached, and whether a name is possible there."""

from __future__ import annotations

from functools import lru_cache

_TIMEOUT_S = 3.0


def name_problem(name: str) -> str | None:
    """Say why no repository of the hub can have this name; None when one can."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        return " ".join(str(error).split())
    return None


@lru_cache(maxsize=1)
def hub_reachable() -> bool:
    """Whether the hub answers; tried once a process, with a short time-out, through the user's proxies."""
    import httpx
    from huggingface_hub import constants, get_session

    try:
        answer = get_session().get(f"{constants.ENDPOINT}/api/models?limit=1", timeout=_TIMEOUT_S)
    except (httpx.HTTPError, OSError):
        return False
    return bool(answer.status_code == httpx.codes.OK)
