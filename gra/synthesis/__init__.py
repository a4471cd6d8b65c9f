"""The method: candidates are generated, reviewed, and where reviewers disagree, adjudicated."""
