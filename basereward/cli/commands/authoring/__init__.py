"""Commands that help to write recipes."""
