"""What a trained model can do and how sure we are: suites, answers through lm-eval, checks, paired statistics."""
