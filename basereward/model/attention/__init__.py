"""Attention over tree rows, and what a layer runs with: kernels, compiling, gradient checkpointing."""
