"""Saved models in formats that other software opens: transformers, peft and vLLM."""
