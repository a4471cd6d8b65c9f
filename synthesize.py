"""Make a dataset: `python synthesize.py recipes/quickstart/gra.yaml [key=value ...]`; the same as `gra synthesize`."""

import sys

from gra.cli.main import main

if __name__ == "__main__":
    main(["synthesize", *sys.argv[1:]])
