"""Colours and line styles of every figure."""

# The palette of Okabe and Ito, whose colours people with colour blindness can tell apart. Line styles differ too, for
# prints in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", "-.", ":")
