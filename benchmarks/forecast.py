"""Measure the errors of cost forecasts against finished runs.

    python benchmarks/forecast.py recipes/quickstart/gra.yaml runs/b --past runs/a

Forecasts the run `b` from a mock run, from another run `a`, and from its own first candidates. The last forecast
leaves time out, because those candidates ran among all the others. Prints a table of the errors and writes
forecast.json. Needs no models.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from gra.config.loader import load_recipe
from gra.config.synthesis import SynthesisRecipe
from gra.core.run_folder import RunFolder
from gra.core.vocabulary import WorkKind
from gra.evaluation.suite import suite_items
from gra.forecast.mock_run import mock_run
from gra.forecast.observed_costs import COLUMNS, ObservedCandidates, ObservedCosts, read_costs
from gra.forecast.simulate import Forecast, Work, forecast
from gra.synthesis.run import make_job

_SHOWN = ("calls", "read", "written", "seconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("run", type=Path, help="the folder of the run that was made")
    parser.add_argument("--past", type=Path, help="the folder of another run")
    parser.add_argument("--output", type=Path, default=Path("forecast.json"))
    arguments = parser.parse_args()
    loaded = load_recipe(arguments.recipe, SynthesisRecipe)
    recipe = loaded.recipe
    job = make_job(loaded, RunFolder(Path("runs") / recipe.name), read_suite=suite_items, create=False)
    seeds = job.seeds.rows
    made = read_costs(arguments.run / "ledger.sqlite", recipe.name, "the run")
    actual = {name: sum(costs[:, :, COLUMNS.index(name)].sum() for costs in made.units.values()) for name in _SHOWN}
    work = Work(
        seeds=sum(not seed.enriched or not seed.domain for seed in seeds),
        control_items=min(recipe.review.control_items, len(seeds)),
        rounds=recipe.rounds.count,
        accept=recipe.rounds.accept,
        most=recipe.rounds.max_candidates,
        in_flight=12 * len({model for _, model in made.keys}),
    )
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, forecasted in _forecasts(mock_run(job, seeds), made, arguments.run, arguments.past, recipe.name, work):
        found[name] = {column: _compared(forecasted, column, actual[column]) for column in _SHOWN}
    print(f"{'observed':28}" + "".join(f"{column:>24}" for column in _SHOWN))
    print(f"{'the run itself':28}" + "".join(f"{actual[column]:>24,.0f}" for column in _SHOWN))
    for name, columns in found.items():
        cells = (f"{c['point']:,.0f} ({c['error']:+.0%}{'' if c['inside'] else ', outside'})" for c in columns.values())
        print(f"{name:28}" + "".join(f"{cell:>24}" for cell in cells))
    arguments.output.write_text(json.dumps({"actual": actual, "forecasts": found}, indent=2) + "\n", encoding="utf-8")


def _forecasts(
    assumed: ObservedCosts, made: ObservedCosts, run: Path, past: Path | None, name: str, work: Work
) -> Iterator[tuple[str, Forecast]]:
    yield "a mock run", forecast(assumed, work)
    if past is not None:
        yield "another run", forecast(read_costs(past / "ledger.sqlite", name, "another run"), work)
    yield "the whole run", forecast(made, work)
    for count in (4, 8, 12, 16):
        first = ObservedCandidates(made.candidates.passed[:count], made.candidates.round[:count])
        units = made.units | {WorkKind.CANDIDATE: made.of(WorkKind.CANDIDATE)[:count]}
        observed = replace(made, units=units, candidates=first)
        yield f"its first {count} candidates", forecast(observed, replace(work, own=True))


def _compared(found: Forecast, column: str, actual: float) -> dict[str, float]:
    given = found.seconds() if column == "seconds" else found.column(column)
    inside = float(given.low <= actual <= given.high)
    return given.to_json() | {"actual": actual, "error": given.point / actual - 1, "inside": inside}


if __name__ == "__main__":
    main()
