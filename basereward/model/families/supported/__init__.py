"""The families that read images: one file each, with a constant `FAMILY`. A new file is found by itself."""
