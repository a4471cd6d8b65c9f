"""Write rows in a form of another tool, read them back, and compare them row by row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, Protocol, TypeVar

from gra.core.errors import Mismatch, RecipeError
from gra.core.files import atomic_path, make_folder, write_text
from gra.data.formats.containers import Container, JsonLines
from gra.data.formats.forms import FORMS, Form, Record
from gra.data.formats.rows import ExportPair, ExportRow

ORIGIN = "origin.jsonl"  # one line a row, in the order of the rows


class _Sample(Protocol):
    @property
    def id(self) -> str: ...

    @property
    def texts(self) -> tuple[str, ...]: ...


_S = TypeVar("_S", bound=_Sample)
_ANY = ("train", "preferences")


def write_form(
    name: str,
    folder: Path,
    rows: Sequence[ExportRow],
    pairs: Sequence[ExportPair],
    about: str,
) -> dict[str, int]:
    """Write `train.*`, `preferences.*` where the form has pairs, `origin.jsonl`, `README.md` and files of the tool.

    Args:
        name: a key of `FORMS`.
        folder: where the files go; files of an earlier export there are replaced.
        rows: the rows, in order.
        pairs: the preference pairs; forms without pairs leave them out.
        about: the text of `README.md`, which `head` precedes.

    Returns:
        The number of samples in each file.

    Raises:
        RecipeError: the folder holds other files.
        Mismatch: a file does not read back as it was written.
    """
    form = FORMS[name]
    _check_folder(folder)
    make_folder(folder)
    names = {part: f"{part}.{form.container.suffix}" for part in _ANY}
    counts = {names["train"]: _write(folder / names["train"], form.container, rows, form.write, form.read)}
    if form.pairs is not None and pairs:
        file = folder / names["preferences"]
        counts[names["preferences"]] = _write(file, form.container, pairs, form.pairs.write, form.pairs.read)
    with atomic_path(folder / ORIGIN) as temporary:
        JsonLines().write(temporary, (row.origin() for row in rows))
    written = {"README.md": head(counts) + about, **_beside(form, names, counts)}
    for file_name, text in written.items():
        write_text(folder / file_name, text)
    _remove_earlier(folder, {*counts, *written, ORIGIN})
    return counts


def head(files: Iterable[str]) -> str:
    """Return the YAML that `datasets` and the hub read first: what the files of rows are.

    Args:
        files: the files of rows; the first is loaded where no name is given.
    """
    lines = ["---", "license: other", "task_categories: [text-generation]", "tags: [synthetic, gra]", "configs:"]
    for number, file in enumerate(files):
        lines.append(f"- config_name: {file.partition('.')[0]}")
        lines += ["  default: true"] if number == 0 else []
        lines.append(f"  data_files: [{{split: train, path: {file}}}]")
    return "\n".join([*lines, "---", "", ""])


def read_form(name: str, folder: Path) -> Iterator[tuple[str, ...]]:
    """Yield system message, instruction and response of each row of an export."""
    form = FORMS[name]
    yield from map(form.read, form.container.read(folder / f"train.{form.container.suffix}"))


def _beside(form: Form, names: dict[str, str], counts: dict[str, int]) -> dict[str, str]:
    pairs = names["preferences"] if names["preferences"] in counts else ""
    return form.beside(names["train"], pairs)


def _write(
    file: Path,
    container: Container,
    samples: Sequence[_S],
    write: Callable[[_S], Record],
    read: Callable[[Record], tuple[str, ...]],
) -> int:
    missing: Any = object()
    with atomic_path(file) as temporary:
        count = container.write(temporary, map(write, samples))
        for sample, record in zip_longest(samples, container.read(temporary), fillvalue=missing):
            if sample is missing or record is missing or read(record) != sample.texts:
                which = "a row too many" if sample is missing else f"the row {sample.id}"
                raise Mismatch(f"{file}: {which} does not read back as it was written; nothing was replaced")
    return count


def _check_folder(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / ORIGIN).is_file())):
        raise RecipeError(f"{folder} holds other files; name an empty or a new folder with --output")


def _remove_earlier(folder: Path, written: set[str]) -> None:
    """Remove the files of an earlier export in another form."""
    suffixes = {form.container.suffix for form in FORMS.values()}
    known = {f"{part}.{suffix}" for part in _ANY for suffix in suffixes}
    known |= {name for form in FORMS.values() for name in form.beside("", "x")}
    for name in known - written:
        (folder / name).unlink(missing_ok=True)
