"""Training before a step is taken: options, rows, split, template and stop token, recipes."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from training_tiny import PAIRS, load, make_student, row, write_recipe, write_rows

from gra.core.errors import DataError, RecipeError
from gra.training.rows import Row, read_rows, split_rows

ROOT = Path(__file__).parent.parent
RECIPES = sorted((ROOT / "recipes").glob("*/sft/*.yaml"))


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("student"))


def made(prompt: str, answer: str = "yes") -> Row:
    return Row(({"role": "user", "content": prompt},), ({"role": "assistant", "content": answer},), "here")


# --- options -----------------------------------------------------------------------------------------


def test_every_wrong_option_is_named_at_once_with_its_line(tmp_path: Path) -> None:
    from gra.training.arguments import check_arguments

    path = tmp_path / "r.yaml"
    path.write_text(
        "name: x\n"
        "model: {name: m}\n"
        "train:\n"
        "  max_seq_length: 2048\n"
        "  learning_rat: 5e-6\n"
        "  seed: 3.7\n"
        "  packing_strategy: bogus\n"
        "  lr_scheduler_type: cosin\n"
        "  report_to: wandb\n"
        "  max_length: [1, 2]\n"
        "  warmup_steps: 0.1\n"
        "  num_train_epochs: 3\n"
    )
    with pytest.raises(RecipeError) as caught:
        check_arguments(load(path, "train.torch_dtype=float16"))
    expected = [
        "line 4: `train.max_seq_length` is not an option of this TRL: renamed to `max_length`",
        "line 5: `train.learning_rat` is not an option of trl.SFTConfig; did you mean `learning_rate`?",
        "line 6: `train.seed` should be a valid integer, not 3.7",
        "line 7: `train.packing_strategy` must be one of bfd, bfd_split, wrapped, not 'bogus'",
        "line 8: `train.lr_scheduler_type` must be one of",
        "line 9: `train.report_to` is set by GRA: set `tracking.wandb`",
        "line 10: `train.max_length` should be a valid integer, not [1, 2]",
        "command line (train.torch_dtype=float16): `train.torch_dtype` is not an option of this TRL: set `model.dtype`",
    ]
    assert len(caught.value.problems) == len(expected)
    for problem, beginning in zip(caught.value.problems, expected, strict=True):
        assert problem.startswith(beginning)


def test_the_tables_of_names_agree_with_the_installed_trl() -> None:
    import dataclasses

    from trl import SFTConfig

    from gra.training.arguments import DEFAULTS, OURS, RENAMED
    from gra.training.plan import _WITHOUT_EFFECT

    fields = {field.name for field in dataclasses.fields(SFTConfig)}
    assert not set(RENAMED) & fields
    assert set(OURS) | set(DEFAULTS) | _WITHOUT_EFFECT <= fields


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_recipe_is_valid_and_says_how_to_launch_it(path: Path, tmp_path: Path) -> None:
    from gra.training.arguments import build_arguments

    name = str(path.relative_to(ROOT))
    build_arguments(load(path), tmp_path)
    commands = re.findall(r"^# (accelerate launch .*)$", path.read_text(), flags=re.M)
    assert len(commands) == 1
    assert f"train.py --config {name} " in commands[0]
    for file in re.findall(r"recipes/accelerate/\S+", commands[0]):
        assert (ROOT / file).is_file()


def test_the_papers_recipes_have_the_papers_constants() -> None:
    for folder in ("qwen2.5-7b", "llama-3.1-8b"):
        recipe = load(ROOT / "recipes" / folder / "sft" / "config_full.yaml").recipe
        options = recipe.train
        launch = yaml.safe_load((ROOT / "recipes/accelerate/zero2.yaml").read_text())
        rows = options["per_device_train_batch_size"] * options["gradient_accumulation_steps"]
        assert rows * launch["num_processes"] == 256
        assert (options["learning_rate"], options["lr_scheduler_type"], options["warmup_steps"]) == (
            5e-6,
            "cosine",
            0.03,
        )
        assert (options["max_length"], options["num_train_epochs"], recipe.lora) == (4096, 1, None)


@pytest.mark.parametrize("path", sorted((ROOT / "recipes/accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_reads_every_launch_file(path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))
    assert config.num_processes == yaml.safe_load(path.read_text())["num_processes"]
    assert f"recipes/accelerate/{path.name} train.py" in path.read_text()


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


@pytest.mark.parametrize("name", ["empty.jsonl", "rows.csv", "torn.parquet"])
def test_a_file_without_rows_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match=name):
        read_rows(tmp_path / name)


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
    from gra.models.catalog import resolve
    from gra.training.template import student_tokenizer

    folder = tmp_path_factory.mktemp("recipe")
    return student_tokenizer(resolve(str(student)), load(write_recipe(folder, student, folder / "none.jsonl")))


def test_the_loss_is_on_the_answer_and_its_stop_token_only(plain: Any) -> None:
    from gra.training.template import IGNORED, encode, show_row

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
    from gra.training.template import IGNORED, encode, prompt_ids

    first = ({"role": "system", "content": "Be brief."},) if system else ()
    messages = (*first, {"role": "user", "content": prompt})
    encoded = encode(plain, [Row(messages, ({"role": "assistant", "content": answer},), "here")], None)
    ids, labels = encoded.columns["input_ids"][0], encoded.columns["labels"][0]
    asked = prompt_ids(plain, messages)
    assert ids[: len(asked)] == asked
    assert all(label == IGNORED for label in labels[: len(asked)])
    assert labels[-1] == plain.eos_token_id


def test_long_rows_are_cut_and_counted(plain: Any) -> None:
    from gra.training.template import encode

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
    from gra.models.catalog import resolve
    from gra.training.template import encode, student_tokenizer

    (tmp_path / "t.jinja").write_text(template)
    recipe = write_recipe(tmp_path, student, tmp_path / "x.jsonl", model={"chat_template": "t.jinja"})
    with pytest.raises((RecipeError, DataError), match=message):
        encode(student_tokenizer(resolve(str(student)), load(recipe)), [made("a", "b")], None)


def test_an_answer_that_writes_the_stop_token_is_refused(plain: Any) -> None:
    from gra.training.template import encode

    with pytest.raises(DataError, match="contains <eos>"):
        encode(plain, [made("a", "b<eos>c")], None)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [(None, "no chat template of its own"), ("builtin:plane", "builtin:plain"), ("gone.jinja", "is not there")],
)
def test_a_missing_template_says_what_to_do(student: Path, tmp_path: Path, wanted: str | None, message: str) -> None:
    from gra.models.catalog import resolve
    from gra.training.template import student_tokenizer

    recipe = write_recipe(tmp_path, student, tmp_path / "x.jsonl", model={"chat_template": wanted})
    with pytest.raises(RecipeError, match=message):
        student_tokenizer(resolve(str(student)), load(recipe))
