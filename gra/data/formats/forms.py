"""Forms of other tools: how a row looks in each, how it is read back, and what goes beside it.

Each form keeps system message, instruction and response exactly. The forms are those that the tools describe:

- `messages`: OpenAI's fine-tuning files; `sharegpt`: turns of `from` and `value`; `alpaca`: Stanford Alpaca's list
- `trl`: conversational prompt-completion and preference rows
- `llama-factory`: Alpaca rows and `dataset_info.json`
- `axolotl`: messages, and the part of its YAML for a dataset of the type `chat_template`
- `unsloth`: ShareGPT turns, and the section `data` of its YAML
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gra.data.formats.containers import Container, Csv, JsonLines, JsonList
from gra.data.formats.rows import ExportPair, ExportRow

Record = Mapping[str, Any]
_SPEAKERS = {"system": "system", "user": "human", "assistant": "gpt"}
_FLAT = (
    "id", "domain", "state", "score", "model", "license", "reviewed_by", "edited", "system", "instruction", "response",
)  # fmt: skip


@dataclass(frozen=True)
class PairForm:
    """How a preference pair looks in a form, and how it is read back."""

    write: Callable[[ExportPair], Record]
    read: Callable[[Record], tuple[str, ...]]


@dataclass(frozen=True)
class Form:
    """A form of a dataset.

    Attributes:
        write: makes a record of a row.
        read: returns system message, instruction and response of a record.
        container: the kind of file.
        pairs: how preference pairs look, where the form has them.
        beside: texts of further files by name, given the names of the files of rows and of pairs ("" for none).
    """

    write: Callable[[ExportRow], Record]
    read: Callable[[Record], tuple[str, ...]]
    container: Container
    pairs: PairForm | None = None
    beside: Callable[[str, str], dict[str, str]] = lambda rows, pairs: {}


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _prompt(system: str, instruction: str) -> list[dict[str, str]]:
    return [*([_message("system", system)] if system else []), _message("user", instruction)]


def _contents(messages: Sequence[Mapping[str, str]], role: str = "role", text: str = "content") -> tuple[str, str]:
    """Return the system message, or an empty text, and the first message of the user."""
    system = messages[0][text] if messages[0][role] == "system" else ""
    return system, messages[1 if system else 0][text]


def _messages(row: ExportRow) -> Record:
    return {"messages": [*_prompt(row.system, row.instruction), _message("assistant", row.response)]}


def _read_messages(record: Record) -> tuple[str, ...]:
    found = record["messages"]
    return *_contents(found), found[-1]["content"]


def _turns(row: ExportRow) -> Record:
    return {
        "conversations": [
            {"from": _SPEAKERS[message["role"]], "value": message["content"]} for message in _messages(row)["messages"]
        ]
    }


def _read_turns(record: Record) -> tuple[str, ...]:
    found = record["conversations"]
    return *_contents(found, "from", "value"), found[-1]["value"]


def _alpaca(row: ExportRow) -> Record:
    system = {"system": row.system} if row.system else {}
    return {"instruction": row.instruction, "input": "", "output": row.response, **system}


def _read_alpaca(record: Record) -> tuple[str, ...]:
    return record.get("system", ""), record["instruction"], record["output"]


def _trl(row: ExportRow) -> Record:
    return {
        "prompt": _prompt(row.system, row.instruction),
        "completion": [_message("assistant", row.response)],
        "id": row.id,
        "domain": row.domain,
    }


def _read_trl(record: Record) -> tuple[str, ...]:
    return *_contents(record["prompt"]), record["completion"][0]["content"]


def _trl_pair(pair: ExportPair) -> Record:
    return {
        "prompt": _prompt(pair.system, pair.instruction),
        "chosen": [_message("assistant", pair.chosen)],
        "rejected": [_message("assistant", pair.rejected)],
        "id": pair.id,
    }


def _read_trl_pair(record: Record) -> tuple[str, ...]:
    return *_contents(record["prompt"]), record["chosen"][0]["content"], record["rejected"][0]["content"]


def _llama_factory(row: ExportRow) -> Record:
    return {**_alpaca(row), "system": row.system}  # every row needs every column that `dataset_info.json` names


def _alpaca_pair(pair: ExportPair) -> Record:
    texts = {"instruction": pair.instruction, "input": "", "chosen": pair.chosen, "rejected": pair.rejected}
    return {**texts, "system": pair.system}


def _read_alpaca_pair(record: Record) -> tuple[str, ...]:
    return record.get("system", ""), record["instruction"], record["chosen"], record["rejected"]


def _dataset_info(rows: str, pairs: str) -> dict[str, str]:
    columns = {"prompt": "instruction", "query": "input", "system": "system"}
    info: dict[str, Any] = {"gra": {"file_name": rows, "columns": columns | {"response": "output"}}}
    if pairs:
        better = {"chosen": "chosen", "rejected": "rejected"}
        info["gra_preferences"] = {"file_name": pairs, "ranking": True, "columns": columns | better}
    return {"dataset_info.json": json.dumps(info, indent=2) + "\n"}


def _axolotl(rows: str, pairs: str) -> dict[str, str]:
    text = f"""# The part of an Axolotl configuration for these rows. Run Axolotl in this folder, or write whole paths.
datasets:
  - path: {rows}
    ds_type: json
    type: chat_template
    field_messages: messages
    message_property_mappings:
      role: role
      content: content
    roles_to_train: [assistant]
"""
    return {"axolotl.yaml": text}


def _unsloth(rows: str, pairs: str) -> dict[str, str]:
    text = f"""# The part of an Unsloth configuration for these rows. Run it in this folder, or write whole paths.
data:
  local_dataset: [{rows}]
  format_type: sharegpt
"""
    return {"unsloth.yaml": text}


def _flat(row: ExportRow) -> Record:
    texts = dict(zip(("system", "instruction", "response"), row.texts, strict=True))
    values = row.origin() | texts
    return {name: values[name] for name in _FLAT}


def _flat_text(row: ExportRow) -> Record:
    return {**_flat(row), "reviewed_by": " ".join(row.reviewed_by), "edited": "yes" if row.edited else ""}


def _read_flat(record: Record) -> tuple[str, ...]:
    return record["system"], record["instruction"], record["response"]


_TRL_PAIRS = PairForm(_trl_pair, _read_trl_pair)
FORMS: dict[str, Form] = {
    "messages": Form(_messages, _read_messages, JsonLines()),
    "sharegpt": Form(_turns, _read_turns, JsonList()),
    "alpaca": Form(_alpaca, _read_alpaca, JsonList()),
    "trl": Form(_trl, _read_trl, JsonLines(), _TRL_PAIRS),
    "llama-factory": Form(
        _llama_factory, _read_alpaca, JsonList(), PairForm(_alpaca_pair, _read_alpaca_pair), _dataset_info
    ),
    "axolotl": Form(_messages, _read_messages, JsonLines(), beside=_axolotl),
    "unsloth": Form(_turns, _read_turns, JsonLines(), beside=_unsloth),
    "csv": Form(_flat_text, _read_flat, Csv(_FLAT)),
    "jsonl": Form(_flat, _read_flat, JsonLines(), _TRL_PAIRS),
}
