"""GRA: fine-tuning data from several small language models, by generation, review and adjudication.

Importing this package is light; torch, vLLM and TRL are imported where they are used.
"""

__version__ = "0.1.0"
