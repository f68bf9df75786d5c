"""What a training needs of this machine and of its data: found before a run exists, the cheap parts without torch."""
