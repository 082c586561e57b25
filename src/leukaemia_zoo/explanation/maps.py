"""Where in a cell the evidence for a class lies: Grad-CAM, HiResCAM, the attention map, occlusion.

Each map explains what `predict` says: it is made of the same turned and mirrored views and averaged over them. The
score that is explained is how far the logit of the class lies above the mean of all classes: it has a slope where the
probability is 0.999, does not depend on what is added to all logits alike, and is above 0 for the class that wins.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from leukaemia_zoo.cells.arrays import BLACK, RGBArray, brightest
from leukaemia_zoo.cells.images import image_items
from leukaemia_zoo.cells.preprocessing import network_pixels, symmetric_views, upright_views
from leukaemia_zoo.common.text import close_matches
from leukaemia_zoo.errors import DataError, ImageError, UnknownNameError
from leukaemia_zoo.explanation.depths import Depths, depths_of, enlarging
from leukaemia_zoo.explanation.gradients import gradients
from leukaemia_zoo.prediction.attention import attention_maps
from leukaemia_zoo.zoo.layers import MASK_FLOOR
from leukaemia_zoo.zoo.loading import as_model, config_of
from leukaemia_zoo.zoo.outputs import averaged_views, class_probabilities, kept
from leukaemia_zoo.zoo.registry import ModelConfig
from leukaemia_zoo.zoo.tensors import LOGITS_LAYER

METHODS = ("grad_cam", "hires_cam", "attention", "occlusion")
"""The maps that there are, see `explain`."""

_PATCH = 1 / 6
"""Side of what occlusion covers at a time, as a part of the input's shorter side: about a quarter of a cell."""

_AT_ONCE = 64
"""Occluded images that a network sees at a time."""

_WHOLE_FRAME = 0.98
"""From this share of pixels that are not black on, an image has no black background to tell a cell from."""

