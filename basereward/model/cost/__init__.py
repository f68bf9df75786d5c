"""Costs of a training step, from the configuration of a model: floating-point operations and memory."""
