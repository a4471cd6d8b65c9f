"""Find rows of a dataset that repeat a suite's items: by common words, as near duplicates, or by similar meaning.

    index = SuiteIndex(items)               # items of a suite, once
    found = index.check([[instruction, response], …])     # the matches of each row, strongest first

search.py has the index and the rules. words.py and sketch.py hash words and texts for it. texts.py reads datasets and
items. report.py writes the files of `gra contamination`.
"""

from gra.data.contamination.search import RULES, Match, SuiteIndex, verdict_of
from gra.data.contamination.texts import SuiteItem

__all__ = ["RULES", "Match", "SuiteIndex", "SuiteItem", "verdict_of"]
