"""The stages of pipelines, one file each, found by its name."""
