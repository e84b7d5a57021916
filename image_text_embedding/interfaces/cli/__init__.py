"""The command `image-text-embedding`."""

from image_text_embedding.interfaces.cli.app import main as main
