"""The sections about reinforcement learning: of policies, which write answers, and of judges, which compare them."""
