"""Drawn fields of a smear, for the tests that cut cells out; and the docstrings of a module as a test."""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SLIDE, CYTOPLASM, NUCLEUS, RED, PLATELET = (
    (243, 232, 222),
    (188, 166, 208),
    (96, 50, 130),
    (222, 168, 160),
    (140, 90, 160),
)
SCALE = 0.1
"""Micrometres per pixel at which the sizes below are those of blood: a red cell measures 73.5 pixels."""


def draw_field(white=(), red=(), platelets=(), size=(640, 480), seed=None):
    """A field, uint8 (height, width, 3), and the true masks of its white cells in their order.

    `white` are (x, y, radius, radius of the nucleus), `red` and `platelets` are (x, y).
    """
    image = Image.new("RGB", size, SLIDE)
    pen = ImageDraw.Draw(image)

    def disc(x, y, radius, colour):
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)

    for x, y in red:
        disc(x, y, 36.75, RED)
    for x, y in platelets:
        disc(x, y, 10, PLATELET)
    for x, y, radius, nucleus in white:
        disc(x, y, radius, CYTOPLASM)
        disc(x, y, nucleus, NUCLEUS)
    pixels = np.asarray(image.filter(ImageFilter.GaussianBlur(1))).astype(float)
    if seed is not None:
        pixels += np.random.default_rng(seed).normal(0, 4, pixels.shape)
    across, down = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    masks = [np.hypot(across - x, down - y) <= radius for x, y, radius, _ in white]
    return np.clip(pixels, 0, 255).astype(np.uint8), masks


def overlap(one, other):
    """Intersection over union of two masks."""
    return (one & other).sum() / (one | other).sum()
