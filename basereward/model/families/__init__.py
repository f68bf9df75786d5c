"""Families of backbones: processor, vision tower, language-model head and the names of their parts."""
