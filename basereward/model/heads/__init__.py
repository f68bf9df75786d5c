"""Heads turn the hidden state of a pooled token into a score: one class a file, found by the file's name."""
