"""Adapters for preference data sets with images or video, one class a file."""
