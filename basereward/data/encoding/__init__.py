"""Prompts and responses to token ids: chat templates, control tokens, lengths."""
