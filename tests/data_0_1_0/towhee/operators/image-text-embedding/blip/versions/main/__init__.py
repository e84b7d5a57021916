# Written by `image-text-embedding link`; sha256 of what follows: ec2a83f2469346d27f54155acc838027928e4b2904958845206e302015a26805
from image_text_embedding.blip import blip as blip
