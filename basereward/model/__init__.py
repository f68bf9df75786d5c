"""Backbones, heads and losses; saving, loading and scoring."""

import logging

# On import it looks for optional CPU kernels and warns that they are not installed; it works without.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
