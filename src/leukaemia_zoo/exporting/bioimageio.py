"""A network as a package of bioimage.io: its graph, tensors to test it with, and what has to be known of it.

The format is kept by the package ``bioimageio.spec``, which also checks what is written.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from bioimageio.spec import ValidationContext, save_bioimageio_package
from bioimageio.spec.generic.v0_3 import LicenseId
from bioimageio.spec.model import v0_5
from PIL import Image

from leukaemia_zoo._version import __version__
from leukaemia_zoo.common.markdown import plain
from leukaemia_zoo.common.text import NOT_A_DIAGNOSIS, reason
from leukaemia_zoo.engine.names import ATTENTION, EMBEDDINGS, IMAGES, OPSET, PROBABILITIES, SCORES
from leukaemia_zoo.errors import EngineError
from leukaemia_zoo.zoo.cards import TITLES, model_card
from leukaemia_zoo.zoo.registry import ARCHITECTURES, WeightSpec

GRAPH_FILE = "model.onnx"
"""Name of the graph in a package."""

_DEVELOPERS = "The leukaemia-zoo developers"
_DOI = re.compile(r"\b10\.\d{4,9}/[\w.()/:;-]*\w", re.ASCII)
_ROLES = {"cross_validation": "test", "validation": "validation", "test": "test"}
"""Measurements of a weight that can be told as an evaluation, and whether their cells took part in the training."""

_TOLERANCE = 1e-3
"""Relative and absolute: engines add up in another order."""


def write_package(graph: Path, cells: np.ndarray, spec: WeightSpec, file: Path) -> None:
    """Write a package of an ONNX file, with cells for its test tensors, and let ``bioimageio.spec`` check it."""
    try:
        with ValidationContext(perform_io_checks=False, log_warnings=False):
            save_bioimageio_package(_description(graph, cells, spec, file.parent), output_path=file)
    except ValueError as error:  # which its errors of validation are, too
        raise EngineError(
            f"No package of bioimage.io can be made of '{spec.name}' ({reason(error)}): export it to onnx, and tell us."
        ) from None


def _description(graph: Path, cells: np.ndarray, spec: WeightSpec, folder: Path) -> v0_5.ModelDescr:
    images = cells.astype(np.float32)
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    tensors = {IMAGES: images, **dict(zip(names, session.run(names, {IMAGES: images}), strict=True))}
    for name, tensor in tensors.items():
        np.save(folder / f"{name}.npy", tensor)
    Image.fromarray(np.concatenate([cells[0], cells[1]], axis=1)).save(folder / "cover.png")
    (folder / "README.md").write_text(_documentation(spec), encoding="utf-8")
    authors = [v0_5.Author(name=_DEVELOPERS)]
    return v0_5.ModelDescr(
        name=re.sub(r"[^\w+\- ()]", "-", f"leukaemia-zoo {spec.name}", flags=re.ASCII)[:128],
        description=_summary(spec),
        version=__version__,
        timestamp=datetime.now(UTC),
        authors=authors,
        maintainers=[],
        license=_licence(spec),
        cite=list(_citations(spec)),
        tags=["haematology", "leukaemia", "blood", "white-blood-cells", "cytology", "classification", "2d", "onnx"],
        documentation=v0_5.FileDescr(source=folder / "README.md"),
        covers=[v0_5.FileDescr(source=folder / "cover.png")],
        inputs=[_input(spec, tensors[IMAGES], folder)],
        outputs=[_output(spec, name, tensors[name], folder) for name in names],
        weights=v0_5.WeightsDescr(
            onnx=v0_5.OnnxWeightsDescr(source=graph, opset_version=OPSET, authors=authors, comment=_COMMENT)
        ),
        config=_config(spec),
    )


_COMMENT = "Views of the cell, their mean, classifier and temperature are inside."


def _input(spec: WeightSpec, tensor: np.ndarray, folder: Path) -> v0_5.InputTensorDescr:
    height, width = spec.config.preprocessing.input_size
    return v0_5.InputTensorDescr(
        id=IMAGES,
        description="One cell an image, RGB, 0 to 255, cropped and resized as README.md and config.leukaemia_zoo say.",
        axes=[
            v0_5.BatchAxis(),
            v0_5.SpaceInputAxis(id="y", size=height),
            v0_5.SpaceInputAxis(id="x", size=width),
            v0_5.ChannelAxis(channel_names=["red", "green", "blue"]),
        ],
        data=v0_5.IntervalOrRatioDataDescr(type="float32", range=(0.0, 255.0)),
        # Pixels enter as they are: each network scales them itself.
        preprocessing=[v0_5.EnsureDtypeDescr(kwargs=v0_5.EnsureDtypeKwargs(dtype="float32"))],
        test_tensor=v0_5.FileDescr(source=folder / f"{IMAGES}.npy"),
    )


def _output(spec: WeightSpec, name: str, tensor: np.ndarray, folder: Path) -> v0_5.OutputTensorDescr:
    classes = [plain(found) for found in spec.config.class_names]
    limit = spec.config.ood_limit
    unfamiliar = "no limit is known" if limit is None else f"above {limit:.3f} the verdict is not to be relied on"
    sizes = tensor.shape[1:]
    ranges: dict[str, tuple[float | None, float | None]] = {
        **{PROBABILITIES: (0.0, 1.0), ATTENTION: (0.0, 1.0), SCORES: (0.0, None), EMBEDDINGS: (None, None)}
    }
    described: dict[str, tuple[str, list[Any]]] = {
        PROBABILITIES: ("Calibrated probability of each class.", [v0_5.ChannelAxis(channel_names=classes)]),
        EMBEDDINGS: ("What the classifier sees.", [v0_5.IndexOutputAxis(id="feature", size=sizes[0] if sizes else 1)]),
        SCORES: (f"How unfamiliar the cell looks; {unfamiliar}.", []),
        ATTENTION: (
            "Where the network weights its features more.",
            [v0_5.SpaceOutputAxis(id=axis, size=size) for axis, size in zip("yx", sizes, strict=False)],
        ),
    }
    told, axes = described[name]
    return v0_5.OutputTensorDescr(
        id=name,
        description=told,
        axes=[v0_5.BatchAxis(), *axes],
        data=v0_5.IntervalOrRatioDataDescr(type="float32", range=ranges[name]),
        test_tensor=v0_5.FileDescr(source=folder / f"{name}.npy"),
    )


def _summary(spec: WeightSpec) -> str:
    classes = ", ".join(map(plain, spec.config.class_names))
    text = f"Tells {classes} in images of single white blood cells. {NOT_A_DIAGNOSIS} {plain(spec.intended_use)}"
    return textwrap.shorten(text, 500, placeholder="...")


def _licence(spec: WeightSpec) -> Any:
    """The licence if SPDX has it; another one stands in README.md and in config.leukaemia_zoo alone."""
    try:
        return LicenseId(spec.licence)
    except ValueError:
        return None


def _citations(spec: WeightSpec) -> Iterator[v0_5.CiteEntry]:
    """One for each DOI of what is to be cited and of what the weight was made from."""
    seen = set()
    texts = [spec.citation, *(f"{row.get('name', '')}: {row.get('source', '')}" for row in spec.data)]
    for text in map(plain, texts):
        for doi in _DOI.findall(text):
            if doi not in seen:
                seen.add(doi)
                yield v0_5.CiteEntry(text=text, doi=doi)


def _config(spec: WeightSpec) -> v0_5.Config:
    config, architecture = spec.config, ARCHITECTURES[spec.config.architecture]
    limits = None if config.verdict_limits is None else config.verdict_limits.to_dict()
    risks = v0_5.BiasRisksLimitations(
        known_biases="Few people, from one collection; age, sex and hospital are not known. See README.md.",
        risks=NOT_A_DIAGNOSIS,
        limitations="Any image gets one of the classes. Cells of other laboratories often look unfamiliar: see Limits.",
        recommendations="Measure it on labelled subjects of your own before you rely on a number.",
    )
    ours = {
        "classes": list(config.class_names),
        "preprocessing": config.preprocessing.to_dict(),
        "ood_limit": config.ood_limit,
        "verdict_limits": limits,
        "views": config.views,
        "temperature": config.temperature,
        "weight": spec.name,
        "weight_sha256": spec.sha256,
        "citation": spec.citation,
        "licence": spec.licence,
        "note": NOT_A_DIAGNOSIS,
        "made_by": f"leukaemia-zoo {__version__}",
    }
    return v0_5.Config(
        bioimageio=v0_5.BioimageioConfig(
            reproducibility_tolerance=[
                v0_5.ReproducibilityTolerance(relative_tolerance=_TOLERANCE, absolute_tolerance=_TOLERANCE)
            ],
            architecture_type=architecture.name[:32],
            architecture_description=architecture.title,
            modality="bright-field microscopy of stained smears",
            target_structure=["white blood cell"],
            task="classification",
            out_of_scope_use="Diagnosis, screening, or any decision about a person. It is no medical device.",
            bias_risks_limitations=risks,
            model_parameter_count=spec.parameters,
            evaluations=list(_evaluations(spec)),
        ),
        leukaemia_zoo=ours,
    )


def _evaluations(spec: WeightSpec) -> Iterator[v0_5.Evaluation]:
    """The measurements whose cells have a source that can be linked, and were counted."""
    source = _DOI.search(plain(spec.data[0].get("source", ""))) if spec.data else None
    for key, role in _ROLES.items():
        measured = spec.metrics.get(key)
        count = re.search(r"([\d,]+) cells", measured["on"]) if measured else None
        if source is None or measured is None or count is None:
            continue
        known = [name for name in TITLES if name in measured["values"]]
        yield v0_5.Evaluation(
            dataset_id=re.sub(r"[^a-z0-9]+", "-", plain(spec.data[0]["name"]).lower()).strip("-"),
            dataset_source=f"https://doi.org/{source[0]}",
            dataset_role=role,
            sample_count=int(count[1].replace(",", "")),
            evaluation_factors=["overall", "low", "high"],
            evaluation_factors_long=["all cells", "lower end of the 95 % interval", "upper end of the 95 % interval"],
            metrics=[TITLES[name][:16] for name in known],
            metrics_long=[TITLES[name] for name in known],
            results=[
                [_rounded(measured["values"][name].get(part)) for part in ("value", "low", "high")] for name in known
            ],
            results_summary=f"{plain(measured['on'])}. {NOT_A_DIAGNOSIS}",
        )


def _rounded(value: float | None) -> float | str:
    return "not known" if value is None else round(value, 4)


def _documentation(spec: WeightSpec) -> str:
    """README.md: the model card, the way to the input tensor, and how to measure on cells of one's own."""
    card = model_card(spec).split("\n---\n\n", 1)[1]
    settings = spec.config.preprocessing
    height, width = settings.input_size
    reduced = (
        ""
        if settings.reference_frame is None
        else f"1. A frame whose shorter side has more than {settings.reference_frame} pixels is reduced to that "
        "(Lanczos); a pixel of which less than half was cell becomes exactly black again.\n"
    )
    return f"""{card}
## Preprocessing

The tensor `images` holds RGB from 0 to 255. From a frame with one cell in its middle it is made so:

{reduced}1. The middle of the frame is cropped: {settings.crop_fraction:.4f} of its shorter side.
1. The crop is resized to {width} x {height} pixels with antialiasing (Pillow, {settings.interpolation}).

In Python: `leukaemia_zoo.Preprocessing.from_dict(settings)(frame)` with the settings in
`config.leukaemia_zoo.preprocessing` of this package.

## Validation

Measure it on labelled cells of people of your own: `leukaemia-zoo benchmark {spec.name} --data FOLDER --out report`
gives every figure with an interval over people, beside what the area of a cell alone would tell.

{NOT_A_DIAGNOSIS}
"""
