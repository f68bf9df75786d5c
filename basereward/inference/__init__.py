"""Inference with trained models: scorers, prompt caches, ensembles, judges, score files."""
