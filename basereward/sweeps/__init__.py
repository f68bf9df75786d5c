"""Sweeps: the cells of an experiment, the processes that train them, their comparison, ensembles of them."""
