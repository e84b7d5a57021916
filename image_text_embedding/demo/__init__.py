"""The packaged demonstration models and pictures, and how they were made.

    image-text-embedding train ... --pairs image_text_embedding.demo:TRAIN

The gallery shows held-out scenes: each has a pair of things that never occurs together in TRAIN. Reading the gallery needs no
font; drawing it does.
"""

from image_text_embedding.demo.packaged_gallery import gallery as gallery
from image_text_embedding.demo.packaged_gallery import write_gallery as write_gallery
from image_text_embedding.demo.scene_pairs import HELD_OUT as HELD_OUT
from image_text_embedding.demo.scene_pairs import TRAIN as TRAIN
from image_text_embedding.demo.scene_pairs import TRAIN_LARGE as TRAIN_LARGE
from image_text_embedding.demo.scene_pairs import TRAIN_MORE as TRAIN_MORE
from image_text_embedding.demo.scene_pairs import TRAIN_TEXTS as TRAIN_TEXTS
