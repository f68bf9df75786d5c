"""Rewards for rollouts of a policy: a model in this process or a server, and the scale of its scores."""
