"""Images: where they are, how they open, their pixels, and the cached features of a frozen vision tower."""
