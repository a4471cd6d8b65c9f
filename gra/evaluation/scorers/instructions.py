"""Task kind `instructions`: requests with format constraints, which programs check.

A row is `{"id", "instruction", "checks"}`, with `category` and `cluster` where there are any.
"""

from __future__ import annotations

from typing import Any

from gra.checks.format import CHECKS_VERSION, FormatCheck, failed, parse_checks
from gra.config.suite import TaskConfig
from gra.evaluation.rows import Row
from gra.evaluation.task import RowTask, Sample, SampleScore, common_fields

_VERSION = 1  # raise when an answer is scored differently; the checks have a version of their own


class InstructionsTask(RowTask):
    """Requests with format constraints; the target of a sample is a tuple of `FormatCheck`."""

    name = "instructions"

    def parse(self, row: Row, where: str, config: TaskConfig) -> Sample:
        """Make a sample of one row."""
        return Sample(**common_fields(row, where, "instruction"), target=parse_checks(row.get("checks"), where))

    def version(self) -> list[Any]:
        """Return what decides a score beside the sample."""
        return [_VERSION]

    def target_digest(self, sample: Sample) -> str:
        """Return a digest of the checks."""
        checks: tuple[FormatCheck, ...] = sample.target
        listed = [[check.kind, dict(check.arguments)] for check in checks]
        return sample.target_digest(listed, CHECKS_VERSION if checks else 0)

    def score(self, sample: Sample, text: str, finish: str | None) -> SampleScore:
        """Apply every check to the text; an empty text passes none."""
        missed = failed(sample.target, text) if text.strip() else [check.kind for check in sample.target]
        return SampleScore(passed=not missed, failed_checks=tuple(missed))
