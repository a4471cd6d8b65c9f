"""Which rows of a dataset stand in a suite: words in common, near duplicates, neighbours in meaning.

    index = SuiteIndex(items)               # items of a suite, once
    found = index.check([[instruction, response], …])     # the matches of each row, strongest first

search.py has the index and the rules, words.py and sketch.py what they are built from, texts.py reads datasets and
items, report.py writes what `gra contamination` leaves.
"""

from gra.data.contamination.search import RULES, Match, SuiteIndex, verdict_of
from gra.data.contamination.texts import SuiteItem

__all__ = ["RULES", "Match", "SuiteIndex", "SuiteItem", "verdict_of"]
