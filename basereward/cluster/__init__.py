"""Clusters of several machines: the only package that imports Ray."""
