"""Run unreviewed code, such as a model's answer, against tests: refused by default, confined, with one verdict."""
