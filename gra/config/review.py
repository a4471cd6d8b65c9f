"""Define the sections on review: the gate, how reviewers are asked, verifiers, and the constraints that one checks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from gra.config.committee import Ask, Dimensions
from gra.config.section import Section
from gra.core.duplicates import repeated
from gra.core.types import ALL_CHECKS, DIMENSIONS, LIKELY_CHECK, SIGN_CHECKS, VerifierMode

# The kinds that a recipe can name. A verifier of the user's own adds its kind when it is registered.
VERIFIER_KINDS = ["math", "format", "consistency", "tests", "functions"]
RUN_CODE = ("tests", "functions")  # these run code that a model wrote, and need permission


def _known_kind(kind: str) -> str:
    if kind not in VERIFIER_KINDS:
        *first, last = (f"'{known}'" for known in VERIFIER_KINDS)
        expected = f"{', '.join(first)} or {last}"
        raise PydanticCustomError("literal_error", "Input should be {expected}", {"expected": expected})
    return kind


# Kinds of control items: what is wrong with a response, or `natural`: right and wrong answers that members wrote.
ControlKindName = Literal["mismatched", "truncated", "contradicted", "off_format", "natural"]


def _kinds_once(kinds: list[ControlKindName]) -> list[ControlKindName]:
    if len(set(kinds)) < len(kinds):
        raise ValueError(f"name each kind once; you set {', '.join(kinds)}")
    return kinds


CheckName = Literal[
    "reasonable", "complete", "clear", "text_only", "impersonal", "self_contained", "single",
    "text_shown", "no_life", "in_text", "likely",
]  # fmt: skip
assert get_args(CheckName) == ALL_CHECKS


def _checks_once(checks: list[CheckName]) -> list[CheckName]:
    if len(set(checks)) < len(checks):
        raise ValueError(f"name each check once; you set {', '.join(checks)}")
    return checks


VerifierKind = Annotated[str, AfterValidator(_known_kind)]


class VerifierConfig(Section):
    """Configure a verifier: its score counts like a reviewer's, or it filters responses before the reviews."""

    renamed = {"takes": "`mode` (`score` for `seat`, `filter` for `veto`)"}

    # `math`: arithmetic; `format`: constraints in the instruction; `consistency`: further answers; `tests`: unit tests;
    # `functions`: functions that members write for a domain, once a run.
    kind: VerifierKind
    mode: VerifierMode
    domains: list[str] | None = Field(None, min_length=1)  # null: all
    # How many further answers `consistency` draws (null: 4), and who gives them (null: others). `functions`: how many
    # each member writes for a domain (null: 2).
    draws: int | None = Field(None, ge=2, le=1000)
    by: Literal["author", "others"] | None = None

    @model_validator(mode="after")
    def _keys_belong_to_the_kind(self) -> VerifierConfig:
        if self.by is not None and self.kind != "consistency":
            raise ValueError("`by` belongs to `kind: consistency`; leave it out")
        if self.draws is not None and self.kind not in ("consistency", "functions"):
            raise ValueError("`draws` belongs to `kind: consistency` and `kind: functions`; leave it out")
        return self


class FormatConstraintsConfig(Section):
    """Share of new instructions that end with a format constraint, their domains, and what becomes of a broken one."""

    share: float = Field(0.0, ge=0, le=1)
    domains: list[str] | None = Field(None, min_length=1)  # null: all
    repair: bool = False  # a program gives a response the case, first or last words that it lacks, before the reviews


class ChainConfig(Section):
    """Say how a chain of reviewers becomes one score (`review.strategy: chain`)."""

    # `log_odds` adds what all links that saw a response said; `rank` takes the link that is surest for itself.
    combine: Literal["log_odds", "rank"] = "log_odds"


