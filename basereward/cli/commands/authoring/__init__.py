"""Commands that help to write: recipes, their schemas, and command lines."""
