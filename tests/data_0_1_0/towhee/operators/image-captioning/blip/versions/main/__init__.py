# Written by `image-text-embedding link`; sha256 of what follows: 0c5dcc8dc2faef953417577643d072251ee188522d411051bd51abb3e33abea2
from image_text_embedding.operators import BlipCaptioning as blip
