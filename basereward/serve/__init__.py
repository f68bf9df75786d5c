"""The scoring server and its protocols."""
