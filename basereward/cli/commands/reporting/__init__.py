"""Commands that write pages: of experiments, of evaluations, and of published tables."""
