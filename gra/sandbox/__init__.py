"""Run code that nobody has read, such as a model's answer, against tests: refused by default, confined, one verdict."""
