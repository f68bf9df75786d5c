"""Groups that are read once, from beginning to end, without counting them first."""
