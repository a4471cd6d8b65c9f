"""Chat-template tokens and thinking stay out of rows, prompts and verifiers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import scripted_run
from hypothesis import given
from hypothesis import strategies as st
from scripted_rounds import run, small
from scripted_run import answer_by_content, make_recipe, said, write_job

from gra.core.text.special_tokens import COMMON, SpecialTokens
from gra.core.types import State
from gra.core.vocabulary import RejectedAt
from gra.data.export import read_candidates
from gra.engines.types import Call, Completion, Fault, Json, Text
from gra.models.chat import template_tokens


def ending_in(tail: str) -> scripted_run.Script:
    """Answer as always, with a text after every free answer."""

    def script(call: Call) -> Completion | Fault:
        answer = answer_by_content(call)
        assert isinstance(answer, Completion)
        return said(answer.text + tail) if isinstance(call.output, Text) else answer

    return script


@pytest.mark.parametrize("token", ["<|im_end|>", "<end_of_turn>", "</s>"])
def test_response_with_a_template_token_is_rejected(tmp_path: Path, token: str) -> None:
    found = run(tmp_path, small(), 8, ending_in(f" {token}"))
    written = [c for c in found.candidates if c.response]
    assert written
    assert all(c.state is State.REJECTED and c.rejected_at is RejectedAt.SPECIAL_TOKEN for c in written)
    assert all(token in c.reason and not c.reviews for c in written)


def test_instruction_with_a_template_token_is_rejected_before_review(tmp_path: Path) -> None:
    def script(call: Call) -> Completion | Fault:
        if isinstance(call.output, Json) and "exercise" in call.output.schema["properties"]:
            return said(json.dumps({"exercise": "Repeat this after me: <|im_start|>system"}))
        return answer_by_content(call)

    found = run(tmp_path, small(), 8, script)
    stopped = [c for c in found.candidates if c.instruction]
    assert stopped
    assert {c.rejected_at for c in stopped} == {RejectedAt.SPECIAL_TOKEN}
    assert not any(c.checks for c in stopped)


@pytest.mark.parametrize(
    "arm", [{"arm": "distilled", "committee": None, "teacher": {"model": "model-t"}}, {"arm": "refined"}]
)
def test_tokens_of_the_runs_own_models_are_rejected_in_every_arm(tmp_path: Path, arm: dict[str, Any]) -> None:
    write_job(tmp_path, make_recipe(**arm))
    scripted_run.make(tmp_path, answer=ending_in(" <|scripted|>"))
    written = [c for c in read_candidates(tmp_path / "lineage.parquet") if c.response]
    assert written
    assert {c.rejected_at for c in written} == {RejectedAt.SPECIAL_TOKEN}


def test_seed_with_a_template_token_is_no_row_of_vanilla(tmp_path: Path) -> None:
    write_job(tmp_path, make_recipe(arm="vanilla", committee=None))
    lines = (tmp_path / "seeds.jsonl").read_text().splitlines()
    lines[0] = json.dumps(json.loads(lines[0]) | {"response": "Done.<|im_end|>"})
    (tmp_path / "seeds.jsonl").write_text("\n".join(lines))
    scripted_run.make(tmp_path)
    first, *others = read_candidates(tmp_path / "lineage.parquet")
    assert (first.state, first.rejected_at) == (State.REJECTED, RejectedAt.SPECIAL_TOKEN)
    assert {c.state for c in others} == {State.ACCEPTED}


@given(st.text(), st.sampled_from(sorted(COMMON)), st.text())
def test_token_is_found_anywhere(before: str, token: str, after: str) -> None:
    assert SpecialTokens().find(before + token + after)


@pytest.mark.parametrize("text", ["a < b > c", "<s>old</S>", "List[int]", "<|", "x |> f", "<END_OF_TURN>"])
def test_ordinary_text_holds_no_token(text: str) -> None:
    assert SpecialTokens().find(text) == ""


def test_model_folder_gives_the_tokens_of_its_template(tmp_path: Path) -> None:
    decoder = {
        "1": {"content": "<turn>", "special": True}, "2": {"content": "<unused>", "special": True},
        "3": {"content": "plain", "special": False},
    }  # fmt: skip
    config = {"chat_template": "<turn>{{ messages }}plain", "added_tokens_decoder": decoder, "eos_token": "<stop>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert template_tokens(tmp_path) == {"<turn>", "<stop>"}


@pytest.mark.parametrize("opening", ["<think>\nLet me see: 42?\n</think>\n\n", "Let me see: 42?\n</think>\n"])
def test_thinking_is_kept_apart_from_the_response(tmp_path: Path, opening: str) -> None:
    prompts: list[str] = []

    def script(call: Call) -> Completion | Fault:
        prompts.append(call.messages[-1][1])
        answer = answer_by_content(call)
        assert isinstance(answer, Completion)
        return said(opening + answer.text) if isinstance(call.output, Text) and answer.text else answer

    found = run(tmp_path, small(review={"accept_mean": 5.0}), 8, script)
    assert found.accepted
    for candidate in found.candidates:
        assert "Let me see" not in candidate.response
        assert "think>" not in candidate.response
        assert candidate.thinking == ("Let me see: 42?" if candidate.response else "")
    assert not any("Let me see" in prompt for prompt in prompts)


def test_half_a_surrogate_pair_enters_no_row(tmp_path: Path) -> None:
    recipe = make_recipe(rounds={"count": 1, "accept": 10, "max_candidates": 10})
    for _ in range(2):  # the second start replays what the first recorded
        write_job(tmp_path, recipe)
        scripted_run.make(tmp_path, answer=ending_in(" \ud83d"))
        for candidate in read_candidates(tmp_path / "lineage.parquet"):
            candidate.response.encode()
