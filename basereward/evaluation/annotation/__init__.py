"""Reasoning for preference pairs, written by a judge."""
