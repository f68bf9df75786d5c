"""Backbones, heads and losses; saving, loading and scoring."""
