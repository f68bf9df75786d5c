"""Examines groups before a model is trained on them, one task per file.

`duplicates` finds groups that occur several times, `contamination` finds groups that are in a benchmark, `audit`
describes a source, and `relabel` drops or down-weights preferences that a trained model strongly disagrees with.
"""
