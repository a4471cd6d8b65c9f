"""Training before a step is taken: rows, split, template and stop token."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from training_tiny import PAIRS, load, make_student, row, write_recipe, write_rows

from gra.core.errors import DataError, RecipeError
from gra.training.data.dataset import Row, read_rows, split_rows


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("student"))


def made(prompt: str, answer: str = "yes") -> Row:
    return Row(({"role": "user", "content": prompt},), ({"role": "assistant", "content": answer},), "here")


# --- rows --------------------------------------------------------------------------------------------


def test_bad_rows_are_all_named(tmp_path: Path) -> None:
    path = write_rows(
        tmp_path / "rows.jsonl",
        [
            row("a", "b"),
            {"prompt": "a", "completion": "b"},
            row("a", "  "),
            {"prompt": [{"role": "human", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]},
            {"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "user", "content": "b"}]},
            [1],
        ],
    )
    path.write_text(path.read_text() + "{not json\n")
    with pytest.raises(DataError) as caught:
        read_rows(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: 6 bad rows")
    assert "row 2: `prompt` must be a list of messages" in text
    assert "row 3: `completion` has an empty message" in text
    assert "row 4: `prompt` has a message with the role 'human'" in text
    assert "row 5: `completion` must be exactly one message of the assistant" in text
    assert "row 6: not an object" in text
    assert "and 1 more" in text
    assert caught.value.exit_code == 2


def test_a_row_nested_without_end_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("[" * 100_000)
    with pytest.raises(DataError, match=r"row 1: not valid JSON \(nested too deeply\)"):
        read_rows(tmp_path / "rows.jsonl")


def test_half_a_surrogate_pair_is_named_with_its_row(tmp_path: Path) -> None:
    rows = [row("a", "b"), row("half \ud83d", "b"), row("a", "\udc00")]
    with pytest.raises(DataError) as caught:
        read_rows(write_rows(tmp_path / "rows.jsonl", rows))
    assert r"row 2: `prompt` has half of a surrogate pair (\ud83d) in a message of the user" in str(caught.value)
    assert r"row 3: `completion` has half of a surrogate pair (\udc00) in a message of the assistant" in str(
        caught.value
    )
    str(caught.value).encode()  # the sentence itself can be printed


def test_a_line_that_is_too_long_or_no_text_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from functools import partial

    from gra.core.text.lines import bounded_lines
    from gra.training.data import dataset

    monkeypatch.setattr(dataset, "bounded_lines", partial(bounded_lines, longest=200))
    path = write_rows(tmp_path / "rows.jsonl", [row("a", "b"), row("a" * 300, "b")])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + b'{"prompt": "\xff"}\n')
    with pytest.raises(DataError, match=r"(?s)2 bad rows.*row 2: .*longer than 64 MiB.*row 3: .*not UTF-8 text"):
        read_rows(path)


def test_a_parquet_column_that_is_no_text_is_named(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = pa.array([b"\xff", b"\xfe"]).view(pa.string())
    messages = pa.ListArray.from_arrays(
        pa.array([0, 1, 2], pa.int32()),
        pa.StructArray.from_arrays([pa.array(["user", "user"]), texts], ["role", "content"]),
    )
    pq.write_table(pa.table({"prompt": messages, "completion": messages}), tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r"rows\.parquet has a column that cannot be read"):
        read_rows(tmp_path / "rows.parquet")


@pytest.mark.parametrize("name", ["empty.jsonl", "rows.csv", "torn.parquet"])
def test_a_file_without_rows_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match=name):
        read_rows(tmp_path / name)


def test_pairs_are_read_as_strictly_as_rows(tmp_path: Path) -> None:
    from gra.training.data.dataset import Pair, read_pairs

    user = [{"role": "user", "content": "a"}]
    yes, no = ([{"role": "assistant", "content": text}] for text in "bc")
    path = write_rows(tmp_path / "pairs.jsonl", [{"prompt": user, "chosen": yes, "rejected": no}])
    (pair,) = read_pairs(path)
    assert isinstance(pair, Pair)
    assert (pair.completion[0]["content"], pair.rejected[0]["content"]) == ("b", "c")
    write_rows(path, [{"prompt": user, "chosen": yes}, {"prompt": user, "chosen": yes, "rejected": yes}, row("a", "b")])
    with pytest.raises(DataError) as caught:
        read_pairs(path)
    assert "row 1: `rejected` must be a list of messages" in str(caught.value)
    assert "row 2: `chosen` and `rejected` are the same" in str(caught.value)
    assert "row 3: `chosen` must be a list of messages" in str(caught.value)


def test_parquet_and_jsonl_give_the_same_rows(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [row(*pair) | {"domain": "qa", "score": 8.5} for pair in PAIRS]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    written = read_rows(tmp_path / "rows.parquet")
    assert [(item.prompt, item.completion) for item in written] == [
        (item.prompt, item.completion) for item in read_rows(write_rows(tmp_path / "rows.jsonl", rows))
    ]
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match="no column `completion` and `prompt`"):
        read_rows(tmp_path / "other.parquet")


prompts = st.lists(st.text(st.characters(codec="ascii"), min_size=1, max_size=3), min_size=2, max_size=30)


@given(prompts, st.floats(0.05, 0.6), st.integers(0, 3))
def test_the_split_is_seeded_and_never_leaks_a_prompt(texts: list[str], fraction: float, seed: int) -> None:
    rows = [made(text, str(number)) for number, text in enumerate(texts)]
    if len(set(texts)) < 2:
        return
    split = split_rows([(rows, 1.0)], fraction, seed)
    held = {row.prompt[0]["content"] for row in split.heldout}
    assert len(held) == max(1, round(fraction * len(set(texts))))
    assert not held & {row.prompt[0]["content"] for row in split.train}
    assert len(split.train) + len(split.heldout) == split.read == len(texts)
    turned = split_rows([(rows[::-1], 1.0)], fraction, seed)  # the order of the file decides nothing
    assert {row.prompt[0]["content"] for row in turned.heldout} == held


@given(st.floats(0.01, 4.0))
def test_a_weight_repeats_and_thins_rows(weight: float) -> None:
    rows = [made(str(number)) for number in range(100)]
    split = split_rows([(rows, weight)], 0.0, 0)
    assert len(split.train) == int(weight) * 100 + round((weight - int(weight)) * 100)
    seen = Counter(item.prompt[0]["content"] for item in split.train)
    assert {seen[str(number)] for number in range(100)} <= {int(weight), int(weight) + 1}
    assert split == split_rows([(rows, weight)], 0.0, 0)


# --- template and labels -----------------------------------------------------------------------------

texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1).filter(
    lambda text: text.strip() and "<eos>" not in text
)


@pytest.fixture(scope="module")
def plain(student: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from gra.training.data.tokenize import student_tokenizer

    folder = tmp_path_factory.mktemp("recipe")
    return student_tokenizer(student, load(write_recipe(folder, student, folder / "none.jsonl")))


def test_the_loss_is_on_the_answer_and_its_stop_token_only(plain: Any) -> None:
    from gra.training.data.tokenize import IGNORED, encode, show_row

    encoded = encode(plain, [made("Say red.", "red")], None)
    ids, labels = encoded.columns["input_ids"][0], encoded.columns["labels"][0]
    inside = [label for label in labels if label != IGNORED]
    assert plain.decode(inside) == "red<eos>"
    assert labels[-len(inside) :] == ids[-len(inside) :] == inside
    assert ids.count(plain.bos_token_id) == 1
    assert show_row(plain, encoded) == "<bos>### Instruction:\nSay red.\n\n### Response:\n⟦red<eos>⟧"


@given(texts, texts, st.booleans())
def test_the_prompt_is_a_prefix_and_the_stop_token_is_learnt(
    plain: Any, prompt: str, answer: str, system: bool
) -> None:
    from gra.training.data.tokenize import IGNORED, encode, prompt_ids

    first = ({"role": "system", "content": "Be brief."},) if system else ()
    messages = (*first, {"role": "user", "content": prompt})
    encoded = encode(plain, [Row(messages, ({"role": "assistant", "content": answer},), "here")], None)
    ids, labels = encoded.columns["input_ids"][0], encoded.columns["labels"][0]
    asked = prompt_ids(plain, messages)
    assert ids[: len(asked)] == asked
    assert all(label == IGNORED for label in labels[: len(asked)])
    assert labels[-1] == plain.eos_token_id


def test_long_rows_are_cut_and_counted(plain: Any) -> None:
    from gra.training.data.tokenize import encode

    rows = [made("a", "b"), made("a", "b" * 100), made("a" * 100, "b")]
    counts = encode(plain, rows, 60).counts()
    assert (counts["rows"], counts["truncated"], counts["dropped"]) == (2, 2, 1)
    assert counts["tokens"] <= 120


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}", "does not end an answer with <eos>"),
        (
            "{{ bos_token + bos_token }}{% for m in messages %}{{ m.content }}"
            "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}",
            "begins with <bos> twice",
        ),
        (
            "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
            "{% if add_generation_prompt %}Answer now:{% endif %}",
            "not a prefix",
        ),
        ("{{ raise_exception('no system role') }}", "refuses this row.*no system role"),
    ],
)
def test_a_template_that_trains_something_else_is_refused(
    student: Path, tmp_path: Path, template: str, message: str
) -> None:
    from gra.training.data.tokenize import encode, student_tokenizer

    (tmp_path / "t.jinja").write_text(template)
    recipe = write_recipe(tmp_path, student, tmp_path / "x.jsonl", model={"chat_template": "t.jinja"})
    with pytest.raises((RecipeError, DataError), match=message):
        encode(student_tokenizer(student, load(recipe)), [made("a", "b")], None)


def test_an_answer_that_writes_the_stop_token_is_refused(plain: Any) -> None:
    from gra.training.data.tokenize import encode

    with pytest.raises(DataError, match="contains <eos>"):
        encode(plain, [made("a", "b<eos>c")], None)


def test_rows_with_a_token_of_the_template_are_set_aside_up_to_a_share(plain: Any) -> None:
    from gra.training.data.tokenize import encode

    good, bad = made("a", "b"), [made("a", "b<eos>"), made("<bos>a", "b")]
    encoded = encode(plain, [good] * 198 + bad, None, 0.01)
    assert len(encoded) == 198
    assert encoded.counts()["set_aside"] == 2
    assert encoded.set_aside == [
        "here: the message of the assistant contains <eos>, with which the chat template marks turns; remove it from "
        "the text",
        "here: the message of the user contains <bos>, with which the chat template marks turns; remove it from the "
        "text",
    ]
    assert len(encode(plain, [good, bad[0]], None, 0.01)) == 1  # one row never stops a small set
    for rows, share in (([good] * 197 + bad, 0.01), ([good] * 199 + bad[:1], 0.0)):
        with pytest.raises(DataError, match=r"(?s)rows that do not fit the chat template.*`data\.max_bad` is"):
            encode(plain, rows, None, share)


def test_a_run_reports_the_rows_it_sets_aside(student: Path, tmp_path: Path) -> None:
    from training_tiny import train

    rows = [row(*pair) for pair in PAIRS]
    data = write_rows(tmp_path / "rows.jsonl", [*rows[:4], row("Say it.", "a<eos>b"), *rows[4:]])
    recipe = write_recipe(tmp_path, student, data, train={"max_steps": 1})
    plan = train(recipe, tmp_path / "model", dry_run=True)
    metrics = train(recipe, tmp_path / "model")
    for counts in (plan["rows"]["train"], metrics["rows"]["train"]):
        assert (counts["rows"], counts["set_aside"]) == (9, 1)
    assert f"{data} row 5: the message of the assistant contains <eos>" in plan["warnings"][0]
    assert "1 set aside because the chat template cannot write them" in (tmp_path / "model/README.md").read_text()
    with pytest.raises(DataError, match="row 5"):
        train(recipe, tmp_path / "strict", "data.max_bad=0", dry_run=True)


def test_thinking_in_an_answer_stays_as_given(plain: Any) -> None:
    from gra.training.data.tokenize import encode, show_row

    encoded = encode(plain, [made("Why?", "<think>\nHm.\n</think>\n\nSo.")], None)
    assert show_row(plain, encoded).endswith("⟦<think>\nHm.\n</think>\n\nSo.<eos>⟧")


def test_a_template_that_leaves_out_a_part_of_the_answer_is_refused(student: Path, tmp_path: Path) -> None:
    from gra.training.data.tokenize import encode, student_tokenizer

    (tmp_path / "t.jinja").write_text(
        "{{ bos_token }}{% for m in messages %}{{ m.content.split('</think>')[-1].strip() }}"
        "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    )
    recipe = write_recipe(tmp_path, student, tmp_path / "x.jsonl", model={"chat_template": "t.jinja"})
    tokenizer = student_tokenizer(student, load(recipe))
    assert len(encode(tokenizer, [made("Why?", " So.\n")], None)) == 1
    with pytest.raises(DataError, match="the chat template leaves out or changes a part of the answer"):
        encode(tokenizer, [made("Why?", "<think>Hm.</think>So.")], None)


def test_a_template_that_writes_half_a_surrogate_pair_is_refused(student: Path, tmp_path: Path) -> None:
    from gra.training.data.tokenize import encode, student_tokenizer

    (tmp_path / "t.jinja").write_text("{{ '\\ud83d' }}{{ messages[0].content }}")
    recipe = write_recipe(tmp_path, student, tmp_path / "x.jsonl", model={"chat_template": "t.jinja"})
    with pytest.raises((DataError, RecipeError), match="chat template"):
        encode(student_tokenizer(student, load(recipe)), [made("a", "b")], None)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [(None, "no chat template of its own"), ("builtin:plane", "builtin:plain"), ("gone.jinja", "is not there"),
     ("half.jinja", r"chat template `half\.jinja` cannot be used \(.*, line 2\)"), (".", "cannot be read"),
     ("latin.jinja", "cannot be read")],
)  # fmt: skip
def test_a_missing_template_says_what_to_do(student: Path, tmp_path: Path, wanted: str | None, message: str) -> None:
    from gra.training.data.tokenize import student_tokenizer

    (tmp_path / "half.jinja").write_text("{{ messages }}\n{% if %}")
    (tmp_path / "latin.jinja").write_bytes("é".encode("latin-1"))
    recipe = write_recipe(tmp_path, student, tmp_path / "x.jsonl", model={"chat_template": wanted})
    with pytest.raises(RecipeError, match=message):
        student_tokenizer(student, load(recipe))
