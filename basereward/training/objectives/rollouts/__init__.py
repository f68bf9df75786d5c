"""Objectives that learn from rewards of rollouts, which are texts that the model generates; used by `basereward.rl`."""
