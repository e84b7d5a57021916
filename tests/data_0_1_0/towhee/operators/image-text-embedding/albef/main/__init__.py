# Written by `image-text-embedding link`; sha256 of what follows: edd778d218a7ac3f04b9fcbe7f04b91569bc46b19c319af70262abc313b9b8be
from image_text_embedding.albef import albef as albef