FloatArray = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True, eq=False)
class Explanation:
    """Where the evidence for a class lies in one cell.

    Attributes:
        path: The file, or ``images[3]`` for an element of an array.
        label: The class that the network calls the cell.
        target: The class that is explained.
        probability: Of that class, by the average over the views, as `predict` gives it.
        method: One of `METHODS`.
        map: Float32 (height, width), at the network's input: 0 to 1, divided by its highest value; all 0 where nothing
            speaks for the class.
        image: uint8 (height, width, 3), what the network saw.
        share_inside: Part of the map that lies on the cell, 0 to 1; None where the map is all 0, or the image is not a
            cell on black.
        cell_share: Part of the image that the cell covers, 0 to 1: the share of a map that looks everywhere alike.
        error: Why there is no map, or None.
    """

    path: str
    label: str | None
    target: str | None
    probability: float | None
    method: str
    map: FloatArray
    image: RGBArray
    share_inside: float | None
    cell_share: float | None
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Flat dict: path, label, target, probability, method, share_inside, cell_share, error."""
        names = ("path", "label", "target", "probability", "method", "share_inside", "cell_share", "error")
        return {name: getattr(self, name) for name in names}


def explain(
    model: keras.Model | str | os.PathLike[str],
    images: Any,
    *,
    method: str = "grad_cam",
    target: str | None = None,
    views: int | None = None,
    batch_size: int = 8,
) -> list[Explanation]:
    """Show where in each cell a network finds the evidence for a class.

    Args:
        model: A network from `load_model` or `fine_tune`, of any number of classes, also one that holds other networks;
            or the name of one, a folder or ``hf://`` address.
        images: What `predict` takes: paths, folders, or whole frames (height, width, 3), RGB, 0 to 255.
        method: What the map is made of.

            * ``"grad_cam"``: the last feature maps, or those of all depths that the head reads, each channel weighted
              by how steeply the score rises with it (Selvaraju et al. 2017, doi 10.1109/ICCV.2017.74). Unlike there,
              channels count from their mean over the cell, and what is left of the score is spread evenly, so that
              the map before it is cut off at 0 adds up to the score.
            * ``"hires_cam"``: the same with the slope at each position instead of the channel's (Draelos and Carin
              2020, doi 10.48550/arXiv.2011.08891). It also sees the standard deviations that the head ``texture``
              reads, of which the mean slope is nothing.
            * ``"attention"``: the map of the last `AttentionBlock`, the same for every class.
            * ``"occlusion"``: how far the score falls where a patch of the cell is painted in the cell's mean colour;
              needs no slopes, but hundreds of passes a cell. Black around a cell stays as it is.

        target: The class to explain; None for the one that the network calls each cell.
        views: 1, 4 or 8 turned and mirrored views; None for those that the weight was calibrated for.
        batch_size: Cells computed at once.

    Returns:
        One `Explanation` an image, in order.

    Raises:
        ImageError: For a bad image.
        UnknownNameError: If there is no such method or class.
        ArchitectureError: If no such map can be made of the network.
        DataError: If the views cannot be made.

    Example:
        >>> import numpy as np, leukaemia_zoo as lz
        >>> frame = np.zeros((450, 450, 3), "uint8")
        >>> frame[150:300, 150:300] = (90, 40, 110)
        >>> found = lz.explain("cnn_attention", frame, views=1)[0]
        >>> found.map.shape, found.target in ("hem", "all"), 0 <= found.share_inside <= 1
        ((100, 100), True, True)
    """
    items, _ = image_items(images)
    return list(
        iter_explanations(
            model, items, method=method, target=target, views=views, batch_size=batch_size, raise_errors=True
        )
    )


def iter_explanations(
    model: keras.Model | str | os.PathLike[str],
    items: Iterable[Any],
    *,
    method: str = "grad_cam",
    target: str | None = None,
    views: int | None = None,
    batch_size: int = 8,
    raise_errors: bool = False,
) -> Iterator[Explanation]:
    """Explain one cell after the other, with the memory of one batch; see `explain`."""
    model = as_model(model)
    config = config_of(model)
    if method not in METHODS:
        raise UnknownNameError(f"There is no method '{method}'; {close_matches(method, METHODS)}")
    if target is not None and target not in config.class_names:
        raise UnknownNameError(
            f"The model '{model.name}' knows no class '{target}'; {close_matches(target, config.class_names)}"
        )
    if views is not None:
        height, width = config.preprocessing.input_size
        if views not in (1, 4, 8) or (views > 1 and height != width):
            raise DataError(f"views is {views!r}: give 1, 4 or 8, and 1 where the input is not square.")
        config = dataclasses.replace(config, views=views)
    # Before the first image is asked for, so that a mistake comes before any output.
    cam = depths_of(model) if method in ("hires_cam", "grad_cam") else None
    if method == "attention":
        attention_maps(model, np.zeros((0, *config.preprocessing.input_size, 3), np.float32))
    return _explanations(model, config, items, method, target, cam, batch_size, raise_errors)


def _explanations(
    model: keras.Model,
    config: ModelConfig,
    items: Iterable[Any],
    method: str,
    target: str | None,
    cam: Depths | None,
    batch_size: int,
    raise_errors: bool,
) -> Iterator[Explanation]:
    numbered = enumerate(items)
    while rows := list(itertools.islice(numbered, batch_size)):
        names = [os.fspath(item) if isinstance(item, str | os.PathLike) else f"images[{n}]" for n, item in rows]
        read: list[RGBArray | ImageError] = []
        for (_, item), name in zip(rows, names, strict=True):
            try:
                read.append(network_pixels(item, name, config.preprocessing))
            except ImageError as error:
                if raise_errors:
                    raise
                read.append(error)
        good = [pixels for pixels in read if not isinstance(pixels, ImageError)]
        found = iter(_of_batch(model, config, np.stack(good), method, target, cam) if good else [])
        for name, pixels in zip(names, read, strict=True):
            if isinstance(pixels, ImageError):
                nothing = np.zeros((0, 0), np.float32)
                yield Explanation(
                    name, None, None, None, method, nothing, np.zeros((0, 0, 3), np.uint8), None, None, str(pixels)
                )
            else:
                label, aim, probability, evidence = next(found)
                yield Explanation(name, label, aim, probability, method, evidence, pixels, *_shares(evidence, pixels))


def _of_batch(
    model: keras.Model, config: ModelConfig, batch: np.ndarray, method: str, target: str | None, cam: Depths | None
) -> list[tuple[str, str, float, FloatArray]]:
    """Label, explained class, its probability and the map of each image."""
    views = symmetric_views(batch.astype(np.float32), config.views)
    seen: list[list[np.ndarray]] = []
    if cam is None:
        probabilities = _probabilities(model, config, batch)
    else:
        seen = [cam.see(view) for view in views]
        outputs = [cam.classify(parts).astype(np.float64) for parts in seen]
        probabilities = averaged_views(
            model, config, [_softmax(out) for out in outputs] if cam.gives_logits else outputs
        )
    called = probabilities.argmax(axis=1)
    aims = called if target is None else np.full(len(batch), config.class_names.index(target))
    if cam is not None:
        maps = _upright_sum([_cam(cam, parts, aims, method, batch.shape[1:3]) for parts in seen])
    elif method == "attention":
        maps = _upright_sum([_stretched(attention_maps(model, view), batch.shape[1:3]) for view in views])
    else:
        maps = _occluded(model, config, batch, aims)
    maps = np.maximum(maps, 0)
    highest = maps.max(axis=(1, 2), keepdims=True)
    maps = np.divide(maps, highest, out=np.zeros_like(maps), where=highest > 0).astype(np.float32)
    return [
        (config.class_names[call], config.class_names[aim], float(row[aim]), one)
        for call, aim, row, one in zip(called, aims, probabilities, maps, strict=True)
    ]


def _softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities (batch, units) of logits; of one unit its sigmoid."""
    if logits.shape[1] == 1:
        return np.asarray(1 / (1 + np.exp(-logits)))
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


