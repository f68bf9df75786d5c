"""JSON schemas of the YAML files, by which editors complete and check keys while a person types."""
