"""Commands that bring a model out of this process: a server."""
