"""Rewards in reinforcement learning: each file is a reward that a recipe finds by its name, such as `rule`."""
