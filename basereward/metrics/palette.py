"""Colours and strokes of every figure."""

# Okabe and Ito's colours, which the colour-blind tell apart; line styles differ too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", "-.", ":")
