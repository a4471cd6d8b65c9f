"""Compute the distributions of teachers on the rows' answers, one teacher in memory at a time.

Stored distributions of the same rows and the same teacher are read instead.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gra.core.errors import RecipeError, user_path
from gra.core.files import make_folder
from gra.models.weights import widened
from gra.training.fusion.plan import FusionPlan, PlannedTeacher, TeacherRow
from gra.training.fusion.store import read_distributions, stored_file, write_distributions
from gra.training.fusion.targets import TeacherDistributions, merge_equal
from gra.training.model_fit import short

_CHUNK = 128  # tokens whose probabilities over the whole vocabulary are computed at once


def store_folder(store: str | None, output: Path) -> Path:
    """Return the folder of stored distributions.

    Args:
        store: the recipe's `fusion.store`.
        output: the run's folder.
    """
    return output / "fusion" if store is None else user_path(store, "`fusion.store`")


def compute_missing(
    plan: FusionPlan,
    folder: Path,
    recipe: Path,
    *,
    device: Any,
    attention: str,
    say: Callable[[str], None],
    progress: Callable[[str, int, int], None],
) -> None:
    """Ask each teacher whose distributions are not stored yet, and store them.

    Args:
        plan: the aligned teachers.
        folder: of the stored distributions.
        recipe: the recipe's file.
        device: where teachers are computed.
        attention: the implementation of attention.
        say: receives one sentence for each teacher.
        progress: receives a teacher's name, and how many of its rows are done.

    Raises:
        RecipeError: when a teacher's weights cannot be loaded.
        Mismatch: when a stored file is damaged or holds something else.
    """
    for teacher in plan.teachers:
        file = stored_file(folder, teacher.name, teacher.key)
        if file.is_file():
            read_distributions(file, teacher.key, len(teacher.rows))
            say(f"{teacher.name}: its distributions are in {file}")
            continue
        make_folder(folder)
        model = _load(teacher, recipe, attention, device).to(device)
        say(f"{teacher.name}: computing its distributions on {len(teacher.rows)} rows")
        found = distributions_of(model, teacher, partial(progress, teacher.name))
        write_distributions(file, teacher.key, found)
        del model
        gc.collect()


def read_all(plan: FusionPlan, folder: Path) -> list[TeacherDistributions]:
    """Return the stored distributions of every teacher.

    Raises:
        Mismatch: when a file is damaged or holds something else.
    """
    return [
        read_distributions(stored_file(folder, teacher.name, teacher.key), teacher.key, len(teacher.rows))
        for teacher in plan.teachers
    ]


def _load(teacher: PlannedTeacher, recipe: Path, attention: str, device: Any) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_pretrained(
            teacher.model.path,
            dtype=getattr(torch, teacher.section.dtype),
            attn_implementation=attention,
            trust_remote_code=teacher.model.remote_code,
            use_safetensors=True,
        )
    except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise RecipeError(f"the teacher {teacher.name} cannot be loaded: {short(error)}", recipe) from error
    return widened(model, teacher.section.dtype, on_gpu=torch.device(device).type != "cpu").eval()


def distributions_of(model: Any, teacher: PlannedTeacher, progress: Callable[[int, int], None]) -> TeacherDistributions:
    """Return the most probable tokens of a teacher at every aligned position, as tokens of the student.

    Args:
        model: the teacher's weights.
        teacher: its aligned rows.
        progress: receives how many rows are done, and of how many.
    """
    kept = min(teacher.top_k, len(teacher.token_map))
    bounds, entropies = [0], []
    positions: list[Any] = [np.empty(0, np.int32)]
    ids: list[Any] = [np.empty((0, kept), np.int32)]
    logs: list[Any] = [np.empty((0, kept), np.float16)]
    for done, row in enumerate(teacher.rows, start=1):
        count = 0
        if row is not None:
            tokens, logprobs, entropy = _row(model, row, teacher.token_map, kept)
            positions.append(row.positions.astype(np.int32))
            ids.append(tokens)
            logs.append(logprobs)
            count = len(row.positions)
        entropies.append(entropy if row is not None else np.nan)
        bounds.append(bounds[-1] + count)
        progress(done, len(teacher.rows))
    return TeacherDistributions(
        np.array(bounds, dtype=np.int64), np.concatenate(positions), np.concatenate(ids), np.concatenate(logs),
        np.array(entropies, dtype=np.float64),
    )  # fmt: skip


def _row(model: Any, row: TeacherRow, token_map: Any, kept: int) -> tuple[Any, Any, float]:
    """Return the tokens [n, k], their log-probabilities [n, k] and the cross-entropy in nats of one row."""
    import torch

    answer = row.ids[row.begins :]
    with torch.inference_mode():
        ids = torch.tensor([row.ids], device=model.device)
        logits = model(input_ids=ids, logits_to_keep=len(answer) + 1, use_cache=False).logits[0, :-1]
        wanted = torch.tensor(answer, device=logits.device)
        chosen, tokens, values = [], [], []
        for part, labels in zip(torch.split(logits, _CHUNK), torch.split(wanted, _CHUNK), strict=True):
            logprobs = part.float().log_softmax(-1)
            chosen.append(logprobs.gather(1, labels[:, None])[:, 0].cpu())
            # Rows beyond the tokenizer's numbers are padding of the matrix.
            top = logprobs[:, : len(token_map)].topk(kept)
            tokens.append(top.indices.cpu())
            values.append(top.values.double().exp().cpu())
    entropy = -float(torch.cat(chosen)[torch.from_numpy(row.scored)].double().sum()) / row.count
    aligned = torch.from_numpy(row.aligned)
    mapped = token_map[torch.cat(tokens)[aligned].numpy()]
    merged, probabilities = merge_equal(mapped, torch.cat(values)[aligned].numpy())
    return merged, np.log(np.maximum(probabilities, 1e-30)).astype(np.float16), entropy
