"""Metrics over preferences: one torchmetrics class per file; confidence intervals, significance tests and figures.

Every class takes `update(margins, ...)`, where `margins (P,)` holds score(winner) - score(loser) of P preferences. Its
value is a mean over all preferences, however they were divided into batches.
"""
