"""One file a trainer. Each runs in that trainer's own virtual environment and prints one line of JSON."""
