"""The parts of a run of reinforcement learning: rows, trainer, record, held-out answers, saving."""
