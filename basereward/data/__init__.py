"""Preference groups: where they come from, how they are mixed, and how they become batches."""
