"""Pictures with the statistics of photos, made by rule: they calibrate int8, and measure backends, where no photos are given.

Photos differ from drawings in what a network reads: neighbouring pixels go together at every scale (the amplitude falls with
about the first power of the frequency), objects of all sizes hide each other, colours are mostly shades of one lightness, and
exposure, sharpness and noise differ from one to the next.
"""

from __future__ import annotations

import numpy as np

# Increase it when the pictures change: what they calibrated is then exported again.
RECIPE = 1

LEAVES = 200

# Radii of leaves, in sides of the picture.
SMALLEST, LARGEST = 0.03, 0.7


def made_up_photo(size: int, seed: int) -> np.ndarray:
    """A picture, uint8 (size, size, 3); always the same for a seed.

    Leaves that hide each other, their number falling with the third power of the radius: Lee, Mumford and Huang, "Occlusion
    models for natural images" (2001). Each has a colour, light from one side, and a texture: noise whose amplitude falls with
    the frequency, Field, "Relations between the statistics of natural images" (1987).
    """
    random = np.random.default_rng([RECIPE, seed])
    texture = _texture(size, random)
    rows, columns = np.mgrid[:size, :size].astype(np.float32) / size
    contrast, colourful = random.uniform(0.4, 1.4), random.uniform(0.1, 0.8)
    # The logarithm of light, first of what lies behind all leaves, such as a sky or a wall.
    light = contrast * (random.uniform(0.05, 0.6) * texture + _gradient(rows, columns, random))
    # Inverts the distribution of the radii.
    radii = 1 / np.sqrt(random.uniform(LARGEST**-2, SMALLEST**-2, LEAVES))
    for radius in radii:
        row, column = random.uniform(size=2)
        top, left = (max(0, int((each - radius) * size)) for each in (row, column))
        bottom, right = (int((each + radius) * size) + 1 for each in (row, column))
        part = np.s_[top:bottom, left:right]
        y, x = rows[part] - row, columns[part] - column
        inside = _leaf(y / radius, x / radius, random)
        colour = random.normal() + colourful * random.normal(size=3)
        surface = random.uniform(0, 0.5) * texture[::-1, ::-1][part] + _gradient(y / radius, x / radius, random)
        light[part][inside] = contrast * (colour + surface)[inside]
    return _develop(light, random)


def _texture(size: int, random: np.random.Generator) -> np.ndarray:
    """Noise (size, size, 3) with a standard deviation of about 1; the channels go together."""
    noise = np.fft.rfft2(random.normal(size=(4, size, size))) / np.maximum(_frequencies(size), 1 / size)
    lightness, *colours = np.fft.irfft2(noise, s=(size, size))
    return np.stack([lightness / lightness.std() + 0.25 * each / each.std() for each in colours], axis=-1)


def _frequencies(size: int) -> np.ndarray:
    """Of the values of `rfft2`, in periods per pixel."""
    return np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])


def _gradient(y: np.ndarray, x: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """(h, w, 1), rising in a random direction."""
    down, right = random.normal(0, 0.5, 2)
    return (down * y + right * x)[..., None]


def _leaf(y: np.ndarray, x: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Where a leaf is, for positions from -1 to 1: an ellipse or a rectangle, turned."""
    angle, flat = random.uniform(0, np.pi), random.uniform(0.3, 1)
    along, across = np.cos(angle) * x + np.sin(angle) * y, (np.cos(angle) * y - np.sin(angle) * x) / flat
    if random.random() < 0.5:
        return along**2 + across**2 < 1
    return np.maximum(abs(along), abs(across)) < 0.7


def _develop(light: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The photo of logarithms of light, as of a camera: uint8 (size, size, 3)."""
    size = len(light)
    blur = size * random.choice([0.001, 0.002, 0.004])  # pixels
    waves = np.fft.rfft2(light, axes=(0, 1)) * np.exp(-2 * (np.pi * blur * _frequencies(size)) ** 2)[..., None]
    light = np.fft.irfft2(waves, s=(size, size), axes=(0, 1))
    # Exposed for the middle tones, more or less well, under warmer or colder light.
    light = light - np.median(light) + np.log(0.14) + random.normal(0, 0.6) + random.normal(0, 0.15, 3)
    values = 255 * np.exp(light).clip(0, 1) ** (1 / 2.2) + random.uniform(0, 6) * random.normal(size=light.shape)
    return values.round().clip(0, 255).astype(np.uint8)
