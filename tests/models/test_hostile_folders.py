"""Model folders of a stranger: bounded time and memory, one sentence, and no pickle is read."""

from __future__ import annotations

import contextlib
import json
import pickle
import signal
import struct
import time
import tracemalloc
from pathlib import Path
from typing import Any

import jinja2.sandbox
import pytest
from catalog_world import World, make_world, write_model
from hypothesis import given, settings
from hypothesis import strategies as st

from gra.core.errors import GraError, ModelUnavailable, RecipeError
from gra.core.processes.rendering import TemplateTooSlow, limited_rendering
from gra.models.adapters import find_adapter
from gra.models.catalog import resolve
from gra.models.chat import check_template, context_length, has_chat_template, template_digest
from gra.models.template_check import template_problem
from gra.models.weights import damage, model_card


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return make_world(tmp_path, monkeypatch)


def header(text: bytes, length: int | None = None, after: bytes = b"") -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text + after


def tensor(**changes: Any) -> bytes:
    return header(
        json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} | changes}).encode(), after=b"abcd"
    )


WEIGHTS = {
    "a header longer than any memory": header(b"{}", 2**63),
    "a header of 90 MB": header(b"[" * 90_000_000),
    "a nested header": header(b'{"w": ' + b'{"a": ' * 50_000 + b"1" + b"}" * 50_001),
    "an array": header(b"[[1]]"),
    "a shape of texts": tensor(shape=["a", 10**9]),
    "a negative shape": tensor(shape=[-1]),
    "a huge shape": tensor(shape=[10**9] * 50),
    "offsets of texts": tensor(data_offsets=["0", "4"]),
    "offsets backwards": tensor(data_offsets=[4, 0]),
    "one offset": tensor(data_offsets=[4]),
    "an unknown type": tensor(dtype=["F32"]),
    "a number of 5,000 digits": header(
        b'{"w": {"dtype": "F32", "shape": [' + b"9" * 5000 + b'], "data_offsets": [0, 4]}}'
    ),
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_odd_header_is_one_sentence(world: World, tmp_path: Path, kind: str) -> None:
    folder = write_model(tmp_path / "m" / "model")
    (folder / "model.safetensors").write_bytes(WEIGHTS[kind])
    tracemalloc.start()
    with pytest.raises(RecipeError, match=r"model\.safetensors has [\d,]+ bytes"):
        resolve(str(folder))
    assert tracemalloc.get_traced_memory()[1] < 50_000_000
    tracemalloc.stop()


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=200) | st.builds(header, st.binary(max_size=100), st.integers(0, 2**64 - 1)))
def test_any_bytes_as_weights_are_one_sentence(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = write_model(tmp_path_factory.mktemp("odd"))
    (folder / "model.safetensors").write_bytes(content)
    with contextlib.suppress(GraError):
        resolve(str(folder))


def test_aliases_in_a_model_card_do_not_grow(world: World, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m" / "model")
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"] + [
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)
    ]
    (folder / "README.md").write_text("---\n" + "\n".join([*lines, "license: *a11"]) + "\n---\n")
    begun = time.monotonic()
    assert resolve(str(folder)).licence == "unknown"
    assert time.monotonic() - begun < 20
    (folder / "README.md").write_text("---\nlicense: mit\nlicense_link: [1]\ntags: [x]\n---\n")
    assert model_card(folder) == {"license": "mit"}
    for odd in ("license: !!bool maybe", "? [1]\n: 2", "x: " + "[" * 5000, "- list", "license: 1", "x: !!timestamp y"):
        (folder / "README.md").write_text(f"---\n{odd}\n---\n")
        assert resolve(str(folder)).licence == "unknown"


class _Marks:
    def __reduce__(self) -> Any:
        return (Path("/nowhere").touch, ())


@pytest.mark.parametrize("name", ["pytorch_model.bin", "adapter_model.bin", "model.pt", "weights.pkl"])
def test_pickle_is_never_read(world: World, tmp_path: Path, name: str) -> None:
    folder = write_model(tmp_path / "m" / "model")
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(_Marks()))
    with pytest.raises(RecipeError, match=r"holds the weights as a pickle, .*convert them to safetensors"):
        resolve(str(folder))
    assert "pickle" in str(damage(folder))


@pytest.mark.parametrize("weights", ["../../etc/passwd", "/etc/passwd", "model.bin", 5, None])
def test_index_that_leads_out_of_the_folder_is_refused(world: World, tmp_path: Path, weights: Any) -> None:
    folder = write_model(tmp_path / "m" / "model")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": weights}}))
    with pytest.raises(RecipeError, match=r"index\.json is not what a model has under this name"):
        resolve(str(folder))


