"""The responses of a row: their cells, their texts and their images."""
