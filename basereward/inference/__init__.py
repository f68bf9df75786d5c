"""Trained models at work: scorers, the prompt cache, ensembles, judges, score files."""
