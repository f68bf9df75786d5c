"""Heads map pooled hidden states to scores: one class for each file, found by the file's name."""
