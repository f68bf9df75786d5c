"""Objectives that learn from rewards of rollouts, texts that the model writes itself; `basereward.rl` uses them."""
