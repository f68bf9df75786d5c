"""Numbers that papers publish, read from YAML files."""
