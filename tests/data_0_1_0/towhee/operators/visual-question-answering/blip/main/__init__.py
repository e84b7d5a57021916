# Written by `image-text-embedding link`; sha256 of what follows: 17894dfd386af8faceb6114a11bd018ceb7fbadb5fabc9a2ae0719e866e7bfa8
from image_text_embedding.operators import BlipAnswering as blip
