# Written by `image-text-embedding link`; sha256 of what follows: f176d06a1776c65c8f5a792c71570c9167814eb068226622f3f27c54b90c0116
from image_text_embedding.operators import BlipMatching as blip
