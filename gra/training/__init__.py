"""Fine-tune a student with TRL and PEFT; torch and TRL are imported when a run begins."""
