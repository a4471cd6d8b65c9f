"""Compare evaluated models: `python eval/compare.py RUN RUN [--baseline NAME]`; the same as `gra compare`."""

from gra.cli.compare import main_compare

if __name__ == "__main__":
    main_compare()
