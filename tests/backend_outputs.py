"""Outputs of the networks and layers on one backend, for `test_backends` to compare: run in a process of its own.

    KERAS_BACKEND=jax python backend_outputs.py OUT.npz WORK_FOLDER small|large|shipped|nested|steps|save|load...

The weights come from a NumPy generator per stable tensor name, so that every backend gets the same ones.
"""

import sys
import zlib
from pathlib import Path

import numpy as np

# The least input of each published network, with a few pixels more, so that nothing is one pixel small throughout.
SMALL = ("cnn", "cnn_attention")
LARGE = {"vgg16": 48, "resnet50": 64, "inception_v3": 96, "xception": 80, "mobilenet": 48, "efficientnet_lite0": 48}

# By how much a convolution widens its input: what keeps the activations of each published network at order 1.
GAINS = {"resnet50": 0.8, "inception_v3": 1.5, "xception": 0.95, "mobilenet": 1.8, "efficientnet_lite0": 1.4}


def set_fixed_weights(model):
    """Give a network weights that depend on nothing but the names and shapes of its tensors; returns the network.

    Their scale keeps activations of order 1 through all depths, so that a softmax over them is not saturated and a
    difference anywhere shows at the end.
    """
    from leukaemia_zoo.zoo.tensors import named_variables

    for name, variable in named_variables(model).items():
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        layer, kind = name.split("/")
        shape = tuple(variable.shape)
        if kind in ("gamma", "moving_variance"):
            value = rng.uniform(0.7, 1.3, shape)
        elif len(shape) == 1:
            value = rng.normal(0, 0.1, shape)
        else:
            # Each filter of a depthwise convolution sees one channel, whatever its kernel is called.
            depthwise = kind == "depthwise_kernel" or (len(shape) == 4 and shape[-1] == 1)
            fan_in = np.prod(shape[:2]) if depthwise else np.prod(shape[:-1])
            gain = 1.0 if layer == "logits" else GAINS.get(model.name, 1.4)
            if layer in ("block1_conv1", "conv1_conv") and model.name in ("vgg16", "resnet50"):
                gain /= 64  # these see pixels and not numbers of order 1
            value = rng.normal(0, gain / np.sqrt(fan_in), shape)
        variable.assign(value.astype("float32"))
    return model


def cells(count, size, seed=0):
    """Frames (count, size, size, 3) float32, 0 to 255: textured discs of several sizes and colours on black."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    frames = np.zeros((count, size, size, 3), np.float32)
    for frame in frames:
        inside = np.hypot(y - rng.uniform(0.45, 0.55), x - rng.uniform(0.45, 0.55)) < rng.uniform(0.25, 0.4)
        texture = rng.normal(0, 20, (size, size, 1)) + rng.uniform(40, 200, 3)
        frame[inside] = np.clip(np.rint(texture), 10, 255)[inside]
    return frames


LAYERS = ("probabilities", "logits", "embedding")


def outputs_of(model, images):
    """Probabilities, logits and embeddings, float32 NumPy arrays."""
    from keras import Model

    values = Model(model.inputs, [model.get_layer(name).output for name in LAYERS]).predict_on_batch(images)
    return {f"{model.name}/{name}": np.asarray(value) for name, value in zip(LAYERS, values, strict=True)}


def outputs_in_parts(model, images):
    """The same from the two parts in which a network is explained, two images at a time.

    The first, which is nearly all of it, is then compiled once for its outputs and its maps.
    """
    from keras import Model

    from leukaemia_zoo.explanation.depths import depths_of

    depths = depths_of(model)
    head = Model(depths.features.outputs, [model.get_layer(name).output for name in LAYERS])
    found = []
    for start in range(0, len(images), 2):
        parts = depths.see(images[start : start + 2])
        found.append(head.predict_on_batch(parts if len(parts) > 1 else parts[0]))
    values = [np.concatenate([np.asarray(value) for value in values]) for values in zip(*found, strict=True)]
    return {f"{model.name}/{name}": value for name, value in zip(LAYERS, values, strict=True)}


def small():
    """The project's own layers, and the two small networks with both heads at their published input."""
    from keras import ops

    from leukaemia_zoo import AttentionBlock
    from leukaemia_zoo.prediction.attention import attention_maps
    from leukaemia_zoo.zoo import build_model
    from leukaemia_zoo.zoo.layers import CellMask, CellStatistics, without_random_weights

    found = {}
    rng = np.random.default_rng(1)
    features = rng.normal(0, 2, (3, 13, 13, 32)).astype("float32")
    block = AttentionBlock(return_attention=True)
    block.build(features.shape)
    block.set_weights([rng.normal(0, 0.5, (32, 1)), np.array([0.3])])
    gated, attention = block(features)
    found["layers/gated"], found["layers/attention"] = map(ops.convert_to_numpy, (gated, attention))
    images = cells(3, 13)
    mask = CellMask()(images)
    found["layers/mask"] = ops.convert_to_numpy(mask)
    found["layers/statistics"] = ops.convert_to_numpy(CellStatistics()(features, mask))

    for name in SMALL:
        for head in ("flatten", "texture"):
            with without_random_weights():
                model = build_model(name, head=head)
            set_fixed_weights(model)
            images = cells(3, model.input_shape[1])
            found |= {f"{head}:{key}": value for key, value in outputs_of(model, images).items()}
            if name == "cnn_attention":
                found[f"{head}:attention_maps"] = attention_maps(model, images)
    return found


