# Written by `image-text-embedding link`; sha256 of what follows: b6ef5ac04940328ef9143db45e9de36f41437d3f508174886d9623e0471950fb
from image_text_embedding.operators import ImageDecode as image_decode
