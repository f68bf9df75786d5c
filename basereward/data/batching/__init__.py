"""Encoded groups to tree batches: the plan of an epoch, token budgets, pooled states."""
