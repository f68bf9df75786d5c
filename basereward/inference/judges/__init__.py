"""What a judge is asked and what it answers: prompts, verdicts, and the scores they come to."""
