"""Reproduces a published table: trains its cells, measures them on its benchmarks, and writes its page."""