class ReviewConfig(Section):
    """The gate (paper: mean at least 8, standard deviation at most 1.5) and how reviewers are asked."""

    renamed = {"probes": "`control_items`", "programs": "`verifiers`"}

    accept_mean: float = Field(8.0, ge=0, le=10)
    dispute_std: float = Field(1.5, ge=0)
    std: Literal["population", "sample"] = "population"
    disputed: Literal["adjudicate", "accept", "reject"] = "adjudicate"  # what becomes of a spread above dispute_std
    ask: Ask = "integers"
    dimensions: Dimensions = list(DIMENSIONS)  # what a review scores; fewer cost less
    # What reviewers check about an instruction; the first three are the paper's.
    checks: Annotated[list[CheckName], Field(min_length=1), AfterValidator(_checks_once)] = [
        "reasonable",
        "complete",
        "clear",
    ]
    # Whether an instruction must pass each check, or their weighted sum, which is fitted on control instructions.
    combine_checks: Literal["each", "fitted"] = "each"
    # `disputed`: reviewers say why only when the adjudicator will read it. `never` leaves the adjudicator the scores.
    comments: Literal["always", "disputed", "never"] = "always"
    # Control items from the seeds, which measure and calibrate each reviewer; 0 takes raw scores as they are.
    control_items: int = Field(0, ge=0, le=1_000_000)
    # Kinds of control items, `control_items` of each. null: a seed's own response against another seed's response.
    control_kinds: Annotated[list[ControlKindName], Field(min_length=1), AfterValidator(_kinds_once)] | None = None
    # Questions with known answers for the kind `natural`: members answer them, and a program decides who is right.
    control_questions: str | None = None
    # Control instructions at fault, of each kind; they set the thresholds of the instruction checks.
    control_instructions: int = Field(0, ge=0, le=1_000)
    # Domains without one right answer. Control items from seeds fit a panel for them. Reviewers that look for the right
    # answer (`logprob`, `agreement`, `reference`) are not asked there, and `likelihood` only there.
    open_domains: list[str] = []
    # What reviewers' scores become: their mean (the paper), or a weighted sum of log-odds fitted on control items.
    # `label_model` takes each reviewer's weight from agreement alone.
    aggregate: Literal["mean", "weighted", "label_model"] = "mean"
    # `adaptive` asks the cheapest informative reviewer first and stops when the verdict is decided.
    # `chain` asks the cheapest first; each reviewer decides what it is surest of and forwards the rest.
    strategy: Literal["full", "adaptive", "chain"] = "full"
    chain: ChainConfig = ChainConfig()
    verifiers: list[VerifierConfig] = []

    @property
    def fits_panel(self) -> bool:
        """Whether control items of several kinds fit a panel; else pairs calibrate each reviewer alone."""
        several = self.control_kinds is not None or self.control_instructions > 0 or bool(self.open_domains)
        return several or self.aggregate != "mean" or self.strategy != "full"

    @model_validator(mode="after")
    def _a_reward_model_is_one_member(self) -> ReviewConfig:
        if self.ask == "reward":
            raise ValueError("`ask: reward` is for one member with a reward model; set it under `committee.models`")
        return self

    @model_validator(mode="after")
    def _control_items_serve(self) -> ReviewConfig:
        if not self.control_instructions:
            if self.combine_checks == "fitted":
                raise ValueError(
                    "`combine_checks: fitted` is fitted on control instructions; set `control_instructions`"
                )
            if unscaled := sorted({LIKELY_CHECK, *SIGN_CHECKS} & set(self.checks)):
                raise ValueError(
                    f"`checks: {unscaled[0]}` decides nothing by itself; set `control_instructions`, which show what "
                    "it is worth"
                )
        if not self.control_items:
            for key in ("control_kinds", "control_questions", "control_instructions", "open_domains"):
                if getattr(self, key):
                    raise ValueError(f"`{key}` says what control items are; set `control_items` to more than 0")
            if self.aggregate != "mean" or self.strategy != "full":
                key = "aggregate" if self.aggregate != "mean" else "strategy"
                raise ValueError(f"`{key}: {getattr(self, key)}` is fitted on control items; set `control_items`")
        if self.open_domains and not set(self.control_kinds or ["mismatched"]) - {"natural"}:
            raise ValueError(
                "`open_domains` need control items that are made from seeds; add `mismatched` to `control_kinds`"
            )
        if self.open_domains and self.strategy == "chain":
            raise ValueError(
                f"`strategy: chain` has no panel of its own for `open_domains: [{', '.join(self.open_domains)}]`; set "
                "`strategy: full` or `adaptive`, or leave `open_domains` out"
            )
        if self.strategy == "chain" and self.aggregate != "mean":
            raise ValueError(
                f"`strategy: chain` has its own way to one score, `chain.combine`; leave out "
                f"`aggregate: {self.aggregate}`"
            )
        if self.strategy != "chain" and self.chain != ChainConfig():
            raise ValueError(f"`chain` belongs to `strategy: chain`, not to `strategy: {self.strategy}`; leave it out")
        if ("natural" in (self.control_kinds or ())) != (self.control_questions is not None):
            raise ValueError(
                "`natural` in `control_kinds` and `control_questions` belong together: a file of questions with known "
                "answers, such as recipes/seeds/control_questions.jsonl"
            )
        return self

    @model_validator(mode="after")
    def _each_verifier_once(self) -> ReviewConfig:
        kinds = [verifier.kind for verifier in self.verifiers]
        if twice := repeated(kinds):
            raise ValueError(f"`verifiers` has `kind: {twice[0]}` twice; a verifier either scores or filters, not both")
        return self


def check_format_constraints(
    constraints: FormatConstraintsConfig, review: ReviewConfig, domains: Sequence[str]
) -> None:
    """Check that a verifier checks the constraints that a recipe asks for.

    Raises:
        ValueError: it has none, or not in every domain.
    """
    place = f"`format_constraints.share: {constraints.share}`"
    if unknown := sorted(set(constraints.domains or ()) - set(domains)):
        raise ValueError(f"`format_constraints.domains`: `{unknown[0]}` is not in `domains` ({', '.join(domains)})")
    verifier = next((verifier for verifier in review.verifiers if verifier.kind == "format"), None)
    if constraints.repair and (verifier is None or verifier.mode != "filter"):
        raise ValueError(
            "`format_constraints.repair` repairs what a verifier rejected; add `{kind: format, mode: filter}` to "
            "`review.verifiers`"
        )
    if not constraints.share:
        return
    if verifier is None:
        fix = "add `{kind: format, mode: filter}` to `review.verifiers`"
        raise ValueError(f"{place} asks for constraints that no verifier would check; {fix}")
    if unchecked := sorted(set(constraints.domains or domains) - set(verifier.domains or domains)):
        fix = "leave out the `domains` of the verifier, or name the same in `format_constraints.domains`"
        raise ValueError(f"{place} asks for constraints in `{unchecked[0]}`, where no verifier checks them; {fix}")
