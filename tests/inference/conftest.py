"""Small checkpoints for the tests of this folder."""

from tests.helpers.checkpoint_fixtures import folder_of, pictures, pictures_of

__all__ = ["folder_of", "pictures", "pictures_of"]
