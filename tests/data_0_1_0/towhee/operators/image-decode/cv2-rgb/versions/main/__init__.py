# Written by `image-text-embedding link`; sha256 of what follows: fc4afdb2cc0d03f9aaeb28abf7b2f21def54607f91e56e91d65d73a4b56435df
from image_text_embedding.operators import ImageDecodeRGB as cv2_rgb
