"""Define the sections on money: caps on what a run spends, and prices."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from gra.config.committee import BackendConfig, MemberConfig
from gra.config.problems import did_you_mean
from gra.config.section import Section


class BudgetConfig(Section):
    """Hard caps over all resumes of a run; null means none."""

    tokens: int | None = Field(None, ge=1)
    # Hours in which the run's own engines were up, times their GPUs; a machine without a GPU counts as one.
    gpu_hours: float | None = Field(None, gt=0)
    usd: float | None = Field(None, gt=0)  # by `prices`


class TokenPriceConfig(Section):
    """US dollars a million tokens."""

    input: float = Field(ge=0)
    output: float = Field(ge=0)
    cached: float | None = Field(None, ge=0)  # of prompt tokens that the server had cached; null: as `input`


class PricesConfig(Section):
    """Prices, for forecasts and for `budget.usd`."""

    gpu_hour: float | None = Field(None, ge=0)  # US dollars, of models on this machine
    models: dict[str, TokenPriceConfig] = {}  # by the model's name in the recipe


def check_prices(
    budget: BudgetConfig, prices: PricesConfig, members: Sequence[MemberConfig], engine: BackendConfig
) -> None:
    """Check that every price is for a model of the recipe, and that a cap on money can be kept.

    Raises:
        ValueError: a price is for no model, or a model has no price.
    """
    names = sorted({name for member in members for name in (member.model, member.fallback) if name})
    if unknown := sorted(set(prices.models) - set(names)):
        raise ValueError(f"`prices.models` names `{unknown[0]}`, which no member uses{did_you_mean(unknown[0], names)}")
    if budget.usd is None:
        return
    for member in members:
        local = (member.engine or engine).kind == "vllm"
        if member.model not in prices.models and not (local and prices.gpu_hour is not None):
            key = "`prices.gpu_hour`" if local else f"`prices.models.{member.model}`"
            raise ValueError(f"`budget.usd` cannot be kept while `{member.model}` has no price; set {key}")
