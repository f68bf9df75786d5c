"""The cells of an experiment: processes that train them, their comparison, ensembles of them."""
