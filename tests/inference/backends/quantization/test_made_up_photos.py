"""Made-up photos: the statistics in which photos differ from noise and from drawings."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from image_text_embedding.inference.backends.quantization.made_up_photos import made_up_photo

SIZE = 128


@pytest.fixture(scope="module")
def made_up() -> list[np.ndarray]:
    return [made_up_photo(SIZE, seed) for seed in range(24)]


def real_photos() -> list[np.ndarray]:
    """The middles of photos, uint8 (SIZE, SIZE, 3)."""
    data = pytest.importorskip("skimage.data")
    found = []
    for photo in (data.astronaut(), data.coffee(), data.chelsea(), data.rocket()):
        side = min(photo.shape[:2])
        top, left = (photo.shape[0] - side) // 2, (photo.shape[1] - side) // 2
        square = photo[top : top + side, left : left + side]
        found.append(np.asarray(Image.fromarray(square).resize((SIZE, SIZE), Image.Resampling.BICUBIC)))
    return found


def slope(pixels: np.ndarray) -> float:
    """The power of the frequency with which the amplitude goes; noise has 0, Field's photos about -1."""
    grey = pixels.mean(-1)
    window = np.hanning(SIZE)[:, None] * np.hanning(SIZE)
    amplitude = np.abs(np.fft.fft2((grey - grey.mean()) * window))[: SIZE // 2, : SIZE // 2]
    frequency = np.hypot(*np.mgrid[: SIZE // 2, : SIZE // 2])
    rings = np.arange(3, SIZE // 3)
    means = [amplitude[abs(frequency - ring) < 0.5].mean() for ring in rings]
    return float(np.polyfit(np.log(rings), np.log(means), 1)[0])


def edges(pixels: np.ndarray) -> float:
    """The kurtosis of the differences of neighbours: 3 for noise, more where there are areas and edges."""
    differences = np.diff(pixels.mean(-1), axis=1)
    return float(((differences - differences.mean()) ** 4).mean() / differences.var() ** 2)


def colour_correlation(pixels: np.ndarray) -> float:
    return float(np.corrcoef(pixels.reshape(-1, 3).T.astype(float))[0, 1])


def test_the_same_for_the_same_seed(made_up: list[np.ndarray]) -> None:
    assert all(each.shape == (SIZE, SIZE, 3) and each.dtype == np.uint8 for each in made_up)
    assert np.array_equal(made_up_photo(SIZE, 5), made_up[5])
    assert len({each.tobytes() for each in made_up}) == len(made_up)
    assert made_up_photo(32, 0).shape == (32, 32, 3)


def test_the_spectrum_falls_with_the_frequency(made_up: list[np.ndarray]) -> None:
    slopes = [slope(each) for each in made_up]
    assert -1.8 < np.mean(slopes) < -0.9 and max(slopes) < -0.3
    noise = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3))
    assert abs(slope(noise)) < 0.2


def test_areas_and_edges(made_up: list[np.ndarray]) -> None:
    assert np.median([edges(each) for each in made_up]) > 6


def test_they_differ_in_exposure_contrast_and_colour(made_up: list[np.ndarray]) -> None:
    assert np.std([each.mean() for each in made_up]) > 15
    contrasts = [each.std() for each in made_up]
    assert 35 < np.mean(contrasts) < 80 and max(contrasts) > 1.5 * min(contrasts)
    assert 0.5 < np.mean([colour_correlation(each) for each in made_up]) < 0.95


@pytest.mark.parametrize(
    ("statistic", "least", "most"),
    [(slope, -0.6, 0.6), (np.mean, -60, 60), (np.std, -30, 30), (colour_correlation, -0.4, 0.4)],
)
def test_they_resemble_photos(
    made_up: list[np.ndarray], statistic: Callable[[np.ndarray], float], least: float, most: float
) -> None:
    difference = np.mean([statistic(each) for each in made_up]) - np.mean([statistic(each) for each in real_photos()])
    assert least < difference < most
