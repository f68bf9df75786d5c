"""Benchmarks: where rows lie, and the protocol that reads them and turns outcomes into measures."""
