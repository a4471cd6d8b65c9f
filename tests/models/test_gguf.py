"""Conversion of a GGUF file, on a Llama of 64 x 2 layers made here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gra.core.errors import ModelUnavailable
from gra.models.chat import context_length, has_chat_template, load_tokenizer
from gra.models.gguf import Conversion
from gra.models.packages import convert_in_child

_WIDTH, _LAYERS = 64, 2


def _tokens() -> list[str]:
    """The byte alphabet of GPT-2, one merge, and two special tokens."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return [*bytes_to_unicode().values(), "he", "<s>", "<end>"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as quantisers write it: an output matrix beside equal embeddings, <s> wanted in front."""
    import gguf

    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    random, tokens = np.random.default_rng(0), _tokens()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(4096)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(2 * _WIDTH)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(_WIDTH // 4)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * (len(tokens) - 2) + [3, 3])
    writer.add_token_merges(["h e"])
    writer.add_bos_token_id(len(tokens) - 2)
    writer.add_eos_token_id(len(tokens) - 1)
    writer.add_pad_token_id(len(tokens) - 1)
    writer.add_add_bos_token(True)
    writer.add_chat_template("{% for m in messages %}{{ m['content'] }}<end>{% endfor %}")

    def tensor(name: str, *shape: int) -> None:
        writer.add_tensor(name, random.standard_normal(shape, dtype=np.float32))

    embeddings = random.standard_normal((len(tokens), _WIDTH), dtype=np.float32)
    writer.add_tensor(
        "token_embd.weight", embeddings + 0.05 * random.standard_normal(embeddings.shape, dtype=np.float32)
    )
    writer.add_tensor("output.weight", embeddings)
    tensor("output_norm.weight", _WIDTH)
    for layer in range(_LAYERS):
        for name, shape in {
            "attn_norm": (_WIDTH,),
            "attn_q": (_WIDTH, _WIDTH),
            "attn_k": (_WIDTH // 2, _WIDTH),
            "attn_v": (_WIDTH // 2, _WIDTH),
            "attn_output": (_WIDTH, _WIDTH),
            "ffn_norm": (_WIDTH,),
            "ffn_gate": (2 * _WIDTH, _WIDTH),
            "ffn_up": (2 * _WIDTH, _WIDTH),
            "ffn_down": (_WIDTH, 2 * _WIDTH),
        }.items():
            tensor(f"blk.{layer}.{name}.weight", *shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _size() -> int:
    layer = 2 * _WIDTH + 2 * _WIDTH**2 + _WIDTH**2 + 6 * _WIDTH**2
    return len(_tokens()) * _WIDTH + _WIDTH + _LAYERS * layer


@pytest.mark.slow  # the first run of a fresh machine converts, too
def test_conversion(source: Path, tmp_path: Path) -> None:
    import torch
    from gguf import GGUFReader
    from transformers import AutoModelForCausalLM

    settings = Conversion(max_length=512, stop=["<end>", "<s>"], parameters=_size())
    convert_in_child(source, tmp_path, settings)

    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert (model.config.tie_word_embeddings, model.dtype, model.config.rms_norm_eps) == (True, torch.bfloat16, 1e-6)
    assert sum(p.numel() for p in model.parameters()) == _size()
    [output] = [t for t in GGUFReader(source).tensors if t.name == "output.weight"]
    exact = torch.from_numpy(np.array(output.data)).to(torch.bfloat16)
    assert torch.equal(model.get_input_embeddings().weight, exact)  # the more exact copy serves both uses

    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.convert_ids_to_tokens(tokenizer("he 12")["input_ids"]) == ["<s>", "he", "Ġ", "1", "2"]
    assert tokenizer("he", add_special_tokens=False)["input_ids"] == [256]
    assert tokenizer.model_max_length == 512
    assert context_length(tmp_path) == 512
    assert has_chat_template(tmp_path)
    assert model.generation_config.eos_token_id == [258, 257]
    assert not model.generation_config.do_sample
    for name in ("config.json", "tokenizer_config.json"):
        text = (tmp_path / name).read_text()
        assert not {"quantization_config", "is_local", "local_files_only", "_name_or_path"} & set(json.loads(text))


@pytest.mark.slow
def test_other_contents_than_expected(source: Path, tmp_path: Path) -> None:
    settings = Conversion(max_length=512, stop=["<end>"], parameters=1)
    with pytest.raises(ModelUnavailable, match=rf"tiny.gguf failed: .*{_size():,} parameters, expected 1"):
        convert_in_child(source, tmp_path, settings)
    assert not (tmp_path / "model.safetensors").exists()
