"""List what each arm of a comparison does, in one table, and define the sections of single arms.

To add an arm, add a line to `ARMS` and a module to gra/synthesis/arms that runs it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from gra.config.committee import CommitteeConfig
from gra.config.review import ReviewConfig
from gra.config.section import Section
from gra.core.duplicates import repeated


@dataclass(frozen=True, slots=True)
class ArmSpec:
    """State what one arm does.

    Attributes:
        module: the module in gra/synthesis/arms that runs the arm.
        keeps_seed_instructions: whether the arm makes one candidate a seed, with the seed's own instruction.
        asks_teacher: whether the recipe's `teacher` writes, and no committee.
        needs_committee: whether the recipe's `committee` writes.
        writes_rounds: whether the arm writes new samples, round after round.
        reviews: whether reviewers score responses, where the committee has reviewers.
        deduplicates: whether near copies are left out.
        single_member: whether one member plays every role.
        labels_texts: whether members annotate the seeds' texts, and their votes decide the labels.
    """

    module: str
    keeps_seed_instructions: bool = False
    asks_teacher: bool = False
    needs_committee: bool = False
    writes_rounds: bool = False
    reviews: bool = False
    deduplicates: bool = False
    single_member: bool = False
    labels_texts: bool = False

    @property
    def prepares_committee(self) -> bool:
        """Whether models are asked before the first candidate: to enrich seeds, and to measure a committee's reviewers.

        `distilled_samples` has no committee: its teacher only enriches the seeds.
        """
        return self.needs_committee or self.writes_rounds


ARMS: dict[str, ArmSpec] = {
    "vanilla": ArmSpec("vanilla", keeps_seed_instructions=True),
    "distilled": ArmSpec("distilled", keeps_seed_instructions=True, asks_teacher=True),
    "refined": ArmSpec("refined", keeps_seed_instructions=True, needs_committee=True, reviews=True),
    "gra": ArmSpec("gra", needs_committee=True, writes_rounds=True, reviews=True, deduplicates=True),
    "integrated": ArmSpec(
        "integrated",
        keeps_seed_instructions=True,
        needs_committee=True,
        writes_rounds=True,
        reviews=True,
        deduplicates=True,
    ),
    "self_guide": ArmSpec(
        "self_guide", needs_committee=True, writes_rounds=True, reviews=True, deduplicates=True, single_member=True
    ),
    "annotate": ArmSpec("annotate", keeps_seed_instructions=True, needs_committee=True, labels_texts=True),
}
# `distilled` with `teacher.writes: samples`: the teacher writes new instructions too.
DISTILLED_SAMPLES = ArmSpec("distilled_samples", asks_teacher=True, writes_rounds=True, deduplicates=True)


def find_arm(name: str, teacher_writes: str | None = None) -> ArmSpec:
    """Return the specification of a recipe's arm.

    Args:
        name: the recipe's `arm`.
        teacher_writes: the recipe's `teacher.writes`, where it has a teacher.
    """
    spec = ARMS[name]
    return DISTILLED_SAMPLES if spec.asks_teacher and teacher_writes == "samples" else spec


def _known(name: str) -> str:
    if name not in ARMS:
        *first, last = (f"'{arm}'" for arm in ARMS)
        expected = f"{', '.join(first)} or {last}"
        raise PydanticCustomError("literal_error", "Input should be {expected}", {"expected": expected})
    return name


ArmName = Annotated[str, AfterValidator(_known)]


NO_TYPE = "none"  # what the adjudicator answers where a span is of no type


def _types(names: list[str]) -> list[str]:
    if twice := repeated(names):
        raise ValueError(f"has `{twice[0]}` twice; name each type once")
    if NO_TYPE in names or not all(map(str.strip, names)):
        raise ValueError(f"cannot have an empty type or `{NO_TYPE}`, which is the adjudicator's word; rename it")
    return names


def _range(bounds: list[float]) -> list[float]:
    if not 0 <= bounds[0] <= bounds[1] <= 1:
        raise ValueError(f"is a range of probabilities from low to high, such as [0.35, 0.65], not {bounds}")
    return bounds


class AnnotateConfig(Section):
    """Label the seeds' texts by a committee (`arm: annotate`): the seeds' responses are labels of people."""

    # spans: names in the text, each with one of `types`. label: one of `types` for the whole text.
    kind: Literal["spans", "label"] = "spans"
    types: Annotated[list[str], Field(min_length=1), AfterValidator(_types)]
    store: float = Field(0.3, ge=0, le=1)  # share of the labeled texts that serve as examples; the others get labels
    examples: int = Field(4, ge=0, le=100)  # labeled texts in each prompt
    choose: Literal["nearest", "random"] = "nearest"  # by embedding (`dedup.embedder`), or drawn for each text
    # measured: weights fitted on labeled texts. label_model: from agreement alone. majority: equal weights.
    votes: Literal["measured", "label_model", "majority"] = "measured"
    control: int = Field(30, ge=1, le=1_000_000)  # texts of the store that measure the members
    # Labels with a probability in this range are in doubt; `review.disputed` says what becomes of them.
    doubt: Annotated[list[float], Field(min_length=2, max_length=2), AfterValidator(_range)] = [0.35, 0.65]

    @property
    def needs_embedder(self) -> bool:
        """Whether examples are chosen by embedding."""
        return self.examples > 0 and self.choose == "nearest"


def check_annotate(
    arm: str, config: AnnotateConfig | None, committee: CommitteeConfig | None, review: ReviewConfig
) -> None:
    """Check that the arm `annotate` has what it needs, and nothing that it would ignore.

    Raises:
        ValueError: with the sentence for the user.
    """
    if not ARMS[arm].labels_texts:
        if config is not None:
            raise ValueError(f"`annotate` belongs to `arm: annotate`, not to `arm: {arm}`; leave it out")
        return
    if config is None:
        raise ValueError(f"`arm: {arm}` needs to know what to look for; set `annotate.types`")
    if committee is not None and committee.reviewers:
        raise ValueError(f"`arm: {arm}` has no reviews, because members' votes decide; set `committee.reviewers: 0`")
    for key in ("verifiers", "control_items", "control_questions"):
        if getattr(review, key):
            raise ValueError(f"`arm: {arm}` measures members on labeled texts (`annotate.control`); leave out `{key}`")
    members = committee.models.values() if committee is not None else ()
    if review.disputed == "adjudicate" and not any("adjudicator" in member.roles for member in members):
        raise ValueError(
            f"`arm: {arm}` has no member for labels in doubt; give one the role `adjudicator`, or set "
            "`review.disputed: accept` or `reject`"
        )


class RefineConfig(Section):
    """What the `refined` arm does with a seed; its instruction stays as it is."""

    writes: Literal["rewrite", "answer"] = "rewrite"  # whether the generator sees the seed's own response
    rejected: Literal["drop", "keep"] = "drop"  # keep: the seed's own response goes into the dataset instead


class SelfGuideConfig(Section):
    """Write inputs and outputs by SELF-GUIDE in place of keywords and an instruction from them."""

    examples: int = Field(3, ge=2, le=100)  # seeds of a domain that serve as worked examples
    outputs: int = Field(10, ge=1, le=100)  # draws of the output of one input
    output_temperature: float = Field(0.2, ge=0, le=2)
    least_share: float = Field(0.3, gt=0, le=1)  # of the draws that must agree
    # Whether lengths must be within two standard deviations of the examples'. Of inputs that is for labels only.
    input_length: bool = False
    output_length: bool = True
