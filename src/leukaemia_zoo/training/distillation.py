"""Features that were not learnt on the patients: a small network imitates an ImageNet network, without labels.

A network of a few ten thousand weights, trained on the cells of some dozens of patients, learns the patients. Here it
first learns to see: at three depths its feature maps, through a linear projection, must equal those of MobileNet on the
same random views of cells (position by position, so that every image teaches at hundreds of places). Labels and
patients play no part, and normal blood cells of any collection serve.
"""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from leukaemia_zoo._names import renamed
from leukaemia_zoo.cells.images import find_images, read_image
from leukaemia_zoo.cells.preprocessing import Preprocessing
from leukaemia_zoo.common.hardware import compiles_steps, precision
from leukaemia_zoo.common.reading import read_arrays
from leukaemia_zoo.common.run_folder import RunFolder
from leukaemia_zoo.common.text import Log, silent
from leukaemia_zoo.errors import DataError, WeightsError
from leukaemia_zoo.training.recipes import DistillationRecipe, Recipe
from leukaemia_zoo.training.runs import RunState, TimeLeft, optimiser, reseed
from leukaemia_zoo.zoo import sources
from leukaemia_zoo.zoo.architectures import build_model
from leukaemia_zoo.zoo.augmentation import CellAugmentation, turned
from leukaemia_zoo.zoo.layers import CellMask, fuse_normalisation, without_random_weights
from leukaemia_zoo.zoo.tensors import load_tensors, named_variables, read_config

_NOISE = 4.0
"""Standard deviation, in grey levels, of the noise that `DistillationRecipe.restain` adds."""

TEACHER_SOURCE = (
    "MobileNet 1.0 (Howard et al. 2017, doi 10.48550/arXiv.1704.04861), ImageNet, keras.applications, Apache-2.0"
)


def load_teacher(weights: str | Path, input_size: tuple[int, int], layer_names: list[str]) -> keras.Model:
    """MobileNet 1.0 up to the layers whose feature maps are imitated.

    Args:
        weights: ``"imagenet"`` to download Keras' own weights; an ``.npz`` file with one array a weight, named
            ``layer/variable`` as in ``keras.applications.MobileNet`` (layers that are not needed may be missing); or
            the name in the zoo or the folder of a ``mobilenet`` of this package.
        input_size: Height and width.
        layer_names: Layers of MobileNet.

    Returns:
        A frozen model from RGB images of 0 to 255 to the list of feature maps.

    Raises:
        WeightsError: If the weights cannot be had or do not fit.
    """
    if is_of_this_package(weights):
        return _own_teacher(weights, input_size, layer_names)
    source = "imagenet" if str(weights) == "imagenet" else None
    with precision("float32"), without_random_weights():  # in bfloat16 its features would be off by some percent
        inputs = keras.Input((*input_size, 3))
        scaled = layers.Rescaling(1 / 127.5, offset=-1.0)(inputs)
        try:
            network = keras.applications.MobileNet(include_top=False, weights=source, input_tensor=scaled)
        except Exception as error:
            raise WeightsError(
                f"Keras could not fetch MobileNet's ImageNet weights ({error}); give them as a file with --teacher, "
                "take --teacher mobilenet.pbc for a small network, or train without a teacher with --teacher none."
            ) from None
    teacher = keras.Model(inputs, [network.get_layer(name).output for name in layer_names], name="teacher")
    if source is None:
        assign_arrays(teacher, Path(weights), "The teacher's weights")
    teacher.trainable = False
    return teacher


def is_of_this_package(weights: str | Path) -> bool:
    """Whether a teacher is a weight of the zoo or a saved model, and not ImageNet's weights of MobileNet."""
    return sources.is_in_zoo(str(weights)) or (Path(weights) / sources.CONFIG_FILE).is_file()


def _own_teacher(weights: str | Path, input_size: tuple[int, int], layer_names: list[str]) -> keras.Model:
    found = sources.find(str(weights))
    config = found.spec.config
    if config.architecture != "mobilenet":
        raise WeightsError(
            f"The teacher {weights} is a '{config.architecture}': features are learnt from a 'mobilenet' alone."
        )
    with precision("float32"), without_random_weights():
        network = build_model("mobilenet", input_size=input_size, head=config.head)
    known = {layer.name for layer in network.layers}
    if missing := [name for name in layer_names if name not in known]:
        raise WeightsError(f"The teacher {weights} has no layers {', '.join(missing)}, which the recipe's pairs name.")
    load_tensors(network, found.file, without_head=True)
    teacher = keras.Model(network.inputs[0], [network.get_layer(name).output for name in layer_names], name="teacher")
    teacher.trainable = False
    return teacher


