"""Compare evaluated models: `python eval/compare.py RUN RUN [--baseline NAME]`; the same as `gra compare`."""

from gra.cli.evaluate import main_compare
from gra.reports.compare_page import write_page

if __name__ == "__main__":
    main_compare(page=write_page)
