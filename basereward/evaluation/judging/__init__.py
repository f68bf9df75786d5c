"""Judges as subjects of a benchmark: what is asked, and the journal of their answers."""
