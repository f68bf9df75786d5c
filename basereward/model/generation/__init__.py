"""Generation after tree rows, prompts of judges, parsing of verdicts, and scores from verdicts."""
