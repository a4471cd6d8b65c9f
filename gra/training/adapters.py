"""Find, configure and check the LoRA adapter of a student.

The recipe's `lora` section describes a new adapter. An adapter that training goes on from must belong to the model.
Configurations and file headers show that before any weights are read.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gra.config.loader import Loaded, find_file
from gra.config.training import TrainRecipe
from gra.core.errors import GraError, RecipeError
from gra.core.run_folder import RunFolder
from gra.models.weights import damage, tensors_in
from gra.training.model_fit import listed, short


def adapter_folder(loaded: Loaded[TrainRecipe]) -> Path | None:
    """Return the folder of the adapter that training continues, or None.

    Raises:
        RecipeError: When it holds no adapter, or a damaged one.
    """
    name = loaded.recipe.model.adapter
    if name is None:
        return None
    folder = find_file(name, loaded.path)
    if not (folder / "adapter_config.json").is_file():
        raise RecipeError(f"`model.adapter: {name}` holds no adapter_config.json; give a trained student's folder, "
                          "or its path as `model.name` when every parameter was trained", loaded.path)  # fmt: skip
    if problem := damage(folder):
        raise RecipeError(f"`model.adapter: {name}`: {problem}; copy that file again, or train once more", loaded.path)
    return folder


def lora_config(recipe: TrainRecipe) -> Any:
    """Return the PEFT configuration of a new adapter, or None when the recipe has no `lora`."""
    if recipe.lora is None:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=recipe.lora.r,
        lora_alpha=recipe.lora.alpha,
        lora_dropout=recipe.lora.dropout,
        target_modules=recipe.lora.target_modules,
        # With SEQ_CLS, PEFT trains the head beside the adapter.
        task_type="SEQ_CLS" if recipe.method == "reward" else "CAUSAL_LM",
    )


def check_adapter(loaded: Loaded[TrainRecipe], model: Any, folder: Path | None, identity: str | None) -> list[str]:
    """Check that the adapter to train, a new one or the one in `folder`, fits the model.

    Args:
        loaded: The recipe.
        model: The student on the meta device; it has the adapter afterwards.
        folder: Of the adapter that training continues, if any.
        identity: Of the student's weights, when they are on this machine.

    Returns:
        Warnings: for an adapter that names another base model, which may be a copy of this one.

    Raises:
        RecipeError: When shapes, layers, modules or the recorded base model differ.
    """
    if folder is None:
        if loaded.recipe.lora is not None:
            _check_new_adapter(loaded, model)
        return []
    config = adapter_config(loaded, folder)
    _check_stored_adapter(loaded, model, config, folder)
    return _check_base(loaded, folder, config, identity)


def adapter_config(loaded: Loaded[TrainRecipe], folder: Path) -> Any:
    """Return the PEFT configuration of an adapter that training continues.

    Raises:
        RecipeError: When PEFT cannot read it, or it is of a kind that cannot be trained further.
    """
    from peft import PeftConfig

    what = f"`model.adapter: {loaded.recipe.model.adapter}`"
    try:
        with _quiet():
            config = PeftConfig.from_pretrained(str(folder))
    except Exception as error:  # PEFT fails in many ways on a configuration of another kind
        raise RecipeError(
            f"{what}: PEFT cannot read adapter_config.json ({short(error)}); give the folder that `gra train` or PEFT "
            "wrote",
            loaded.path,
        ) from error
    if config.is_prompt_learning:
        kind = getattr(config.peft_type, "value", config.peft_type)
        raise RecipeError(f"{what} is of the kind {kind}, which cannot be trained further; give a LoRA", loaded.path)
    config.inference_mode = False  # PEFT stores a finished adapter for inference only
    return config


def with_adapter(model: Any, config: Any) -> Any:
    """Return a model with a new adapter of this PEFT configuration."""
    from peft import get_peft_model

    with _quiet():
        return get_peft_model(model, copy.deepcopy(config))  # PEFT writes the model's name into it


def _check_new_adapter(loaded: Loaded[TrainRecipe], model: Any) -> None:
    assert loaded.recipe.lora is not None
    modules = loaded.recipe.lora.target_modules
    try:
        with_adapter(model, lora_config(loaded.recipe))
    except (ValueError, re.error) as error:
        raise RecipeError(
            f"`lora.target_modules: {modules}` does not fit {loaded.recipe.model.name} ({short(error)}); write "
            f"all-linear, or name modules of the model, such as {listed(_linear_modules(model))}",
            loaded.path,
        ) from error


def _check_base(loaded: Loaded[TrainRecipe], folder: Path, config: Any, identity: str | None) -> list[str]:
    """Compare the model with the base model in the adapter's manifest or configuration."""
    from gra.models.catalog import hub_name

    name = loaded.recipe.model.name
    recorded = _recorded_base(folder)
    if identity is not None and recorded is not None:
        if _weights_of(identity) == _weights_of(recorded):
            return []
        if identity.partition(":")[0] == recorded.partition(":")[0]:
            raise _other_base(loaded, f"it was trained on {recorded}, and {name} is {identity}")
    base = config.base_model_name_or_path
    ours = {name.partition("@")[0].lower(), ((hub_name(name) or ("",))[0]).lower()}
    if not base or base.lower() in ours or not re.fullmatch(r"[\w.-]+/[\w.-]+", base) or Path(name).exists():
        return []
    return [f"`model.adapter: {loaded.recipe.model.adapter}` was trained on {base}; is {name} a copy of it?"]


