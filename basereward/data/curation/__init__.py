"""What is known of groups before a model sees them, one concern a file.

`duplicates` finds groups that come again, `contamination` those that are in a benchmark, `audit` describes a source,
and `relabel` drops or weighs down preferences that a trained model strongly disagrees with.
"""
