"""Sections of reports that relate several evaluations of a model, and pages of published tables."""
