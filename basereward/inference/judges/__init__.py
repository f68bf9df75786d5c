"""Engines that generate the texts of judges: local models, vLLM, and endpoints over HTTP."""
