"""The cost of a recipe before it runs: FLOPs, memory, hours by GPU."""