def assign_arrays(model: keras.Model, file: Path, what: str, own_layers: tuple[str, ...] = ()) -> None:
    """Copy the arrays of an ``.npz`` file, named ``layer/variable``, into a network, but for its `own_layers`."""
    try:
        # Older releases of Keras call the kernel of a depthwise convolution by its full name.
        found = {name.replace("/depthwise_kernel", "/kernel"): array for name, array in read_arrays(file).items()}
    except (OSError, ValueError) as error:
        raise WeightsError(f"{what} {file} cannot be read as an .npz file ({error}).") from None
    for name, variable in named_variables(model).items():
        if own_layers and name.startswith(own_layers):
            continue
        key = name.replace("/depthwise_kernel", "/kernel")
        if key not in found or found[key].shape != tuple(variable.shape):
            raise WeightsError(f"{what} {file} lack '{key}' of the shape {tuple(variable.shape)}.")
        variable.assign(found[key].astype(np.float32))


@renamed(report="log")
def distil(
    student: keras.Model,
    images: np.ndarray,
    recipe: DistillationRecipe,
    teacher_weights: str | Path,
    *,
    seed: int = 0,
    state: RunFolder | None = None,
    log: Log | None = None,
    keep_first_filters: bool = False,
) -> list[dict[str, float]]:
    """Train the trunk of a network to give the feature maps of an ImageNet network; labels are not used.

    Args:
        student: A network from `build_model`; its trunk is changed in place, its last layer is not.
        images: Uint8 array (N, height, width, 3) at the student's input size.
        recipe: What is imitated, how long, on which views.
        teacher_weights: See `load_teacher`.
        seed: Seed of the views and of the order.
        state: Where to keep every epoch, so that an interrupted distillation goes on; None keeps nothing.
        log: Called with a line an epoch, such as ``print``; None for none.
        keep_first_filters: Leave the student's first convolution as it is, instead of giving it the teacher's filters
            where it has their shape.

    Returns:
        For each epoch a loss a pair of layers: the share of the variance of the teacher's features inside the cell that
        the student does not explain.

    Raises:
        DataError: If the student lacks a layer of the recipe's pairs.
        WeightsError: If the teacher's weights cannot be had.
    """
    teacher = teacher_for(student, recipe, teacher_weights)
    height, width = student.input_shape[1:3]
    names = _taught_layers(recipe)
    if recipe.restain:
        _begin_as(teacher, student, keep_first_filters)
    elif not keep_first_filters:
        _take_first_filters(student, teacher)
    fuse_normalisation(student)
    inputs = keras.Input((height, width, 3))
    augmentation = CellAugmentation(
        zoom=recipe.zoom, shift=recipe.shift, colour=recipe.colour, cut_out=recipe.cut_out, seed=seed
    )
    # The views are made here and not in the model's own graph, because teacher and student must see the same ones.
    views = augmentation(inputs, training=True)
    if recipe.turned_teacher:
        coins = _Coins(seed=seed + 2)(views, training=True)
        chosen = [coins[..., number : number + 1] > 0.5 for number in range(3)]
        maps = [turned(target, chosen, back=True) for target in _as_list(teacher(turned(views, chosen)))]
    else:
        maps = _as_list(teacher(views, training=False))
    targets = dict(zip(names, maps, strict=True))
    student_layers = list(dict.fromkeys(layer for layer, _ in recipe.pairs))
    trunk = keras.Model(student.inputs[0], [student.get_layer(name).output for name in student_layers], name="trunk")
    shown = _Restained(recipe.restain, seed=seed + 1)(views, training=True) if recipe.restain else views
    features = dict(zip(student_layers, _as_list(trunk(shown)), strict=True))
    mask = CellMask()(views)
    losses = {
        f"{own}-{other}": _difference(features[own], targets[other], mask)
        if recipe.restain
        else _imitation_loss(features[own], targets[other], mask, f"{own}-{other}")
        for own, other in recipe.pairs
    }
    model = keras.Model(inputs, losses)
    steps = recipe.steps_per_epoch
    model.compile(
        optimiser(recipe.learning_rate, recipe.epochs, steps, recipe.weight_decay, first=20, last=0.01),
        loss=dict.fromkeys(losses, _own_loss),
        jit_compile=compiles_steps(),
    )
    history = _resumed(model, state)
    left = TimeLeft(len(history))
    for epoch in range(len(history), recipe.epochs):
        reseed(model, seed, epoch)
        batches = _Unlabelled(images, list(losses), recipe.batch_size, steps, seed, epoch)
        result = model.fit(batches, shuffle=False, verbose=0).history
        # The loss of an only output bears no name.
        history.append({name: float(result.get(f"{name}_loss", result["loss"])[-1]) for name in losses})
        values = ", ".join(f"{name} {value:.3f}" for name, value in history[-1].items())
        if state is not None:
            _keep(model, state, history)
        of_all = f"{epoch + 1}/{recipe.epochs}"
        (log or silent)(f"distillation {of_all}: not explained {values}{left.told(epoch + 1, recipe.epochs)}")
    return history


