"""Videos in prompts: their references in rows, the choice of their frames, and their pixels."""
