"""Describe and load the model under test: its weights, adapter and chat template, and what identifies them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gra.core.errors import DataError, EngineUnavailable, ModelUnavailable, RecipeError
from gra.core.files import read_regular
from gra.core.hashing import digest, file_digest
from gra.models.chat import check_template, load_tokenizer_once
from gra.models.classification import refuse_reward_model
from gra.models.head import feed_contiguous
from gra.models.weights import damage, widened

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Device = Literal["auto", "cpu", "cuda"]
_BUILTIN = "builtin:"
_NOT_EVALUATED = (
    "`gra evaluate` is for models that answer; metrics.json of its training has its accuracy on held-out pairs"
)
_TEMPLATES = Path(__file__).parents[1] / "models" / "templates"


@dataclass(frozen=True)
class ModelUnderTest:
    """One model that is evaluated.

    Attributes:
        name: its name in reports.
        path: a folder with weights and tokenizer.
        adapter: what training wrote: a LoRA adapter for `path`, or a full model of its own; its tokenizer and
            chat template win over those of `path`.
        chat_template: a .jinja file or `builtin:NAME`, which wins over every other; None keeps the model's own.
        identity: what the catalog calls these very weights.
        remote_code: whether the model may run code that it brings along.
    """

    name: str
    path: Path
    adapter: Path | None
    chat_template: str | None
    identity: str
    remote_code: bool = False

    @property
    def weights(self) -> Path:
        """The folder of the full weights: `path`, unless training wrote a whole model."""
        return self.path if self.adapter is None or self._is_lora else self.adapter

    @property
    def tokenizer(self) -> Path:
        """The folder of the tokenizer."""
        with_own = self.adapter is not None and (self.adapter / "tokenizer_config.json").is_file()
        return self.adapter if with_own and self.adapter is not None else self.path

    def _may_run_code_of(self, folder: Path) -> bool:
        """Whether code in a folder may run: only that of the catalog's model, never that of an adapter's folder."""
        return self.remote_code and folder == self.path

    @property
    def _is_lora(self) -> bool:
        return self.adapter is not None and (self.adapter / "adapter_config.json").is_file()

    def check(self) -> None:
        """Require the folders.

        Raises:
            ModelUnavailable: when the weights are not where they should be.
            RecipeError: when there is no whole adapter where one should be, or the model writes no text.
        """
        if not (self.path / "config.json").is_file():
            raise ModelUnavailable(f"{self.path} holds no model (there is no config.json); give a model folder or name")
        if self.adapter is not None and not (self._is_lora or (self.adapter / "config.json").is_file()):
            raise RecipeError(
                f"{self.adapter} holds neither an adapter (adapter_config.json) nor a model (config.json); give the "
                "folder that training wrote"
            )
        if self.adapter is not None and (problem := damage(self.adapter)):
            raise RecipeError(f"{problem}; copy that file again, or train once more")
        for folder in filter(None, (self.path, self.adapter)):
            refuse_reward_model(self.name, folder, _NOT_EVALUATED)

    def template(self) -> str:
        """Return the text of the chat template.

        Raises:
            DataError: when there is none, or the file that was asked for is not there.
        """
        if self.chat_template is not None:
            return _read_template(self.chat_template)
        for folder in dict.fromkeys((self.tokenizer, self.path)):
            text = _own_template(folder)
            if text:
                return text
        raise DataError(
            f"{self.name} has no chat template of its own; pass the one its students were trained with, "
            "`--chat-template FILE` or `--chat-template builtin:plain`"
        )

    def fingerprint(self) -> str:
        """Return a digest of what decides this model's answers to a prompt; the chat template is not in it."""
        if self.adapter is None:
            return digest([self.identity])
        files = [p for p in sorted(self.adapter.iterdir()) if p.suffix in (".safetensors", ".bin", ".json", ".model")]
        volatile = ("manifest.json", "metrics.json", "trainer_state.json", "training_args.bin")
        return digest([self.identity, {p.name: file_digest(p) for p in files if p.name not in volatile}])

    def load_tokenizer(self, template: str | None) -> PreTrainedTokenizerBase:
        """Load the tokenizer, with the chat template if one is given."""
        tokenizer = load_tokenizer_once(self.tokenizer, remote_code=self._may_run_code_of(self.tokenizer))
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        tokenizer.padding_side = "left"
        if template is not None:
            tokenizer.chat_template = template
            check_template(tokenizer, f"`{self.chat_template}`" if self.chat_template else f"of {self.name}")
        return tokenizer

    def load_weights(self, dtype: str, device: Device, *, tokens: int | None = None) -> PreTrainedModel:
        """Load the weights on their device, with the adapter merged in: as fast as the model without one.

        Args:
            dtype: of the weights.
            device: where they run.
            tokens: how many tokens the model's tokenizer has; None counts them, which loads the tokenizer.

        Raises:
            EngineUnavailable: when `cuda` is asked for and there is none.
            ModelUnavailable: when the files cannot be read.
        """
        import torch
        from safetensors import SafetensorError
        from transformers import AutoModelForCausalLM

        require_device(device)
        place = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
        try:
            with _no_bars():
                network = AutoModelForCausalLM.from_pretrained(
                    self.weights,
                    dtype=getattr(torch, dtype),
                    trust_remote_code=self._may_run_code_of(self.weights),
                    use_safetensors=True,
                )
            if self._is_lora:
                network = self._merge(network, len(self.load_tokenizer(None)) if tokens is None else tokens)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise ModelUnavailable(f"{self.name}: the weights in {self.weights} cannot be loaded ({error})") from None
        loaded: PreTrainedModel = widened(network, dtype, on_gpu=place == "cuda").to(place).eval()
        feed_contiguous(loaded)
        return loaded

    def _merge(self, network: PreTrainedModel, tokens: int) -> PreTrainedModel:
        from peft import PeftModel

        if tokens > network.get_input_embeddings().weight.shape[0]:
            network.resize_token_embeddings(tokens)  # training added tokens
        merged: PreTrainedModel = PeftModel.from_pretrained(network, str(self.adapter)).merge_and_unload()
        return merged


def require_device(device: Device) -> None:
    """Require the device that was asked for.

    Raises:
        EngineUnavailable: when `cuda` is asked for and there is none.
    """
    if device != "cuda":
        return
    import torch

    if not torch.cuda.is_available():
        raise EngineUnavailable("`--device cuda` was asked for, but PyTorch sees no GPU; use `--device cpu`")


@contextmanager
def _no_bars() -> Iterator[None]:
    """Hide the progress bars of loading; the caller shows its own."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _read_template(name: str) -> str:
    path = Path(name)
    known = ""
    if name.startswith(_BUILTIN):
        path = _TEMPLATES / f"{name.removeprefix(_BUILTIN)}.jinja"
        known = (
            f"; the built-in templates are {', '.join(_BUILTIN + p.stem for p in sorted(_TEMPLATES.glob('*.jinja')))}"
        )
    try:
        return read_regular(path, "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the chat template `{name}` cannot be read ({error}){known}") from None


def _own_template(folder: Path) -> str | None:
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    if not (folder / "tokenizer_config.json").is_file():
        return None
    text = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("chat_template")
    return text if isinstance(text, str) else None
