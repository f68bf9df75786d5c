"""Attention over tree rows, and execution of layers: fused kernels, torch.compile, gradient checkpointing."""
