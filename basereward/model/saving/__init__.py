"""A saved model's folder: weights, card, the identity of its backbone, and the checks of a folder from outside."""
