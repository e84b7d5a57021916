"""Photos and captions that several test files embed."""

from __future__ import annotations

import numpy as np

CAPTIONS = [
    "A teddybear on a skateboard in Times Square.",
    "two dogs",
    "A cup of coffee, on a wooden table - with a spoon/knife!",
    "a rocket",
]
SENTENCES = ["a woman and a dog", "two dogs", "a cup of coffee, on a wooden table - with a spoon", "a rocket"]
QUESTIONS = ["how many dogs are in the picture?", "what is it", "is there a rocket in the sky above florida at night?"]
CHOICES = ["yes", "no", "two", "two dogs", "a rocket", "the cat's whiskers"]


def sample_photos() -> list[np.ndarray]:
    """Five RGB photos of different sizes: uint8 (height, width, 3)."""
    from skimage import data
    from sklearn.datasets import load_sample_images

    china, flower = load_sample_images().images
    return [china, flower, data.astronaut(), data.coffee(), data.chelsea()]
