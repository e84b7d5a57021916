# Written by `image-text-embedding link`; sha256 of what follows: 2e270378bff0c5882bfff097592b3039ff59db6084714d890faa33b6ae6899e7
from image_text_embedding.operators import AlbefAnswering as albef
