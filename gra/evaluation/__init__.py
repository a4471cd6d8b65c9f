"""Evaluate models: suites of tasks, answers through lm-eval, scorers, and paired comparisons."""
