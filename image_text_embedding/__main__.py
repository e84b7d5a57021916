"""`python -m image_text_embedding` is the command `image-text-embedding`."""

from image_text_embedding.interfaces.cli import main

if __name__ == "__main__":
    main()
