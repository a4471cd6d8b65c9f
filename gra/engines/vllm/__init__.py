"""Run vLLM in a child process; worker.py, which runs there, is the only module that imports vLLM."""
