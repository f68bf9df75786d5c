"""Backbones, heads and losses; saving, loading and scoring."""

import logging

# peft imports bitsandbytes, which looks for optional CPU kernels on import and warns that they are not installed; it
# works without them. The level of this one logger is set for the whole process, because the warning comes before any
# function here is called.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
