"""The quick look at an answer's shape never says yes where jsonschema says no."""

from __future__ import annotations

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gra.core.types import CHECKS, DIMENSIONS
from gra.engines.json_check import affirm
from gra.synthesis.committee.generator import KEYWORDS
from gra.synthesis.committee.reviewer import COMMENT, check_schema, score_schema

SCORES = score_schema(DIMENSIONS, comment=False)

GRADE = {"type": "integer", "minimum": 0, "maximum": 10}
members = st.one_of(
    st.just(GRADE),
    st.just({"type": "string", "minLength": 2, "maxLength": 4}),
    st.just({"type": "string", "enum": ["a", "bb"]}),
    st.just({"type": "boolean", "title": "sound"}),
    st.just({"type": "number", "minimum": 0}),
    st.just({"type": "string", "pattern": "^a"}),
    st.just({"type": ["string", "null"]}),
    st.just({"type": "array", "items": GRADE, "minItems": 1, "maxItems": 2}),
    st.just({"type": "array", "uniqueItems": True}),
    st.just({"enum": [1, "a"]}),
    st.just({}),
)
schemas = st.builds(
    lambda properties, required, closed: {
        "type": "object", "properties": properties, "required": required,
        **({} if closed is None else {"additionalProperties": closed}),
    },
    st.dictionaries(st.sampled_from("xyz"), members), st.lists(st.sampled_from("xyz"), unique=True),
    st.sampled_from([None, True, False]),
)  # fmt: skip
values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 12) | st.floats(-1, 11) | st.sampled_from(["", "a", "bb", "abcde"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("wxyz"), inner),
    max_leaves=6,
)


@given(schemas | members, values)
def test_what_is_affirmed_is_valid(schema: dict, value: object) -> None:
    if affirm(schema)(value):
        jsonschema.Draft202012Validator(schema).validate(value)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (SCORES.schema, dict.fromkeys(SCORES.schema["properties"], 7)),
        (check_schema(CHECKS).schema, {"reasonable": True, "complete": False, "clear": True}),
        (COMMENT.schema, {"comment": "It is right and short."}),
        (KEYWORDS.schema, {"keywords": ["tides", "moon", "salt"]}),
    ],
)
def test_good_answers_to_our_own_questions_need_no_jsonschema(schema: dict, value: object) -> None:
    assert affirm(schema)(value)
