"""Measure members on control items: calibrations, the panel of reviewers, chains, competence."""
