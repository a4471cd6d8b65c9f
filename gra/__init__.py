"""GRA: fine-tuning data from several small language models, by generation, review and adjudication.

Importing this package is light; torch, vLLM and TRL are imported where they are used.
"""

import os

__version__ = "0.1.0"

# OpenMP threads that wait by spinning take the core from the thread they wait for as soon as anything else runs on
# the machine: a tenfold slowdown on two cores. Read when torch is first imported; a setting of the user's own wins.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