ODD: list[Any] = [None, 5, -1, "x", [], {}, [1], {"a": 1}, 1e400, True]


@settings(max_examples=150, deadline=None)
@given(
    config=st.dictionaries(
        st.sampled_from(["max_position_embeddings", "text_config", "model_type", "auto_map"]), st.sampled_from(ODD)
    ) | st.sampled_from(ODD),
    tokenizer=st.dictionaries(st.sampled_from(["model_max_length", "chat_template", "auto_map"]), st.sampled_from(ODD))
    | st.sampled_from(ODD),
)  # fmt: skip
def test_odd_configurations_are_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, config: Any, tokenizer: Any
) -> None:
    folder = write_model(tmp_path_factory.mktemp("odd"))
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    for use in (resolve, lambda path: context_length(folder), lambda path: template_digest(folder),
                lambda path: has_chat_template(folder)):  # fmt: skip
        with contextlib.suppress(GraError):
            use(str(folder))


@settings(max_examples=150, deadline=None)
@given(
    changes=st.dictionaries(
        st.sampled_from(["r", "rank_pattern", "modules_to_save", "peft_type", "bias", "target_modules", "use_dora"]),
        st.sampled_from(ODD),
    )
)
def test_odd_adapters_are_one_sentence(tmp_path_factory: pytest.TempPathFactory, changes: dict[str, Any]) -> None:
    folder = tmp_path_factory.mktemp("odd")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4} | changes))
    (folder / "adapter_model.safetensors").write_bytes(tensor())
    with contextlib.suppress(GraError):
        find_adapter(str(folder))


def test_configurations_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    for content in (b"\xff\xfe", b"[" * 100_000, b"[]", b'{"a": ' + b"9" * 5000 + b"}"):
        (folder / "tokenizer_config.json").write_bytes(content)
        with pytest.raises(ModelUnavailable, match=r"tokenizer_config\.json"):
            context_length(folder)
    (folder / "tokenizer_config.json").unlink()
    (folder / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(ModelUnavailable, match=r"chat_template\.jinja cannot be read"):
        has_chat_template(folder)


LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
NEVER: dict[str, str] = {
    "nested loops": LOOP,
    "loops over a list that grows": (
        "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}"
    ),
    "a huge text": "{{ 'a' * 10**11 }}",
    "a wide field": "{{ 'a' | center(10**11) }}",
    "a power": "{{ 9 ** (9 ** 9) }}",
    "a long text": "{% for i in range(90000) %}{{ 'abcdefghijklmnop' }}{% endfor %}",
    "only a longer conversation": "{% if messages | length > 4 %}" + LOOP + "{% endif %}",
}


@pytest.mark.parametrize("kind", NEVER)
def test_template_that_never_ends_is_refused(kind: str) -> None:
    assert "rendering it takes more than" in str(template_problem(NEVER[kind])) or "characters" in str(
        template_problem(NEVER[kind])
    )


def test_rendering_of_one_conversation_is_limited() -> None:
    template = jinja2.sandbox.ImmutableSandboxedEnvironment().from_string(
        "{% if text != 'Why?' %}" + LOOP + "{% endif %}{{ text }}"
    )
    with limited_rendering(0.2):
        assert template.render(text="Why?") == "Why?"
    begun = time.process_time()
    with pytest.raises(TemplateTooSlow, match=r"takes more than 0\.2 s for one conversation"), limited_rendering(0.2):
        template.render(text="other")
    assert time.process_time() - begun < 5
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)


PLAIN: list[str] = [
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}{% endfor %}{{ '<|a|>' if add_generation_prompt }}",
    "{{ raise_exception('only one turn') }}",
    "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "{% if tools is defined %}{{ tools | tojson(indent=2) }}{% endif %}{{ strftime_now('%Y') }}",
    "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m['content'] }}{% endfor %}",
    "{{ messages[0].content.split('x')[-1] }}{{ nothing.at_all }}",
]


@pytest.mark.parametrize("template", PLAIN)
def test_plain_template_is_accepted(template: str) -> None:
    assert template_problem(template) is None


@pytest.mark.parametrize("template", ["{% for %}", "{{ x", "{% nothing %}", "{{ 1 | no_such_filter }}"])
def test_template_that_is_none_is_named(template: str) -> None:
    class Tokenizer:
        chat_template = template

    with pytest.raises(RecipeError, match="the chat template `x` cannot be used"):
        check_template(Tokenizer(), "`x`")  # type: ignore[arg-type]