def teacher_for(student: keras.Model, recipe: DistillationRecipe, weights: str | Path) -> keras.Model:
    """The teacher of a network, if the two and the recipe fit each other."""
    missing = sorted({own for own, _ in recipe.pairs} - {layer.name for layer in student.layers})
    if missing:
        raise DataError(
            f"The network '{student.name}' has no layers {', '.join(missing)}, which the distillation's pairs name: "
            "use the head that the recipe was made for, or leave out the distillation."
        )
    unequal = [f"{own} and {other}" for own, other in recipe.pairs if own != other]
    if recipe.restain and unequal:
        raise DataError(
            f"A distillation that restains imitates each layer by itself, but its pairs name {', '.join(unequal)}: "
            "set restain to 0, or take a network with the teacher's layers."
        )
    return load_teacher(weights, student.input_shape[1:3], _taught_layers(recipe))


def _taught_layers(recipe: DistillationRecipe) -> list[str]:
    return list(dict.fromkeys(teacher_layer for _, teacher_layer in recipe.pairs))


def _keep(model: keras.Model, state: RunFolder, history: list[dict[str, float]]) -> None:
    """Weights first, then the history that says they are there; one epoch is at most done twice."""
    state.save_weights(f"distillation_{len(history)}.weights.h5", model)
    state.save_json("distillation.json", history)
    state.discard(f"distillation_{len(history) - 1}.weights.h5")


def _resumed(model: keras.Model, state: RunFolder | None) -> list[dict[str, float]]:
    """Load the last epoch that was kept; returns its history."""
    history: list[dict[str, float]] | None = None if state is None else state.load_json("distillation.json")
    if state is None or history is None:
        return []
    model.optimizer.build(model.trainable_variables)
    model.load_weights(state.folder / f"distillation_{len(history)}.weights.h5")
    return history


def _as_list(outputs: Any) -> list[Any]:
    return list(outputs) if isinstance(outputs, list | tuple) else [outputs]


def _own_loss(_: Any, output: Any) -> Any:
    """The output is the loss of each image already; Keras takes the mean, also where devices share the images."""
    return output


