"""Chat templates from outside: rendering with limits, control tokens in texts, and the form of an answer."""