def large():
    """The published networks at a reduced input, and the names of their tensors in this fresh process."""
    from keras import backend

    from leukaemia_zoo.zoo import build_model
    from leukaemia_zoo.zoo.layers import without_random_weights
    from leukaemia_zoo.zoo.tensors import named_variables

    found = {}
    for name, size in LARGE.items():
        with without_random_weights():
            model = build_model(name, num_classes=3, input_size=size)
        set_fixed_weights(model)
        found[f"names:{name}"] = np.array(list(named_variables(model)))
        found |= outputs_in_parts(model, cells(2, size))
        model.zoo = config_for(name, size, ("a", "b", "c"))
        found |= maps_of(name, model, cells(2, size), ("grad_cam", "hires_cam"))
        del model
        backend.clear_session()
    return found


def shipped():
    """Every weight that travels in the package, with its maps by every method."""
    from leukaemia_zoo import load_model
    from leukaemia_zoo.prediction import ood_scores
    from leukaemia_zoo.zoo.registry import packaged_file, weights

    found = {}
    for name in [spec.name for spec in weights().values() if packaged_file(spec).is_file()]:
        model = load_model(name)
        for key, value in outputs_in_parts(model, cells(4, model.input_shape[1])).items():
            found[f"{name}:{key}"] = value
        found[f"ood:{name}"] = ood_scores(model, cells(4, 64))
        found |= maps_of(name, model, cells(2, 150), ("grad_cam", "hires_cam"))
        if name == "cnn_attention.cnmc":
            found |= maps_of(name, model, cells(2, 150), ("attention",))
            # What is covered speaks for `all` here: of `hem` there would be an empty map, which is equal to any other.
            found |= maps_of(name, model, cells(2, 150), ("occlusion",), "all")
    return found


def config_for(name, size, class_names, head="pooled"):
    """What a network without a weight needs to be explained: the whole frame as it is."""
    from leukaemia_zoo import Preprocessing
    from leukaemia_zoo.zoo import ModelConfig

    return ModelConfig(name, class_names, head, Preprocessing((size, size), crop_fraction=1.0, reference_frame=None))


def maps_of(name, model, frames, methods, target=None):
    """Maps of evidence of one view, float32."""
    from leukaemia_zoo import explain

    found = {}
    for method in methods:
        maps = [one.map for one in explain(model, frames, method=method, target=target, views=1)]
        found[f"maps:{name}:{method}"] = np.stack(maps)
    return found


def nested():
    """Maps of a network with networks in it."""
    import keras

    from leukaemia_zoo import load_model
    from leukaemia_zoo.zoo import register_architecture

    def build(images):
        trunk = keras.Sequential(
            [
                keras.Input((32, 32, 3)),
                keras.layers.Rescaling(1 / 255),
                keras.layers.Conv2D(8, 3, activation="relu", name="first"),
                keras.layers.Conv2D(8, 3, strides=2, activation="relu", name="second"),
                keras.layers.GlobalAveragePooling2D(),
            ],
            name="trunk",
        )
        return trunk(images)

    register_architecture("nested", build, input_size=32)
    model = load_model("nested", weights=None, num_classes=3)
    for number, weight in enumerate(model.weights):
        weight.assign(np.random.default_rng(number).normal(0, 0.3, weight.shape))
    return maps_of("nested", model, cells(2, 48), ("grad_cam", "hires_cam", "occlusion"))


NORMS = ({}, {"scale": False}, {"center": False, "epsilon": 1e-2}, {"momentum": 0.5}, {"dtype": "mixed_bfloat16"})
"""Options of the BatchNorm layers that `steps` trains."""


def steps():
    """What two training steps make of a little network, with Keras' BatchNorm and with the one that is fused."""
    import keras

    from leukaemia_zoo.zoo.layers import fuse_normalisation

    images, targets = cells(6, 12), np.eye(2, dtype=np.float32)[[0, 1, 0, 1, 1, 0]]
    found = {}
    for number, options in enumerate(NORMS):
        for kind in ("plain", "fused"):
            norms = [keras.layers.BatchNormalization(**options) for _ in range(2)]
            layers = [keras.layers.Rescaling(1 / 255), keras.layers.Conv2D(5, 3), norms[0], keras.layers.ReLU()]
            layers += [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(4), norms[1], keras.layers.Dense(2)]
            x = inputs = keras.Input((12, 12, 3))
            for layer in layers:
                x = layer(x)
            model = keras.Model(inputs, x)
            for place, weight in enumerate(model.trainable_weights):
                weight.assign(np.random.default_rng(place).normal(0.5, 0.5, weight.shape))
            if kind == "fused":
                fuse_normalisation(model)
            model.compile(keras.optimizers.SGD(0.05), keras.losses.CategoricalCrossentropy(from_logits=True))
            losses = [model.train_on_batch(images, targets) for _ in range(2)]
            found[f"step:{kind}:{number}:loss"] = np.array(losses, np.float32).ravel()
            for place, weight in enumerate(model.weights):
                found[f"step:{kind}:{number}:{place}"] = np.asarray(keras.ops.convert_to_numpy(weight.value))
    return found


def save(folder):
    """Save a network with fixed weights, for the other backends to load."""
    from leukaemia_zoo import load_model, save_model

    save_model(set_fixed_weights(load_model("cnn_attention", weights=None)), folder)


def load(folder):
    """Outputs of the network that `save` left in a folder."""
    from leukaemia_zoo import load_model

    return {f"loaded:{key}": value for key, value in outputs_of(load_model(folder), cells(3, 100)).items()}


def main():
    """Write what was asked for to an npz file."""
    import keras

    out, work, *parts = sys.argv[1:]
    found = {"backend": np.array(keras.backend.backend())}
    for part in parts:
        if part == "save":
            save(Path(work) / keras.backend.backend())
        elif part == "load":
            found |= load(Path(work) / "here")
        else:
            found |= {"small": small, "large": large, "shipped": shipped, "nested": nested, "steps": steps}[part]()
    np.savez(out, **found)


if __name__ == "__main__":
    main()
