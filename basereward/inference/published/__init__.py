"""Reward models that others have published, as models of ours."""
