"""Multiplications and bytes of a forward and backward pass, counted from the configuration."""
