"""Reinforcement learning of judges with TRL (extra `rl`): objectives, rewards, training rows, and the trainer."""
