"""Curate a dataset by the learning dynamics of students that were trained on trusted seeds alone."""
