"""Objectives, what a training step does with a batch: one class for each file, found by the file's name."""
