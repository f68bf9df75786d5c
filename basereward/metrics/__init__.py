"""What is measured over preferences: one torchmetrics class a file, intervals and pictures.

All classes are fed with `update(margins, ...)`: `margins (P,)` holds score(winner) - score(loser) of P preferences.
Their values are means over rows, whatever the batches were.
"""
