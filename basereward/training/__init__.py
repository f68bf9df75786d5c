"""Training: the Lightning module, its callbacks, one run from recipe to saved model, cost estimates, ensembles."""
