"""Turn a GGUF file into a directory that transformers, vLLM and sentence-transformers load.

The catalog runs it in a child process, so that memory and threads of torch end with the conversion:
`python -m gra.models.gguf SOURCE.gguf TARGET_DIR '{"tie": true, ...}'`.
"""

from __future__ import annotations

import functools
import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast

FORMAT = 1
"""Version of the directories written here; older ones are made again."""


@dataclass(frozen=True)
class Conversion:
    """Facts of a model that its GGUF file does not hold.

    `tie`: the output matrix is the embedding matrix. `stop`: every token that ends a turn, first the
    tokenizer's own. `max_length`: context length in tokens. `parameters`: checked after reading.
    """

    max_length: int
    tie: bool = True
    stop: list[str] = field(default_factory=list)
    parameters: int | None = None

    def to_json(self) -> str:
        """Return the argument that this module's command line reads."""
        return json.dumps(asdict(self))


def convert(source: Path, target: Path, settings: Conversion) -> None:
    """Write weights in bfloat16, configuration, tokenizer and generation settings into `target`.

    Raises:
        ValueError: the file does not hold the model that `settings` describes.
    """
    import torch
    from transformers import AutoModelForCausalLM

    _parse_headers_once()
    metadata = _metadata(source)
    target.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(source, metadata, settings)
    tokenizer.save_pretrained(target)
    _clean_tokenizer_config(target / "tokenizer_config.json")
    model = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, dtype=torch.bfloat16, trust_remote_code=False
    )
    _write_weights(model, target, settings)
    _write_config(model, target, settings)
    _write_generation_config(model.config, tokenizer, target, settings)


def _parse_headers_once() -> None:
    """Make the header reader remember files and use plain arrays.

    The loaders of weights, configuration and tokenizer each parse the header. With a vocabulary of 262,144 tokens that
    takes longer than everything else. The change lasts as long as this process, which ends with the conversion.
    """
    import gguf
    import numpy as np

    class Reader(gguf.GGUFReader):  # type: ignore[misc]
        @property
        def data(self) -> np.ndarray[Any, Any]:
            return self._data

        @data.setter
        def data(self, mapped: np.ndarray[Any, Any]) -> None:
            self._data = np.asarray(mapped)  # slicing a memmap costs several times slicing an array

    gguf.GGUFReader = functools.lru_cache(maxsize=1)(Reader)


def _metadata(source: Path) -> dict[str, Any]:
    from gguf import GGUFReader

    fields = GGUFReader(str(source)).fields
    wanted = ("tokenizer.ggml.add_bos_token", "tokenizer.ggml.pre", "tokenizer.ggml.bos_token_id")
    return {key: fields[key].contents() for key in wanted if key in fields}


def _tokenizer(source: Path, metadata: dict[str, Any], settings: Conversion) -> PreTrainedTokenizerFast:
    """Load the tokenizer and add what the loader leaves out: text splitting, <bos>, context length."""
    from tokenizers import normalizers, pre_tokenizers, processors
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(
        source.parent, gguf_file=source.name, trust_remote_code=False
    )
    backend = tokenizer.backend_tokenizer
    splitting = metadata.get("tokenizer.ggml.pre")
    if splitting == "smollm":
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    if splitting == "qwen2":
        backend.normalizer = normalizers.NFC()
    if metadata.get("tokenizer.ggml.add_bos_token"):
        bos = str(tokenizer.bos_token)
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A",
            pair=f"{bos} $A {bos}:1 $B:1",
            special_tokens=[(bos, metadata["tokenizer.ggml.bos_token_id"])],
        )
    if settings.stop:
        tokenizer.eos_token = settings.stop[0]
    tokenizer.model_max_length = settings.max_length
    return tokenizer


def _clean_tokenizer_config(path: Path) -> None:
    """Remove keys about this machine, and name the class that every release of transformers has."""
    config = json.loads(path.read_text())
    for key in ("is_local", "local_files_only", "name_or_path", "vocab_file", "backend"):
        config.pop(key, None)
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")


def _write_weights(model: Any, target: Path, settings: Conversion) -> None:
    import torch
    from safetensors.torch import save_file

    weights: dict[str, torch.Tensor] = dict(model.state_dict())
    embedding, output = "model.embed_tokens.weight", "lm_head.weight"
    if settings.tie and output in weights:
        # Quantisers keep the output copy of a tied matrix at higher precision: both uses get that one.
        shared = weights.pop(output)
        agreement = torch.nn.functional.cosine_similarity(
            shared[:4096].float().flatten(), weights[embedding][:4096].float().flatten(), dim=0
        )
        if agreement < 0.98:
            raise ValueError(f"the output matrix differs from the embeddings (cosine {agreement:.3f}), not tied")
        weights[embedding] = shared
    weights = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in weights.items()}
    broken = [name for name, tensor in weights.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise ValueError(f"{len(broken)} tensors hold values that are not finite, the first is {broken[0]}")
    count = sum(tensor.numel() for tensor in weights.values())
    if settings.parameters is not None and count != settings.parameters:
        raise ValueError(f"the file holds {count:,} parameters, expected {settings.parameters:,}")
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})


def _write_config(model: Any, target: Path, settings: Conversion) -> None:
    config = json.loads(model.config.to_json_string(use_diff=True))
    for key in ("quantization_config", "_name_or_path"):
        config.pop(key, None)
    config["architectures"] = [type(model).__name__]
    config["dtype"] = "bfloat16"
    config["tie_word_embeddings"] = settings.tie
    # GGUF stores this in single precision, where 1e-6 reads back as 9.99999997e-07.
    config["rms_norm_eps"] = float(f"{config['rms_norm_eps']:.6g}")
    (target / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _write_generation_config(config: Any, tokenizer: Any, target: Path, settings: Conversion) -> None:
    """Write greedy decoding and the stop tokens; recipes set sampling themselves."""
    stop = [tokenizer.convert_tokens_to_ids(token) for token in settings.stop] or [config.eos_token_id]
    generation = {
        "bos_token_id": tokenizer.bos_token_id,
        "do_sample": False,
        "eos_token_id": stop if len(stop) > 1 else stop[0],
        "pad_token_id": tokenizer.pad_token_id,
    }
    (target / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")


def main(arguments: list[str]) -> None:
    """Convert one file; the settings are the JSON that `Conversion.to_json` wrote."""
    source, target, settings = arguments
    convert(Path(source), Path(target), Conversion(**json.loads(settings)))


if __name__ == "__main__":
    main(sys.argv[1:])
