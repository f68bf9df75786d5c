"""Saved models: weights, card, identity of the backbone, and checks of folders from untrusted sources."""
