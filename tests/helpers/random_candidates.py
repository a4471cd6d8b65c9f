"""Random candidates for hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

from gra.core.types import (
    Abstained,
    AlternativeResponse,
    Candidate,
    ContaminationMatch,
    InstructionReview,
    Review,
    Ruling,
    State,
    Usage,
    Verified,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
numbers = st.floats(0, 10)
tuples = st.lists(texts, max_size=3).map(tuple)
values = st.dictionaries(texts, numbers, max_size=3)
reviews = st.lists(st.builds(Review, texts, values, numbers, numbers, texts), max_size=3).map(tuple)
rulings = st.none() | st.builds(Ruling, texts, values, numbers, texts, st.booleans())
drafts = st.builds(
    AlternativeResponse, st.integers(0, 9), texts, texts, reviews, st.none() | numbers, st.none() | numbers, rulings
)
usage = st.builds(Usage, *(st.integers(0, 10**9) for _ in range(3)))
takes = st.sampled_from(["score", "filter"])
programs = st.builds(Verified, texts, takes, tuples, tuples, numbers) | st.builds(Abstained, texts, takes, texts)
verdicts = st.sampled_from(["clean", "suspect", "contaminated"])
contaminations = st.builds(
    ContaminationMatch, verdicts, st.integers(0, 9), texts, texts, texts, numbers, st.integers(0, 99), texts, texts
)
candidates = st.builds(
    Candidate,
    id=texts, round=st.integers(0, 9), index=st.integers(0, 10**6), domain=texts, state=st.sampled_from(State),
    reason=texts, arm=texts, generator=texts, reviewers=tuples, adjudicator=texts, parents=tuples, keywords=tuples,
    instruction=texts, response=texts,
    checks=st.lists(st.builds(InstructionReview, texts, values, tuples), max_size=3).map(tuple),
    reviews=reviews,
    mean=st.none() | numbers, std=st.none() | numbers,
    ruling=rulings,
    disputed=st.booleans(), neighbour=texts, similarity=st.none() | st.floats(-1, 1),
    usage=st.dictionaries(texts, usage, max_size=3), calls=tuples,
    verifications=st.lists(programs, max_size=3).map(tuple),
    alternatives=st.lists(drafts, max_size=2).map(tuple),
    contamination=st.none() | contaminations,
)  # fmt: skip
