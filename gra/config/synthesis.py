"""Define synthesis recipes; defaults are the constants of the paper (Gao et al. 2025, arXiv 2504.12322)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from gra.config.arms import AnnotateConfig, ArmName, ArmSpec, RefineConfig, SelfGuideConfig, check_annotate, find_arm
from gra.config.budget import BudgetConfig, PricesConfig, check_prices
from gra.config.committee import (
    NUMBER_ASKS,
    Ask,
    CommitteeConfig,
    DomainKind,
    EngineConfig,
    MemberConfig,
    TeacherOrName,
    is_asked,
)
from gra.config.names import Name
from gra.config.review import FormatConstraintsConfig, ReviewConfig, check_format_constraints
from gra.config.section import Section
from gra.config.tracking import TrackingConfig
from gra.core.duplicates import repeated
from gra.stats.apportion import apportion


def _each_named_once(domains: list[str]) -> list[str]:
    if twice := repeated(domains):
        raise ValueError(f"has `{twice[0]}` twice; name each domain once")
    if not all(map(str.strip, domains)):
        raise ValueError("has a domain without a name; leave it out")
    return domains


DOMAINS = ("coding", "math", "qa", "reasoning", "role-play", "language", "creation")


class SeedsConfig(Section):
    """Source of the seeds: a .jsonl, .json, .parquet or .csv file, or a dataset on the hub."""

    source: str
    format: Literal["auto", "gra", "alpaca", "self_instruct", "sharegpt", "messages", "prompt_completion"] = "auto"
    domain: str | None = None  # of rows that have none
    limit: int | None = Field(None, ge=1)  # drawn evenly over the domains
    max_bad: float = Field(0.01, ge=0, le=1)  # the share of rows that may be set aside before the run stops
    turns: Literal["only", "first"] = "only"  # of longer conversations: none, or the first question and its answer
    # Of a dataset on the hub.
    config: str | None = None
    split: str = "train"
    revision: str | None = None


class RoundsConfig(Section):
    """Number of rounds, accepted rows of each, and the most candidates."""

    count: int = Field(5, ge=1, le=100_000)
    accept: int = Field(10_000, ge=1, le=2**40)  # rows kept per round
    max_candidates: int = Field(40_000, ge=1, le=1_000_000)  # their names end in six digits
    # What the generator sees of the parents beside their keywords: summaries, as in the paper, whole instructions, or
    # requests for them with the instructions as answers. The smaller a model, the more it needs the last.
    parents: Literal["summaries", "instructions", "examples"] = "summaries"
    # How the rows of a round split over the domains: null as it comes, `even`, or a share for every domain.
    quotas: Literal["even"] | dict[str, Annotated[float, Field(ge=0)]] | None = None
    parent_count: int = Field(2, ge=2, le=8)  # parents of a candidate; a smaller domain gives all that it has
    draw: Literal["uniform", "thin"] = "uniform"  # thin: samples with distant neighbors become parents more often
    siblings: int = Field(1, ge=1, le=16)  # candidates that share their parents, so that prompts are read once
    # How long a response is: as the prompt says, as the longest of the parents' responses, or as these are shown.
    response_length: Literal["prompt", "parents", "examples"] = "prompt"

    def parent_key_in_use(self) -> str | None:
        """Return a key about parents that differs from its default; None where there is none."""
        names = ("parent_count", "draw", "siblings", "response_length")
        defaults = {name: type(self).model_fields[name].default for name in names}
        return next((name for name, value in defaults.items() if getattr(self, name) != value), None)


class EnrichmentConfig(Section):
    """Keywords of accepted rows that become parents: those of their prompt, or extracted from the row."""

    keywords: Literal["keep", "extract"] = "keep"


class DedupConfig(Section):
    """Greedy deduplication in descending score, by text and embedding (paper: MiniLM, cosine below 0.9)."""

    renamed = {"likeness": "`minhash`"}

    embedder: str = "catalog:all-minilm-l6-v2"
    threshold: float = Field(0.9, gt=0, le=1)
    text: Literal["instruction", "instruction+response"] = "instruction"
    # MinHash: the Jaccard similarity of character 5-grams at which wording counts as the same too; null leaves it out.
    minhash: float | None = Field(None, gt=0, le=1)


class ContaminationConfig(Section):
    """Suite whose items must not get into the dataset, and the folder of its files (null: the catalog's)."""

    suite: str
    data_dir: str | None = None


class SynthesisRecipe(Section):
    """One arm of data synthesis."""

    renamed = {"drafts": "`best_of`", "forms": "`format_constraints`", "accept_licences": "`accept_licenses`"}

    name: Name
    seed: int = 0
    arm: ArmName = "gra"
    seeds: SeedsConfig
    domains: Annotated[list[str], AfterValidator(_each_named_once)] = Field(list(DOMAINS), min_length=1)
    committee: CommitteeConfig | None = None
    teacher: TeacherOrName | None = None
    engine: EngineConfig = EngineConfig()
    rounds: RoundsConfig = RoundsConfig()
    enrichment: EnrichmentConfig = EnrichmentConfig()
    format_constraints: FormatConstraintsConfig = FormatConstraintsConfig()
    refine: RefineConfig = RefineConfig()
    self_guide: SelfGuideConfig | None = None  # null: keywords, an instruction from them, and one response
    annotate: AnnotateConfig | None = None  # of `arm: annotate`
    review: ReviewConfig = ReviewConfig()
    # Responses to each instruction; the best is taken, and each worse one makes a preference pair with it.
    best_of: int = Field(1, ge=1, le=16)
    best_by: Literal["scores", "pairwise"] = "scores"  # pairwise: reviewers compare the responses that passed
    revise: int = Field(0, ge=0, le=1)  # how often a response that did not pass goes back with what reviewers said
    # What follows an answer that was cut off: the same call again (`engine.max_attempts`), or one for a shorter answer.
    on_cutoff: Literal["repeat", "shorter"] = "repeat"
    dedup: DedupConfig = DedupConfig()
    contamination: ContaminationConfig | None = None  # null: no check
    # Recorded answers to control items and about seeds, which are not asked again (`gra ledger preparation`).
    preparation: str | None = None
    ledger: str | None = None  # a file that several runs share as a cache; null: one in the run folder
    budget: BudgetConfig = BudgetConfig()
    prices: PricesConfig = PricesConfig()
    tracking: TrackingConfig = TrackingConfig()
    accept_licenses: list[str] = []

    @property
    def arm_spec(self) -> ArmSpec:
        """Return the specification of the recipe's arm."""
        return find_arm(self.arm, self.teacher.writes if self.teacher is not None else None)

    @property
    def prompt_folders(self) -> list[str]:
        """The folders of prompts that the recipe uses beside those of the paper's method."""
        used = {
            "self_guide": self.self_guide is not None,
            "optional": self.revise > 0 or self.on_cutoff == "shorter" or self.rounds.parent_count > 2,
            "length": self.rounds.response_length == "parents",
            "examples": self.rounds.parents == "examples",
            "functions": any(verifier.kind == "functions" for verifier in self.review.verifiers),
            "annotate": self.annotate is not None,
        }
        return [folder for folder, uses in used.items() if uses]

    @model_validator(mode="after")
    def _money_can_be_counted(self) -> SynthesisRecipe:
        members = list(self.committee.models.values()) if self.committee else []
        check_prices(self.budget, self.prices, [*members, *([self.teacher] if self.teacher else [])], self.engine)
        return self

    @model_validator(mode="after")
    def _int8_serves_every_member(self) -> SynthesisRecipe:
        members = members_of(self) if self.engine.weights is not None else []
        for member in members:
            if (member.engine or self.engine).kind == "ray":
                raise ValueError(
                    f"`engine.weights: {self.engine.weights}` is for this machine's CPU, and `{member.model}` runs on "
                    "a Ray cluster; leave `engine.weights` out, or serve it here"
                )
            if member.adapter is not None and (member.engine or self.engine).kind == "vllm":
                raise ValueError(
                    f"`engine.weights: {self.engine.weights}` cannot be used with `adapter: {member.adapter}`: on a "
                    "CPU vLLM adds no adapter to 8-bit weights; leave one of them out, or merge the adapter into its "
                    "model"
                )
        return self

    @model_validator(mode="after")
    def _arm_has_its_models(self) -> SynthesisRecipe:
        spec = self.arm_spec
        if spec.needs_committee and self.committee is None:
            raise ValueError(f"`arm: {self.arm}` needs a `committee`")
        if spec.asks_teacher and self.teacher is None:
            raise ValueError(f"`arm: {self.arm}` needs a `teacher`")
        if self.seeds.domain is not None and self.seeds.domain not in self.domains:
            raise ValueError(f"`seeds.domain: {self.seeds.domain}` is not one of `domains` ({', '.join(self.domains)})")
        if spec.single_member and self.committee and self.committee.assignment != "single":
            raise ValueError(f"`arm: {self.arm}` has one member in every role; set `committee.assignment: single`")
        if self.committee and self.committee.assignment == "competence" and not self.review.control_questions:
            raise ValueError(
                "`committee.assignment: competence` learns from questions that members answer; set "
                "`review.control_items`, `natural` in `review.control_kinds`, and `review.control_questions`"
            )
        asked: list[tuple[Ask | None, str]] = [(self.review.ask, "review.ask")]
        asked += [
            (m.ask, f"committee.models.{n}.ask") for n, m in (self.committee.models if self.committee else {}).items()
        ]
        for ask, key in asked:
            if ask in NUMBER_ASKS and not self.review.control_items:
                raise ValueError(f"`{key}: {ask}` has no scale of its own; set `review.control_items` to calibrate it")
        for name, member in (self.committee.models if self.committee else {}).items():
            if member.ask == "reward" and (member.engine or self.engine).kind == "openai":
                raise ValueError(
                    f"`committee.models.{name}.ask: reward` cannot be answered by a server; give the member "
                    "`engine: {kind: vllm}`"
                )
        for verifier in self.review.verifiers:
            if unknown := sorted(set(verifier.domains or ()) - set(self.domains)):
                raise ValueError(
                    f"`review.verifiers`: `{verifier.kind}` is for the domain `{unknown[0]}`, which is not in `domains`"
                )
        return self

    @model_validator(mode="after")
    def _open_domains_have_reviewers(self) -> SynthesisRecipe:
        if self.committee is None:
            return self
        if not self.review.open_domains:
            if named := [name for name, m in self.committee.models.items() if m.asked_in is not None]:
                raise ValueError(
                    f"`committee.models.{named[0]}.asked_in` chooses between open domains and the others; name "
                    "`review.open_domains`, or leave it out"
                )
            return self
        if unknown := sorted(set(self.review.open_domains) - set(self.domains)):
            raise ValueError(f"`review.open_domains`: `{unknown[0]}` is not in `domains` ({', '.join(self.domains)})")
        reviewers = {name: m for name, m in self.committee.models.items() if "reviewer" in m.roles}
        fewest, fix = self.committee.reviewers, "raise `committee.reviewers`, or ask one of them in another way"
        if self.committee.assignment == "competence":
            fewest, fix = min(1, fewest), "take another `committee.assignment`, or ask them in another way"
        kinds: tuple[tuple[DomainKind, str], ...] = (("open", "an open domain"), ("closed", "any other domain"))
        for kind, where in kinds:
            left_out = [n for n, m in reviewers.items() if not is_asked(m.ask or self.review.ask, m.asked_in, kind)]
            if fewest and len(left_out) >= fewest:
                raise ValueError(
                    f"`review.open_domains`: a candidate of {where} may get no reviewer, because {', '.join(left_out)} "
                    f"(by `ask` or `asked_in`) are not asked there; {fix}"
                )
        return self

    @model_validator(mode="after")
    def _responses_can_differ(self) -> SynthesisRecipe:
        if self.best_of == 1:
            if self.best_by == "pairwise":
                raise ValueError("`best_by: pairwise` compares responses; set `best_of` to 2 or more")
            return self
        if self.committee is None or not self.committee.reviewers:
            raise ValueError(
                f"`best_of: {self.best_of}` needs reviewers who find the best one; set it to 1 without them"
            )
        if self.best_by == "pairwise" and not any(
            "reviewer" in member.roles and (member.ask or self.review.ask) not in NUMBER_ASKS
            for member in self.committee.models.values()
        ):
            raise ValueError(
                f"`best_by: pairwise` asks reviewers in words, and all of yours are asked by {', '.join(NUMBER_ASKS)}; "
                "give one another `ask`, or set `best_by: scores`"
            )
        for name, member in self.committee.models.items():
            if "generator" in member.roles and member.sampling.temperature == 0:
                raise ValueError(
                    f"`best_of: {self.best_of}` would all be the same where `committee.models.{name}` writes at "
                    "temperature 0; raise its `sampling.temperature`, or set `best_of` to 1"
                )
        return self

    @model_validator(mode="after")
    def _revision_has_reasons(self) -> SynthesisRecipe:
        spec = self.arm_spec
        if self.revise and not spec.reviews:
            raise ValueError(f"`revise: 1` follows reviews, and `arm: {self.arm}` has none; leave it out")
        if self.on_cutoff == "shorter" and not (spec.asks_teacher or spec.needs_committee):
            raise ValueError(
                f"`on_cutoff: shorter` is for arms that write, and `arm: {self.arm}` does not; leave it out"
            )
        if not self.revise or self.review.verifiers:
            return self
        if self.committee is None or not self.committee.reviewers:
            raise ValueError("`revise: 1` shows the generator what reviewers said; set it to 0 without them")
        reviewers = [member for member in self.committee.models.values() if "reviewer" in member.roles]
        if self.review.comments == "never" or all(member.ask == "reward" for member in reviewers):
            raise ValueError(
                "`revise: 1` has nothing to show the generator, because no reviewer gives comments; set "
                "`review.comments` to `disputed`, have a reviewer that writes, or set `revise` to 0"
            )
        return self

    @model_validator(mode="after")
    def _format_constraints_are_checked(self) -> SynthesisRecipe:
        spec, asks = self.arm_spec, f"`arm: {self.arm}`"
        check_format_constraints(self.format_constraints, self.review, self.domains)
        if self.format_constraints.share and not spec.writes_rounds:
            place = f"`format_constraints.share: {self.format_constraints.share}`"
            raise ValueError(f"{place} is for new instructions, and {asks} has the seeds'; set it to 0")
        if self.format_constraints.repair and not spec.reviews:
            raise ValueError(f"`format_constraints.repair` is for responses that are reviewed, and {asks} reviews none")
        if self.preparation is not None and not (spec.prepares_committee or spec.labels_texts):
            raise ValueError(f"`preparation` prepares a committee, and {asks} has none; leave it out")
        return self

    @model_validator(mode="after")
    def _self_guide_serves(self) -> SynthesisRecipe:
        if self.self_guide is None:
            return self
        if not self.arm_spec.writes_rounds or self.arm_spec.asks_teacher:
            raise ValueError(f"`self_guide` writes new samples, and `arm: {self.arm}` does not; leave it out")
        unused = {
            "best_of": self.best_of > 1,
            "format_constraints": self.format_constraints != FormatConstraintsConfig(),
            "revise": self.revise,
            "on_cutoff": self.on_cutoff != "repeat",
        }
        if key := next((key for key, used in unused.items() if used), None):
            raise ValueError(f"`self_guide` takes the output that its draws agree on; leave `{key}` out")
        if key := self.rounds.parent_key_in_use():
            raise ValueError(f"`self_guide` draws examples and rows of its own; leave `rounds.{key}` out")
        return self

    @model_validator(mode="after")
    def _annotate_serves(self) -> SynthesisRecipe:
        check_annotate(self.arm, self.annotate, self.committee, self.review)
        return self

    @model_validator(mode="after")
    def _rounds_can_be_filled(self) -> SynthesisRecipe:
        rounds = self.rounds
        if not self.arm_spec.writes_rounds and (key := rounds.parent_key_in_use()):
            raise ValueError(f"`rounds.{key}` is about parents, and `arm: {self.arm}` has none; leave it out")
        if self.arm_spec.writes_rounds and rounds.accept > rounds.max_candidates:
            raise ValueError(
                f"`rounds.accept: {rounds.accept}` cannot be reached with `rounds.max_candidates: "
                f"{rounds.max_candidates}`: every accepted row is one candidate. Raise `max_candidates`, or lower "
                "`accept`"
            )
        if rounds.siblings > 1 and rounds.quotas is not None:
            raise ValueError(
                "`rounds.siblings` needs domains that take turns, and `rounds.quotas` plans them; leave one of them out"
            )
        if self.arm_spec.writes_rounds and self.seeds.limit == 1:
            raise ValueError("`seeds.limit: 1` leaves one seed, and a candidate needs two parents; raise it")
        if self.arm_spec.writes_rounds and rounds.quotas == "even" and rounds.accept < len(self.domains):
            raise ValueError(
                f"`rounds.accept: {rounds.accept}` cannot be split evenly over {len(self.domains)} domains; raise "
                "`accept`, name fewer `domains`, or leave `rounds.quotas` out"
            )
        return self

    @model_validator(mode="after")
    def _quotas_name_the_domains(self) -> SynthesisRecipe:
        quotas = self.rounds.quotas
        if isinstance(quotas, dict):
            if set(quotas) != set(self.domains):
                named = ", ".join(sorted(set(quotas) ^ set(self.domains)))
                raise ValueError(f"`rounds.quotas` needs one share for each of `domains`, and no other (see {named})")
            if not sum(quotas.values()) > 0:
                raise ValueError("`rounds.quotas` leaves no rows to any domain; give at least one a share above 0")
            rows = apportion(quotas, self.rounds.accept)
            if self.arm_spec.writes_rounds and (empty := [name for name, n in rows.items() if not n and quotas[name]]):
                raise ValueError(
                    f"`rounds.quotas` leaves no row of {self.rounds.accept} to {', '.join(empty)}; raise "
                    "`rounds.accept` or the share, or set the share to 0"
                )
        return self


def reviews_responses(recipe: SynthesisRecipe) -> bool:
    """Return whether reviewers score the responses of an arm."""
    committee = committee_of(recipe)
    return recipe.arm_spec.reviews and committee is not None and committee.reviewers > 0


def committee_of(recipe: SynthesisRecipe) -> CommitteeConfig | None:
    """Return the committee of an arm: its own, one of the teacher alone, or None (`vanilla`).

    A `single` committee is reduced to its lead.
    """
    spec = recipe.arm_spec
    if spec.asks_teacher and recipe.teacher is not None:
        return CommitteeConfig(models={"teacher": recipe.teacher}, reviewers=0, assignment="single")
    committee = recipe.committee if spec.needs_committee else None
    if committee is None or committee.assignment != "single":
        return committee
    lead = committee.lead or next(name for name, member in committee.models.items() if "generator" in member.roles)
    return committee.model_copy(update={"models": {lead: committee.models[lead]}, "lead": lead})


def members_of(recipe: SynthesisRecipe) -> list[MemberConfig]:
    """List the members of an arm, in the recipe's order."""
    committee = committee_of(recipe)
    return list(committee.models.values()) if committee is not None else []
