"""What training may do to a cell: turn it, mirror it, shift and size it a little, and stain it otherwise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from leukaemia_zoo.cells.arrays import BLACK

# Optical density of a pixel x: -log((x + 4) / 259). The offset keeps the density of black finite.
_WHITE, _OFFSET = 259.0, 4.0


@keras.saving.register_keras_serializable(package="leukaemia_zoo")
class CellAugmentation(keras.layers.Layer):
    """Random views of single cells; active in training only.

    A cell has no up and no left: it is turned by any angle and mirrored. Colours are changed in optical density, where
    a stain adds: the three channels are mixed, scaled and shifted a little, and the contrast inside the cell changes.
    A black background stays exactly black.

    Args:
        zoom: The size changes by a factor from exp(-zoom) to exp(zoom). Keep it small where the size of a cell counts.
        shift: Largest shift, as a share of the side.
        colour: Strength of the change of stain; 0 for none, 1 for a different laboratory.
        any_angle: Turn by any angle and resample; otherwise by quarter turns alone, which leave every pixel as it is,
            for images that were turned before they were reduced (see `turned_views`). Zoom and shift need any angle.
        cut_out: Share of the frames without a black background from which a random round shape is cut out and put on
            black, darkened like the segmented cells of C-NMC: for images of whole fields in the distillation.
        seed: Seed of the random generator.

    Call arguments:
        images: Tensor (batch, height, width, 3), RGB, 0 to 255.
        training: Whether to change the images; otherwise they pass as they are.

    Returns:
        Float32 tensor of the same shape, 0 to 255.

    Example:
        >>> import numpy as np
        >>> cell = np.zeros((1, 64, 64, 3), "float32")
        >>> cell[:, 20:44, 20:44] = (90.0, 40.0, 110.0)
        >>> view = CellAugmentation(seed=1)(cell, training=True)
        >>> tuple(view.shape), float(np.min(view))
        ((1, 64, 64, 3), 0.0)
    """

    def __init__(
        self,
        zoom: float = 0.1,
        shift: float = 0.03,
        colour: float = 0.3,
        any_angle: bool = True,
        cut_out: float = 0.0,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.zoom = zoom
        self.shift = shift
        self.colour = colour
        self.any_angle = any_angle
        self.cut_out = cut_out
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, images: Any, training: bool | None = None) -> Any:
        """Views of ``images``; see the class."""
        images = ops.cast(images, "float32")
        if not training:
            return images
        images = self._move(images) if self.any_angle else self._quarter_turn(images)
        darker = None
        if self.cut_out:
            images, darker = self._cut_out(images)
        return self._stain(images, darker) if self.colour or self.cut_out else images

    def _uniform(self, shape: tuple[Any, ...], low: float, high: float) -> Any:
        return keras.random.uniform(shape, low, high, seed=self.seed_generator)

    def _normal(self, shape: tuple[Any, ...], deviation: float) -> Any:
        return keras.random.normal(shape, 0.0, deviation, seed=self.seed_generator)

    def _move(self, images: Any) -> Any:
        """Turn by any angle, mirror, zoom and shift, in one resampling."""
        count, height, width = ops.shape(images)[0], images.shape[1], images.shape[2]
        angle = self._uniform((count,), 0.0, 2 * math.pi)
        scale = ops.exp(self._uniform((count,), -self.zoom, self.zoom))
        mirror = ops.where(self._uniform((count,), 0.0, 1.0) < 0.5, -1.0, 1.0)
        cos, sin = ops.cos(angle) * scale, ops.sin(angle) * scale
        x0, y0 = (width - 1) / 2, (height - 1) / 2
        a, b, c, d = cos * mirror, -sin, sin * mirror, cos
        shift_x = self._uniform((count,), -self.shift, self.shift) * width
        shift_y = self._uniform((count,), -self.shift, self.shift) * height
        rows = [a, b, x0 - a * x0 - b * y0 + shift_x, c, d, y0 - c * x0 - d * y0 + shift_y, a * 0.0, a * 0.0]
        return ops.image.affine_transform(
            images,
            ops.stack(rows, axis=-1),
            interpolation="bilinear",
            fill_mode="constant",
            fill_value=0.0,
            data_format="channels_last",
        )

    def _quarter_turn(self, images: Any) -> Any:
        """Each of the eight symmetries of a square by chance."""
        count = ops.shape(images)[0]
        return turned(images, [self._uniform((count, 1, 1, 1), 0.0, 1.0) < 0.5 for _ in range(3)])

    def _cut_out(self, images: Any) -> tuple[Any, Any]:
        """Cut a random blob out of frames that are not segmented; say which frames (batch, 1, 1, 1) were cut."""
        count, height, width = ops.shape(images)[0], images.shape[1], images.shape[2]
        covered = ops.mean(ops.cast(ops.max(images, axis=-1) > BLACK, "float32"), axis=(1, 2))
        chosen = self._uniform((count,), 0.0, 1.0) < self.cut_out
        # A turned frame has black corners, so that one without a black background is still covered by a half.
        cut = ops.reshape(ops.cast(ops.logical_and(covered > 0.5, chosen), "float32"), (-1, 1, 1, 1))
        y = ((ops.arange(height, dtype="float32") - (height - 1) / 2) / height)[None, :, None]
        x = ((ops.arange(width, dtype="float32") - (width - 1) / 2) / width)[None, None, :]
        stretch = ops.exp(self._uniform((count, 1, 1), -0.2, 0.2))
        wobble = self._uniform((count, 1, 1), 0.0, 0.12)
        phase = self._uniform((count, 1, 1), 0.0, 2 * math.pi)
        radius = self._uniform((count, 1, 1), 0.24, 0.5)
        angle = ops.arctan2(y / stretch, x * stretch)
        edge = radius * (1.0 + wobble * ops.sin(2.0 * angle + phase) + wobble * ops.sin(3.0 * angle - phase))
        blob = ops.cast(ops.sqrt((x * stretch) ** 2 + (y / stretch) ** 2) < edge, "float32")[..., None]
        return images * (1.0 - cut + cut * blob), cut

    def _stain(self, images: Any, darker: Any) -> Any:
        """Change the optical densities of the cell as another stain, scanner and focus would."""
        count, height, width = ops.shape(images)[0], images.shape[1], images.shape[2]
        strength = self.colour
        cell = ops.cast(ops.max(images, axis=-1, keepdims=True) > BLACK, "float32")
        density = -ops.log((images + _OFFSET) / _WHITE)
        mixing = ops.eye(3)[None] + self._normal((count, 3, 3), 0.05 * strength)
        density = ops.reshape(
            ops.matmul(ops.reshape(density, (count, height * width, 3)), mixing), (count, height, width, 3)
        )
        gain = self._normal((count, 1, 1, 1), 0.12 * strength) + self._normal((count, 1, 1, 3), 0.08 * strength)
        offset = self._normal((count, 1, 1, 3), 0.08 * strength)
        if darker is not None:
            gain = gain + darker * self._uniform((count, 1, 1, 1), -0.1, 0.4)
            offset = offset + darker * self._uniform((count, 1, 1, 3), 0.0, 0.8)
        density = density * ops.exp(gain) + offset
        total = ops.sum(cell, axis=(1, 2), keepdims=True) + 1.0
        mean = ops.sum(density * cell, axis=(1, 2), keepdims=True) / total
        density = mean + (density - mean) * ops.exp(self._normal((count, 1, 1, 1), 0.15 * strength))
        return ops.clip(_WHITE * ops.exp(-density) - _OFFSET, 0.0, 255.0) * cell

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The shape of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Plain configuration."""
        names = ("zoom", "shift", "colour", "any_angle", "cut_out", "seed")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def turned(images: Any, chosen: Sequence[Any], back: bool = False) -> Any:
    """Mirror images or feature maps along either side and swap the sides, each where it is chosen; or undo that.

    The three of `chosen` are booleans of the shape (batch, 1, 1, 1).
    """
    changes = (lambda x: ops.flip(x, axis=1), lambda x: ops.flip(x, axis=2), lambda x: ops.transpose(x, (0, 2, 1, 3)))
    steps = list(zip(chosen, changes, strict=True))
    for where, change in reversed(steps) if back else steps:
        images = ops.where(where, change(images), images)
    return images
