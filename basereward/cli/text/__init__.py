"""What the commands print without `--json`."""
