"""YAML files to one mapping of values: includes, overrides, interpolation."""
