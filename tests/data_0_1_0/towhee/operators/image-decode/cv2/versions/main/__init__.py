# Written by `image-text-embedding link`; sha256 of what follows: 57306834ecacce2b049704051fb67fe11e6f37d91577a54aa2f2fefc9ff4cf52
from image_text_embedding.operators import ImageDecode as cv2
