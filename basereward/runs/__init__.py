"""Run folders, their states and locks, the scores that a run keeps, and its tracking."""
