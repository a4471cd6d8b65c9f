"""The model side of evaluation against plain transformers and against lm-eval's own backend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from evaluation_tiny import under_test
from training_tiny import make_student

from gra.core.errors import DataError, EngineUnavailable, ModelUnavailable, RecipeError

PROMPTS = ["Say one.", "Say a much longer thing than that, please.", "x", "Say red."]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama."""
    return make_student(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def sliding(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """A random Gemma 3 whose sliding window is shorter than the contexts, with the same tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma3TextConfig

    folder = tmp_path_factory.mktemp("sliding")
    config = Gemma3TextConfig(
        vocab_size=259, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, sliding_window=8, max_position_embeddings=256, bos_token_id=1,
        eos_token_id=2, pad_token_id=0, layer_types=["sliding_attention", "sliding_attention", "full_attention"],
    )  # fmt: skip
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


def student(path: Path, batch_size: int = 3, *, adapter: Path | None = None, template: bool = True) -> Any:
    from gra.evaluation.hf_backend import HFModel

    model = under_test(path, adapter)
    tokenizer = model.load_tokenizer(model.template() if template else None)
    return HFModel(model.load_weights("float32", "cpu"), tokenizer, batch_size)


@pytest.mark.parametrize("which", ["base", "sliding"])
def test_likelihoods_are_those_of_lm_eval(which: str, request: pytest.FixtureRequest) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    path = request.getfixturevalue(which)
    ours = student(path, batch_size=5)
    contexts = ["Question: what?\nAnswer:", "Q", "A somewhat longer context than the window of eight tokens"]
    pairs = [(c, f" {choice}") for c in contexts for choice in ("yes", "no, not at all", "b", "yes")]
    requests = [Instance("loglikelihood", {}, pair, n) for n, pair in enumerate(pairs)]
    expected = HFLM(
        pretrained=under_test(path).load_weights("float32", "cpu"), tokenizer=ours.tokenizer, batch_size=4
    ).loglikelihood(requests, disable_tqdm=True)
    encoded = [(ours.encode(c), ours.encode(c + choice)[len(ours.encode(c)) :]) for c, choice in pairs]
    found = ours.weigh(encoded)
    assert [ll for ll, _ in found] == pytest.approx([ll for ll, _ in expected], abs=1e-3)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]


@pytest.mark.parametrize("called", [True, False])
def test_the_vocabulary_is_computed_at_the_tokens_of_choices_alone(called: bool) -> None:
    import torch

    from gra.evaluation.hf_backend import _head_at

    seen: list[tuple[int, ...]] = []

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.head = torch.nn.Linear(4, 7, bias=False)
            self.head.register_forward_hook(lambda _, states, __: seen.append(tuple(states[0].shape)))

        def get_output_embeddings(self) -> torch.nn.Module:
            return self.head

        def forward(self, states: torch.Tensor) -> torch.Tensor:
            return self.head(states) if called else states @ self.head.weight.T

    network, states = Network(), torch.randn(2, 3, 4)
    where = torch.tensor([[True, True, False], [True, False, False]])
    with torch.inference_mode():
        expected = (states @ network.head.weight.T)[where]
        with _head_at(network, where) as chosen:  # type: ignore[arg-type]
            assert torch.allclose(chosen(network(states)), expected)
        assert seen == ([(1, 3, 4)] if called else [])
        assert network(states).shape == (2, 3, 7)  # every position again


def test_what_greedy_decoding_says_is_called_greedy(base: Path) -> None:
    import torch

    ours = student(base)
    context = ours.encode("Say one.")
    said = ours.network.generate(torch.tensor([context]), max_new_tokens=4)[0, len(context) :].tolist()
    (likely, greedy), (_, other) = ours.weigh([(context, said), (context, [said[0], *([said[1] ^ 1] * 3)])])
    assert greedy
    assert not other
    assert likely < 0


@pytest.mark.parametrize("which", ["base", "sliding"])
def test_batched_answers_are_those_of_one_prompt_at_a_time(which: str, request: pytest.FixtureRequest) -> None:
    import torch

    path = request.getfixturevalue(which)
    together, alone = student(path, batch_size=3), student(path, batch_size=1)
    together.chat = alone.chat = True
    assert together.generate(PROMPTS, 6) == alone.generate(PROMPTS, 6)
    assert [f.text for f in alone.generate(PROMPTS, 6)] == [
        alone.tokenizer.decode(
            alone.network.generate(torch.tensor([alone.encode(p)]), max_new_tokens=6)[0, len(alone.encode(p)) :],
            skip_special_tokens=True,
        )
        for p in PROMPTS
    ]


def test_how_an_answer_ended_is_recorded(base: Path) -> None:
    import torch

    from gra.evaluation.hf_backend import HFModel

    ours = student(base)
    ours.chat = True
    said = [ours.network.generate(torch.tensor([ours.encode(p)]), max_new_tokens=6)[0].tolist()[-6:] for p in PROMPTS]
    assert {f.reason for f in ours.generate(PROMPTS, 6)} == {"length"}
    assert {f.tokens for f in ours.generate(PROMPTS, 6)} == {6}
    # The third token of the first answer is a second stop token, as some models have several.
    stop = said[0][2]
    network = student(base).network
    network.generation_config.eos_token_id = [2, stop]
    finishes = HFModel(network, ours.tokenizer, 4).generate(PROMPTS, 6)
    for finish, tokens in zip(finishes, said, strict=True):
        expected = tokens.index(stop) + 1 if stop in tokens else 6
        assert (finish.reason, finish.tokens) == ("stop" if stop in tokens else "length", expected)
        assert finish.text == ours.tokenizer.decode(tokens[: expected - (stop in tokens)], skip_special_tokens=True)
    assert finishes[0].tokens <= 3


def test_settings_of_the_models_own_file_do_not_change_greedy_answers(base: Path) -> None:
    from gra.evaluation.hf_backend import HFModel

    plain = student(base)
    network = student(base).network
    network.generation_config.update(do_sample=True, temperature=5.0, repetition_penalty=3.0, top_k=3)
    assert HFModel(network, plain.tokenizer, 3).generate(PROMPTS, 6) == plain.generate(PROMPTS, 6)


def test_bos_is_there_exactly_once(base: Path, tmp_path: Path) -> None:
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    adding = AutoTokenizer.from_pretrained(base)
    adding.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", adding.bos_token_id)]
    )
    for path in (base, make_student(tmp_path)):
        if path == tmp_path:
            adding.save_pretrained(tmp_path)
        ours = student(path)
        text = ours.tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
        ours.chat = True
        assert ours.encode(text).count(1) == 1
        ours.chat = False
        assert ours.encode(text).count(1) == 1
        assert ours.encode("Hi").count(1) == (path == tmp_path)


def test_an_adapter_is_merged_exactly_and_brings_its_tokenizer(base: Path, tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    adapter = tmp_path / "adapter"
    torch.manual_seed(2)
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    wrapped = get_peft_model(under_test(base).load_weights("float32", "cpu"), config).eval()
    wrapped.save_pretrained(adapter)
    own = student(base).tokenizer
    own.chat_template = "{{ bos_token }}own: {{ messages[0]['content'] }}"
    own.save_pretrained(adapter)
    merged = student(base, adapter=adapter)
    ids = torch.tensor([merged.encode("Say one.")])
    with torch.inference_mode():
        assert torch.allclose(merged.network(ids).logits, wrapped(ids).logits, atol=1e-4)
        assert not torch.allclose(merged.network(ids).logits, student(base).network(ids).logits, atol=1e-2)
    assert under_test(base, adapter, chat_template=None).template() == own.chat_template
    assert "### Instruction" in under_test(base, adapter).template()
    assert under_test(base, adapter).fingerprint() != under_test(base).fingerprint()


def test_a_whole_model_that_training_wrote_replaces_the_base(base: Path, sliding: Path) -> None:
    assert student(base, adapter=sliding).network.config.model_type == "gemma3_text"
    assert under_test(base, sliding).fingerprint() != under_test(base).fingerprint()


def test_a_prompt_that_leaves_no_room_is_refused(base: Path) -> None:
    ours = student(base)
    with pytest.raises(DataError, match=r"needs 514 tokens and the model reads 512 at most"):
        ours.generate(["x" * 508], 6)
    with pytest.raises(DataError, match="reads 512 at most"):
        ours.weigh([([5] * 500, [6] * 20)])


def test_models_that_are_not_there(base: Path, tmp_path: Path) -> None:
    import torch

    with pytest.raises(ModelUnavailable, match=r"no config\.json"):
        under_test(tmp_path).check()
    with pytest.raises(RecipeError, match="neither an adapter"):
        under_test(base, tmp_path).check()
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"half a file")
    with pytest.raises(RecipeError, match=r"adapter_model\.safetensors has 11 bytes and does not begin as"):
        under_test(base, tmp_path).check()
    with pytest.raises(DataError, match="has no chat template of its own; pass the one"):
        under_test(base, chat_template=None).template()
    with pytest.raises(DataError, match=r"`builtin:chatml` cannot be read .* the built-in templates are builtin:plain"):
        under_test(base, chat_template="builtin:chatml").template()
    broken = make_student(tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"half a file")
    with pytest.raises(ModelUnavailable, match="cannot be loaded"):
        under_test(broken).load_weights("float32", "cpu")
    if not torch.cuda.is_available():
        with pytest.raises(EngineUnavailable, match="PyTorch sees no GPU"):
            under_test(base).load_weights("float32", "cuda")


def test_the_output_layer_of_a_frozen_model_is_not_copied_for_every_row(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gra.evaluation.packed.can_be_packed", lambda: False)
    ours = student(base)
    ours.network.requires_grad_(False)  # as merging an adapter leaves it
    seen = []
    ours.network.get_output_embeddings().register_forward_pre_hook(lambda _, args: seen.append(args[0].stride()))
    ours.chat = True
    ours.generate(PROMPTS[:2], 3)
    assert seen
    hidden = ours.network.config.hidden_size
    assert {stride[0] for stride in seen} == {hidden}  # one position a row, rows next to each other


@pytest.mark.parametrize("which", ["base", "sliding"])
def test_rows_that_have_ended_leave_the_batch_and_the_others_go_on(
    which: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from gra.evaluation import hf_backend
    from gra.evaluation.hf_backend import HFModel

    path = request.getfixturevalue(which)
    plain = student(path)
    said = plain.network.generate(torch.tensor([plain.encode(PROMPTS[0])]), max_new_tokens=20)[0].tolist()
    network = student(path).network
    network.generation_config.eos_token_id = [2, said[-20:][4]]  # the fifth token of the first answer ends answers
    ours = HFModel(network, plain.tokenizer, 4)
    widths = []
    network.register_forward_pre_hook(lambda _, args, kw: widths.append(len(kw["input_ids"])), with_kwargs=True)
    monkeypatch.setattr(hf_backend, "_AT_ONCE", 3)
    little_by_little = ours.generate(PROMPTS, 20)
    assert min(widths) < max(widths) == len(PROMPTS)
    monkeypatch.setattr(hf_backend, "_AT_ONCE", 20)
    assert little_by_little == ours.generate(PROMPTS, 20)
    until = [little_by_little[1].text[3:6]]
    monkeypatch.setattr(hf_backend, "_AT_ONCE", 3)
    short = ours.generate(PROMPTS, 20, until)
    monkeypatch.setattr(hf_backend, "_AT_ONCE", 20)
    assert short == ours.generate(PROMPTS, 20, until)
    assert short[1].text == little_by_little[1].text[:3]
    monkeypatch.setattr(hf_backend, "_AT_ONCE", 3)
    monkeypatch.setattr(hf_backend, "_can_be_divided", lambda cache: False)  # as with layers that are no attention
    assert little_by_little == ours.generate(PROMPTS, 20)
    assert short == ours.generate(PROMPTS, 20, until)


def test_special_token_that_ends_answers_is_seen_at_every_place(base: Path) -> None:
    import torch
    from transformers.generation.stopping_criteria import StopStringCriteria

    from gra.evaluation.hf_backend import _ended

    tokenizer = student(base).tokenizer
    letters = tokenizer("abcd", add_special_tokens=False)["input_ids"]
    stop = StopStringCriteria(tokenizer, ["<bos>"])  # the answer without special tokens does not show it
    rows = torch.tensor([[*letters, tokenizer.bos_token_id, 0], [*letters, *letters[:2]], [*letters, 0, 0]])
    assert _ended(stop, rows, 4) == [True, False, False]
    assert _ended(None, rows, 4) == [False, False, False]


def test_packed_layers_give_the_same_answers_and_leave_other_types_alone(base: Path) -> None:
    import torch

    from gra.evaluation.packed import PackedLinear, can_be_packed, pack_linear

    plain = under_test(base).load_weights("float32", "cpu")
    packed = under_test(base).load_weights("float32", "cpu")
    layers = sum(type(module) is torch.nn.Linear for module in plain.modules())
    assert pack_linear(packed) == (layers if can_be_packed() else 0)
    assert pack_linear(under_test(base).load_weights("bfloat16", "cpu").to(torch.bfloat16)) == 0
    ids = torch.arange(3, 27).reshape(3, 8)
    with torch.inference_mode():
        one, other = plain(ids).logits, packed(ids).logits
    assert one.shape == other.shape
    assert torch.allclose(one, other, atol=1e-5)
    assert pack_linear(packed) == 0  # nothing is left to pack

    with_bias, rows = torch.nn.Linear(6, 5), torch.randn(2, 3, 6)
    network = torch.nn.Sequential(with_bias, torch.nn.Identity())
    expected = with_bias(rows)
    pack_linear(network)
    assert isinstance(network[0], PackedLinear) is can_be_packed()
    assert torch.allclose(network(rows), expected, atol=1e-6)
    assert torch.allclose(network(rows.transpose(0, 1)), expected.transpose(0, 1), atol=1e-6)


def test_a_network_that_multiplies_by_the_weight_itself_is_packed_too() -> None:
    import torch
    from transformers import MambaConfig, MambaForCausalLM

    from gra.evaluation.packed import pack_linear

    torch.manual_seed(0)
    config = MambaConfig(vocab_size=40, hidden_size=16, state_size=4, num_hidden_layers=2)
    network = MambaForCausalLM(config).eval()
    ids = torch.arange(3, 15).reshape(2, 6)
    with torch.inference_mode():
        expected = network(ids).logits
        pack_linear(network)
        assert torch.allclose(network(ids).logits, expected, atol=1e-5)