def _recorded_base(folder: Path) -> str | None:
    """Return the identity of the base model in the manifest of a student, if there is one."""
    try:
        manifest = RunFolder(folder).manifest()
    except GraError:
        return None
    section = manifest.get("training") or manifest.get("federation")
    model = section.get("model") if isinstance(section, dict) else None
    found = model.get("identity") if isinstance(model, dict) else None
    return found if isinstance(found, str) else None


def _weights_of(identity: str) -> str:
    """Return an identity without the commit: two commits of a repository may have the same weights."""
    return identity.partition("@")[0].lower()


def _check_stored_adapter(loaded: Loaded[TrainRecipe], model: Any, config: Any, folder: Path) -> None:
    from peft import get_peft_model_state_dict
    from peft.utils import set_peft_model_state_dict

    stored = _adapter_tensors(loaded, folder)
    with _quiet():
        try:
            adapted = with_adapter(model, config)
            expected = get_peft_model_state_dict(adapted, save_embedding_layers=False)
        except Exception as error:  # PEFT fails in many ways on the modules of another model
            raise _other_base(loaded, short(error)) from error
        for tensor in sorted(expected.keys() & stored.keys()):
            if expected[tensor].shape != stored[tensor].shape:
                shapes = f"{list(stored[tensor].shape)} in the adapter and {list(expected[tensor].shape)} in the model"
                raise _other_base(loaded, f"`{tensor}` has the shape {shapes}")
        try:
            seen = set_peft_model_state_dict(adapted, dict(stored))
        except Exception as error:  # as above
            raise _other_base(loaded, short(error)) from error
    missing = [key for key in seen.missing_keys if adapted.base_model.prefix in key]
    if missing:
        raise _other_base(loaded, f"it lacks {len(missing)} tensors ({listed(missing)})")
    if seen.unexpected_keys:
        beyond = seen.unexpected_keys
        raise _other_base(loaded, f"{len(beyond)} of its tensors have no place in the model ({listed(beyond)})")


def _adapter_tensors(loaded: Loaded[TrainRecipe], folder: Path) -> dict[str, Any]:
    """Return the tensors of an adapter on the meta device."""
    import torch

    file = folder / "adapter_model.safetensors"
    if not file.is_file():
        raise RecipeError(
            f"`model.adapter: {loaded.recipe.model.adapter}` has no {file.name}; copy it there, or train once more",
            loaded.path,
        )
    return {name: torch.empty(shape, device="meta") for name, shape in tensors_in(file).items()}


def _other_base(loaded: Loaded[TrainRecipe], detail: str) -> RecipeError:
    model = loaded.recipe.model
    return RecipeError(
        f"`model.adapter: {model.adapter}` does not belong to {model.name}: {detail}; name the model that it was "
        "trained on, or merge it into that model and name the result as `model.name`",
        loaded.path,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep PEFT from warning of a base model that is checked here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _linear_modules(model: Any) -> list[str]:
    from torch.nn import Linear

    return sorted({name.rpartition(".")[2] for name, part in model.named_modules() if isinstance(part, Linear)})
