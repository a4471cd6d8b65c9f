"""Engine that runs vLLM in a child process."""