def _probabilities(model: keras.Model, config: ModelConfig, batch: np.ndarray) -> np.ndarray:
    """As `predict` has them, from the logits in float64 where there are any: a float32 near 1 has lost the rest."""
    logits = next((layer.output for layer in model.layers if layer.name == LOGITS_LAYER), None)
    if logits is None:
        return class_probabilities(model, config, batch)
    network = kept(model, "logits", logits)
    views = symmetric_views(batch.astype(np.float32), config.views)
    outputs = [np.asarray(network.predict_on_batch(view), np.float64) for view in views]
    return averaged_views(model, config, [_softmax(out) for out in outputs])


def _upright_sum(maps: list[np.ndarray]) -> np.ndarray:
    """Mean over the views of maps (N, height, width) each, turned back."""
    return np.asarray(upright_views(np.stack(maps)).mean(axis=0))


def _stretched(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Feature-map sized maps over the whole image, each position over as many pixels as it stands for."""
    down, across = (
        enlarging(side, positions, _whole_stride(side, positions))
        for side, positions in zip(size, maps.shape[1:], strict=True)
    )
    return np.asarray(down @ maps @ across.T)


def _whole_stride(side: int, positions: int) -> float:
    """The power of two by which a side was halved; layers that pad leave the last position a part of it."""
    return float(2 ** round(np.log2(side / positions)))


# ---------------------------------------------------------------------------------------------------------------------
# By slopes


def lead(output: Any, aims: np.ndarray, of_logits: bool) -> Any:
    """How far the logit of one class a row lies above the mean of all, (batch,): of two, half the log odds."""
    if output.shape[-1] == 1:
        output = ops.concatenate([0 * output if of_logits else 1 - output, output], axis=-1)
    logits = output if of_logits else ops.log(output + 1e-12)
    chosen = ops.convert_to_tensor(np.eye(logits.shape[-1], dtype="float32")[aims])
    return ops.sum(logits * chosen, axis=-1) - ops.mean(logits, axis=-1)


def evidence(depths: Depths, parts: list[np.ndarray], aims: np.ndarray, method: str) -> list[np.ndarray]:
    """What speaks for a class, and below 0 against it, at each position of each depth; all adds up to the lead.

    Numbers count by how far they are from the mean of their channel over what the classifier reads: a head ``texture``
    compares its channels with the training cells, so that their level says nothing of itself. What is left of the lead
    is spread evenly over the same positions.
    """
    score = functools.partial(lead, aims=aims, of_logits=depths.gives_logits)
    slopes = gradients(lambda tensors: depths.classifier(tensors, training=False), parts, score)
    found, weights = [], []
    for number, mask in enumerate(depths.masks):
        features, slope = parts[number].astype(np.float64), slopes[number].astype(np.float64)
        weight = np.ones((*features.shape[:3], 1)) if mask is None else np.maximum(parts[mask] - MASK_FLOOR, 0.0)
        weight = weight / np.maximum(weight.sum(axis=(1, 2), keepdims=True), 1e-9)
        if method == "grad_cam":
            slope = slope.sum(axis=(1, 2), keepdims=True) * weight
        centred = features - (features * weight).sum(axis=(1, 2), keepdims=True)
        found.append((slope * centred).sum(axis=-1))
        weights.append(weight[..., 0])
    whole = ops.convert_to_numpy(score(ops.convert_to_tensor(depths.classify(parts)))).astype(np.float64)
    left = whole - sum(one.sum(axis=(1, 2)) for one in found)
    # A cell may be too small for the mask of a coarse depth.
    total = sum(weight.sum(axis=(1, 2)) for weight in weights)
    share = np.divide(left, total, out=np.zeros_like(left), where=total > 0.5)[:, None, None]
    return [one + share * weight for one, weight in zip(found, weights, strict=True)]


def _cam(depths: Depths, parts: list[np.ndarray], aims: np.ndarray, method: str, size: tuple[int, int]) -> np.ndarray:
    """The evidence of all depths on the pixels of the image, (batch, height, width)."""
    whole = np.zeros((len(aims), *size))
    for one, strides in zip(evidence(depths, parts, aims, method), depths.strides, strict=True):
        down, across = (
            enlarging(side, positions, stride)
            for side, positions, stride in zip(size, one.shape[1:], strides, strict=True)
        )
        # A position of a coarse depth is spread over as many pixels as it stands for.
        whole += down @ one @ across.T / np.prod(strides)
    return whole


# ---------------------------------------------------------------------------------------------------------------------
# By occlusion


def _occluded(model: keras.Model, config: ModelConfig, batch: np.ndarray, aims: np.ndarray) -> np.ndarray:
    """How far the lead falls with each patch covered, averaged over the patches that cover a pixel."""
    plain = _leads(_probabilities(model, config, batch), aims)
    found = []
    for pixels, aim, whole in zip(batch, aims, plain, strict=True):

        def score(images: np.ndarray, aim: int = aim) -> np.ndarray:
            return _leads(_probabilities(model, config, images), np.full(len(images), aim))

        found.append(_falls(score, pixels, whole))
    return np.stack(found)


def _leads(probabilities: np.ndarray, aims: np.ndarray) -> np.ndarray:
    logs = np.log(np.maximum(probabilities, 1e-30))
    return np.asarray(logs[np.arange(len(aims)), aims] - logs.mean(axis=1))


def _falls(score: Callable[[np.ndarray], np.ndarray], pixels: RGBArray, whole: float) -> np.ndarray:
    cell = brightest(pixels) > BLACK
    colour = pixels[cell].mean(axis=0)
    side = max(2, round(_PATCH * min(cell.shape)))
    starts = [range(-side // 2, length, side // 2) for length in cell.shape]
    windows = [(slice(max(0, y), y + side), slice(max(0, x), x + side)) for y, x in itertools.product(*starts)]
    windows = [window for window in windows if cell[window].any()]
    total, times = np.zeros(cell.shape), np.zeros(cell.shape)
    for start in range(0, len(windows), _AT_ONCE):
        some = windows[start : start + _AT_ONCE]
        # Always as many images: a backend compiles each number of them anew.
        covered = np.repeat(pixels[None], _AT_ONCE, axis=0)
        for image, window in zip(covered, some, strict=False):
            image[window][cell[window]] = colour
        for window, fall in zip(some, whole - score(covered), strict=False):
            total[window] += fall
            times[window] += 1
    return np.where(cell, total / np.maximum(times, 1), 0.0)


# ---------------------------------------------------------------------------------------------------------------------


def _shares(evidence_map: FloatArray, pixels: RGBArray) -> tuple[float | None, float | None]:
    """Parts of the map and of the image that lie on the cell."""
    cell = brightest(pixels) > BLACK
    if cell.mean() > _WHOLE_FRAME:
        return None, None
    whole = float(evidence_map.sum())
    return (float(evidence_map[cell].sum()) / whole if whole > 0 else None), float(cell.mean())
