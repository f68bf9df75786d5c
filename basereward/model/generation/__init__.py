"""Text that a backbone writes: generation after a tree row, prompts of generative heads, and the verdicts in a text."""