def _imitation_loss(features: Any, target: Any, mask: Any, name: str) -> Any:
    """Squared error of the projected features against the standardised target, averaged over the cell: (batch,)."""
    stride = round(features.shape[1] / target.shape[1])
    if stride > 1:
        features = layers.AveragePooling2D(stride, padding="same")(features)
    # Cut to the common size from the top left: the centres of two positions then differ by less than half a stride,
    # with padding (one position more than the teacher) as without (fewer). A network that loses three positions or more
    # for want of padding (Inception v3) loses them on both sides. The rest of the shift is left to the 3 x 3 part of
    # the projection, which is linear throughout.
    side = features.shape[1:3]
    height, width = (min(own, other) for own, other in zip(side, target.shape[1:3], strict=True))
    top, left = (max(0, whole - own - 1) // 2 for whole, own in zip(target.shape[1:3], side, strict=True))
    features, target = features[:, :height, :width], target[:, top : top + height, left : left + width]
    projected = layers.SeparableConv2D(target.shape[-1], 3, padding="same", name=f"project_{name}")(features)
    standardised = layers.BatchNormalization(
        center=False, scale=False, momentum=0.95, dtype="float32", name=f"standardise_{name}"
    )(target)
    weight = ops.image.resize(mask, side, interpolation="bilinear", antialias=True, data_format="channels_last")[
        :, :height, :width
    ]
    error = ops.mean(ops.square(ops.cast(projected, "float32") - standardised), axis=-1, keepdims=True)
    return ops.sum(error * weight, axis=(1, 2, 3)) / (ops.sum(weight, axis=(1, 2, 3)) + 1e-3)


class _Coins(CellAugmentation):
    """Three throws of a coin for each view, 0 or 1, (batch, 1, 1, 3): see `turned`."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed=seed)

    def call(self, images: Any, training: bool | None = None) -> Any:
        return ops.cast(self._uniform((ops.shape(images)[0], 1, 1, 3), 0.0, 1.0) < 0.5, "float32")

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (input_shape[0], 1, 1, 3)


class _Restained(CellAugmentation):
    """Another stain and the noise of another camera on the same view."""

    def __init__(self, strength: float, seed: int) -> None:
        super().__init__(zoom=0.0, shift=0.0, colour=strength, seed=seed)

    def call(self, images: Any, training: bool | None = None) -> Any:
        changed = self._stain(images, None)
        cell = ops.cast(ops.max(changed, axis=-1, keepdims=True) > 0, "float32")
        return ops.clip(changed + cell * self._normal(tuple(ops.shape(changed)), _NOISE), 0.0, 255.0)


def _difference(features: Any, target: Any, mask: Any) -> Any:
    """Squared difference from the features of the same layer of the teacher, as a share of their variance: (batch,)."""
    target = ops.cast(target, "float32")
    variance = ops.var(target, axis=(0, 1, 2), keepdims=True) + 1e-3
    weight = ops.image.resize(
        mask, target.shape[1:3], interpolation="bilinear", antialias=True, data_format="channels_last"
    )
    error = ops.mean(ops.square(ops.cast(features, "float32") - target) / variance, axis=-1, keepdims=True)
    return ops.sum(error * weight, axis=(1, 2, 3)) / (ops.sum(weight, axis=(1, 2, 3)) + 1e-3)


def _begin_as(teacher: keras.Model, student: keras.Model, keep: bool) -> None:
    """Give the layers of the student the teacher's weights, and let its batch normalisation stay as it is."""
    own = {layer.name: layer for layer in student.layers}
    for layer in teacher.layers:
        if isinstance(layer, layers.BatchNormalization):
            own[layer.name].trainable = False
        if layer.weights and not keep:
            own[layer.name].set_weights([np.asarray(ops.convert_to_numpy(value)) for value in layer.weights])


def _take_first_filters(student: keras.Model, teacher: keras.Model) -> None:
    """Begin with the teacher's first filters, BatchNorm folded in, if the student's first convolution has their shape.

    The teacher sees pixels from -1 to 1, the student as its own Rescaling says: x_teacher = gain x_student + shift.
    """
    own = next(layer for layer in student.layers if isinstance(layer, layers.Conv2D))
    filters, norm = teacher.get_layer("conv1"), teacher.get_layer("conv1_bn")
    if tuple(own.kernel.shape) != tuple(filters.kernel.shape) or own.bias is None:
        return
    scale = next(layer for layer in student.layers if isinstance(layer, layers.Rescaling))
    gain = 1 / (127.5 * scale.scale)
    shift = -scale.offset * gain - 1
    factor = np.asarray(norm.gamma) / np.sqrt(np.asarray(norm.moving_variance) + norm.epsilon)
    kernel = np.asarray(filters.kernel) * factor
    bias = np.asarray(norm.beta) - np.asarray(norm.moving_mean) * factor + shift * kernel.sum(axis=(0, 1, 2))
    own.set_weights([gain * kernel, bias])


class _Unlabelled(keras.utils.PyDataset):
    """Random batches of images; the same for the same seed and epoch."""

    def __init__(
        self, images: np.ndarray, outputs: list[str], batch_size: int, steps: int, seed: int, epoch: int
    ) -> None:
        super().__init__()
        rng = np.random.default_rng([seed, epoch])
        self._images = images
        self._rows = rng.integers(len(images), size=(steps, batch_size))
        self._nothing = {name: np.zeros(batch_size, np.float32) for name in outputs}

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        return self._images[self._rows[index]], self._nothing


def unlabelled_images(folder: str | Path) -> list[Path]:
    """The image files in the folder that the distillation is to see."""
    paths, _ = find_images([folder])
    if not paths:
        raise DataError(
            f"There are no images for the distillation in {folder}: name another folder (--unlabelled), or leave it "
            "out to take the training cells without their labels."
        )
    return paths


def read_unlabelled(paths: list[Path], recipe: Recipe) -> np.ndarray:
    """Uint8 (N, height, width, 3): the views of these images that the distillation sees."""
    assert recipe.distillation is not None
    preprocessing = Preprocessing(
        (recipe.input_size, recipe.input_size), crop_fraction=recipe.distillation.crop_fraction, reference_frame=None
    )
    with ThreadPoolExecutor() as pool:
        return np.stack(list(pool.map(lambda path: preprocessing(read_image(path)), paths)))


def forget_trunk(file: Path, state: RunState) -> None:
    """Remove the trunk that this very run has left before, so that it is made anew; another file is not ours."""
    with contextlib.suppress(WeightsError):
        if ((read_config(file) or {}).get("distillation") or {}).get("run") == state.fingerprint:
            file.unlink()
