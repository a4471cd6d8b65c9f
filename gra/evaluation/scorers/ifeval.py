"""Task kind `ifeval`: requests with the verifiable instructions of IFEval.

A row is `{"id", "question", "instructions"}`; each instruction has its `id` and its arguments.
Either lm-eval's program or `gra.checks.ifeval` decides. Both match patterns of the rows against the answer.
So they run in a child process, which is killed when an answer takes too long.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from gra.checks.ifeval import VERIFIABLE_VERSION, broken, known, loosened
from gra.config.problems import did_you_mean
from gra.config.suite import TaskConfig
from gra.core.errors import DataError
from gra.core.hashing import digest
from gra.core.processes.bounded import BoundedFunction, LimitExceeded
from gra.evaluation.rows import Row
from gra.evaluation.task import LoadedTask, RowTask, Sample, SampleScore, common_fields

_VERSION = 2  # raise when an answer is scored differently; the checks have a version of their own
_OWN = "gra"
Instructions = Sequence[Mapping[str, Any]]


class IFEvalTask(RowTask):
    """Requests with verifiable instructions; the target of a sample is a tuple of mappings."""

    name = "ifeval"
    verdicts = ("right", "wrong", "no_answer")

    def parse(self, row: Row, where: str, config: TaskConfig) -> Sample:
        """Make a sample of one row."""
        listed = row.get("instructions")
        if not isinstance(listed, list) or not listed or not all(isinstance(one, dict) for one in listed):
            raise DataError(f"{where}: `instructions` must be a list of mappings with an `id` and its arguments")
        for one in listed:
            if one.get("id") not in known():
                hint = did_you_mean(str(one.get("id")), list(known())) or f" (known: {', '.join(known())})"
                raise DataError(f"{where}: IFEval has no instruction `{one.get('id')}`{hint}")
        return Sample(**common_fields(row, where), target=tuple(listed))

    def version(self) -> list[Any]:
        """Return what decides a score beside the sample."""
        return [_VERSION, VERIFIABLE_VERSION]

    def program(self) -> str | None:
        """Return "lm-eval" where its program works, else "gra"."""
        from gra.evaluation.lm_eval import verifier

        found = verifier()
        return found[0] if found is not None else _OWN

    def target_digest(self, sample: Sample) -> str:
        """Return a digest of the instructions."""
        return sample.target_digest([], 0, digest([None, [dict(one) for one in sample.target]]))

    def score(self, sample: Sample, text: str, finish: str | None) -> SampleScore:
        """Apply every instruction to the text, strictly and loosely."""
        try:
            found = _judge(self.program() or _OWN)(list(sample.target), text)
        except LimitExceeded as error:
            return SampleScore(False, "wrong", None, str(error), tuple(one["id"] for one in sample.target), False)
        failures = tuple(found["broken"])
        return SampleScore(not failures, "wrong" if failures else "right", None, None, failures, found["loose"])

    def summary(self, task: LoadedTask, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the share of single instructions that are followed."""
        asked = sum(len(sample.target) for sample in task.samples)
        followed = asked - sum(len(row["failed_checks"]) for row in rows)
        return {"instructions": {"n": asked, "followed": followed, "mean": followed / asked}}


@lru_cache
def _judge(program: str) -> BoundedFunction:
    return BoundedFunction(f"{__name__}:{open_judge.__name__}", program)


def open_judge(program: str) -> Callable[[Instructions, str], dict[str, Any]]:
    """Return the function that applies IFEval's instructions; `gra.core.processes.bounded` runs it in a child process.

    Args:
        program: "lm-eval" or "gra".
    """
    breaks: Callable[[Instructions, str], list[str]] = broken
    if program != _OWN:
        from gra.evaluation.lm_eval import verifier

        found = verifier()
        assert found is not None, "the parent process found lm-eval's program"
        breaks = found[1]

    def judge(instructions: Instructions, text: str) -> dict[str, Any]:
        loose = all(any(not breaks([one], part) for part in loosened(text)) for one in instructions)
        return {"broken": breaks(instructions, text), "loose": loose}

    return judge
