"""Load seeds from a file: typed rows, the rows that are set aside, and an even draw over the domains."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from gra.config.synthesis import SeedsConfig
from gra.core.errors import DataError
from gra.core.hashing import digest
from gra.core.types import Seed
from gra.data.seeds.files import BadRow, PlacedRow, Row, read_rows
from gra.data.seeds.formats import SHAPES, recognized

_CANDIDATE = re.compile(r"r\d+-\d{6}")
_SHOWN = 10  # problems listed before "and N more"


@dataclass(frozen=True)
class Seeds:
    """Seeds in the order of the file, and one line (place, problem) for every row that was set aside."""

    rows: list[Seed]
    set_aside: list[str] = field(default_factory=list)

    def note(self) -> str:
        """Return a sentence about the rows that were set aside; empty when there are none."""
        return f"! {_listed(self)}" if self.set_aside else ""


def load_seeds(path: Path, domains: Sequence[str], source: SeedsConfig | None = None, *, seed: int = 0) -> Seeds:
    """Read seeds from a .jsonl, .json, .parquet or .csv file.

    Args:
        path: The file.
        domains: The recipe's domains. A row has a domain, or a model names it before the row becomes a parent.
        source: Format, domain of rows without one, limit, and the tolerated share of bad rows.
        seed: Of the draw, when there is a limit.

    Raises:
        DataError: When too many rows are bad, naming them with file and line, or none is left.
    """
    source = source or SeedsConfig(source=str(path))
    placed = list(read_rows(path))
    shape = _shape(path, placed, source)
    found = Seeds([])
    used: dict[str, str] = {}
    for each in placed:
        made = each.row if isinstance(each.row, BadRow) else _seeds(each, each.row, shape, domains, source)
        if isinstance(made, list) and (twice := [seed.id for seed in made if seed.id in used]):
            made = BadRow(f"the id `{twice[0]}` is already used at {used[twice[0]]}")
        if isinstance(made, BadRow):
            found.set_aside.append(f"{each.where}: {made.problem}")
            continue
        used.update({seed.id: each.where for seed in made})
        found.rows.extend(made)
    if not placed:
        raise DataError(f"the seed file {path} has no rows")
    if not found.rows or len(found.set_aside) > source.max_bad * len(placed):
        raise DataError(
            f"{_listed(found)}\n  `seeds.max_bad` is {source.max_bad:g}, the share of rows that may be set aside"
        )
    return Seeds(_even(found.rows, source.limit, seed), found.set_aside)


def _listed(seeds: Seeds) -> str:
    bad = seeds.set_aside
    more = f"\n  … and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
    head = f"{len(bad)} of {len(bad) + len(seeds.rows)} seed rows cannot be used:\n  "
    return head + "\n  ".join(bad[:_SHOWN]) + more


def _shape(path: Path, placed: Sequence[PlacedRow], source: SeedsConfig) -> str:
    """Return the format of the recipe, else that of the first row with the keys of a known format."""
    if source.format != "auto":
        return source.format
    readable = [(each.where, each.row) for each in placed if not isinstance(each.row, BadRow)]
    for where, row in readable:
        forms = recognized(row)
        if len(forms) > 1:
            raise DataError(f"{where}: this could be {' or '.join(forms)}; say which with `seeds.format`")
        if forms:
            return forms[0]
    if readable:
        known = "; ".join(f"{name}: {', '.join(keys)}" for name, (keys, _) in SHAPES.items())
        has = ", ".join(map(str, readable[0][1]))
        raise DataError(f"{path}: rows have the keys {has or '(none)'}, which no known form has ({known})")
    return "gra"


def _seeds(each: PlacedRow, row: Row, shape: str, domains: Sequence[str], source: SeedsConfig) -> list[Seed] | BadRow:
    """Return the seeds of a row, more than one where it has several instances, or what is wrong with it."""
    exchanges = SHAPES[shape][1](row, source.turns)
    if isinstance(exchanges, BadRow):
        return exchanges
    if any("\0" in text for exchange in exchanges for text in exchange):
        return BadRow("the text has a NUL character (U+0000); remove it")
    domain: Any = row.get("domain") or source.domain or ""
    if domain and domain not in domains:
        return BadRow(f"`domain` is {domain!r}; the recipe's domains are {', '.join(domains)}")
    identity: str | BadRow = f"seed-{each.number:06d}"
    if shape in ("gra", "self_instruct"):
        identity = _identity(row.get("id"), str(identity))
    if isinstance(identity, BadRow):
        return identity
    names = [identity, *(f"{identity}-{number}" for number in range(2, len(exchanges) + 1))]
    if shape != "gra":
        return [Seed(name, domain, *exchange) for name, exchange in zip(names, exchanges, strict=True)]
    keywords, summary = row.get("keywords") or [], row.get("summary") or ""
    if keywords and not (
        isinstance(keywords, list) and len(keywords) == 3 and all(isinstance(k, str) and k.strip() for k in keywords)
    ):
        return BadRow("`keywords` must be a list of three texts, or left out")
    if not isinstance(summary, str):
        return BadRow("`summary` must be text, or left out")
    tests = row.get("tests") or ""
    if (fault := _not_python(tests)) is not None:
        return fault
    return [Seed(identity, domain, *exchanges[0], tuple(keywords), summary, tests)]


def _identity(value: Any, otherwise: str) -> str | BadRow:
    """Return the id of a row as text.

    Args:
        value: Text or a whole number; tables with gaps hold 7 as 7.0, and a gap as NaN.
        otherwise: The id of a row that has none.
    """
    if value is None or value == "" or value != value:
        return otherwise
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return BadRow("`id` must be text or a whole number, or left out")
    if _CANDIDATE.fullmatch(str(value)):
        return BadRow(f"the id `{value}` is what candidates of a run are called; give the row another")
    return str(value)


def _not_python(tests: Any) -> BadRow | None:
    """Return what is wrong with a row's tests, which are compiled here and never run."""
    if not isinstance(tests, str):
        return BadRow("`tests` must be Python code as text, or left out")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as an odd escape, which is the author's matter
            compile(tests, "<tests>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return BadRow(f"`tests` is not Python ({error}), so no program could pass it")
    return None


def _even(seeds: list[Seed], limit: int | None, seed: int) -> list[Seed]:
    """Draw `limit` seeds by id, as evenly over the domains as possible, in the order of the file."""
    if limit is None or limit >= len(seeds):
        return seeds
    lots: dict[str, list[tuple[str, str]]] = {}
    for each in seeds:
        lots.setdefault(each.domain, []).append((digest([seed, "limit", each.id]), each.id))
    turns = zip_longest(*(sorted(lots[domain]) for domain in sorted(lots)))
    drawn = {lot[1] for lot in [lot for lot in chain.from_iterable(turns) if lot is not None][:limit]}
    return [each for each in seeds if each.id in drawn]
