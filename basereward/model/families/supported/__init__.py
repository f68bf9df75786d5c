"""The families that read images: one file each, with a constant `FAMILY`. A new file needs no registration."""
