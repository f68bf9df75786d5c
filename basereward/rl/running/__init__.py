"""What a run of reinforcement learning is made of: rows, trainer, record, held-out answers, saving."""
