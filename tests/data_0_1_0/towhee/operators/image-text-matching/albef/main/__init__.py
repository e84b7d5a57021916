# Written by `image-text-embedding link`; sha256 of what follows: 35687da53f909e0b015fdfd1d7c9839319f8ab4cd709a7503caeab85e2c3f469
from image_text_embedding.operators import AlbefMatching as albef
