"""Reads what clients send: connections, bodies, prompts, images and rendered conversations."""
