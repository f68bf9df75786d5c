"""Adapters for preference data sets without images, one class a file."""
