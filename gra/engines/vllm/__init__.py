"""Run vLLM in a child process."""
