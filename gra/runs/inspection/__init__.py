"""Look at the rows of a run: the seeds beside each arm, and what is thin in an arm."""
