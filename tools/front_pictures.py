"""Draw the pictures of the documentation's front page: python tools/render_figures.py --pictures

Cells and fields are drawings of ours, verdicts and maps are what the weights say of them, the curve is that of
`results/benchmark.json`. What a network says of a drawing means nothing; the pictures show what the library gives.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import leukaemia_zoo as lz

ROOT = Path(__file__).parents[1]
CELLS = ROOT / "examples" / "cells"
RESULTS = ROOT / "results" / "benchmark.json"
FOLDER = ROOT / "docs" / "assets"

WEIGHT = "cnn.cnmc"
"""The weight whose verdicts are shown: it can say "uncertain"."""

SIDE, GAP, STRIP = 232, 12, 78
"""Pixels of a cell's panel, between panels, and of the words under a cell."""

INK, PAGE, MUTED = "#1c1d22", "#ffffff", "#62646f"
COLOURS = {"all": "#a3251c", "hem": "#00664a", "uncertain": "#8a5300"}
AMBER = np.array([255, 176, 32])


def main(folder: Path = FOLDER) -> list[Path]:
    """Draw every picture, and return where they lie."""
    folder.mkdir(parents=True, exist_ok=True)
    paths, _ = lz.cells.find_images(CELLS)
    written = []
    for name, picture in {"front-verdicts": verdicts(paths), "front-maps": maps(paths)}.items():
        file = folder / f"{name}.png"
        # 128 colours are enough for six purple cells, and make the file a third as large.
        picture.quantize(128, dither=Image.Dither.NONE).save(file, optimize=True)
        written.append(file)
    file = folder / "front-curve.svg"
    file.write_text(curve(json.loads(RESULTS.read_text(encoding="utf-8"))), encoding="utf-8")
    return [*written, file]


def verdicts(paths: Iterable[str]) -> Image.Image:
    """Three cells a row, each with its verdict, the probability of `all`, and a word where the cell is unfamiliar."""
    cells = list(lz.predict(WEIGHT, list(paths)))
    rows = -(-len(cells) // 3)
    height = SIDE + STRIP
    sheet = Image.new("RGB", (3 * SIDE + 2 * GAP, rows * height + (rows - 1) * GAP), PAGE)
    draw = ImageDraw.Draw(sheet)
    for number, cell in enumerate(cells):
        left, top = number % 3 * (SIDE + GAP), number // 3 * (height + GAP)
        sheet.paste(_cell(cell.path), (left, top))
        draw.rectangle((left, top, left + SIDE - 1, top + SIDE - 1), outline=COLOURS[cell.verdict], width=4)
        draw.text((left + 2, top + SIDE + 6), cell.verdict, COLOURS[cell.verdict], font=_font(30))
        chance = f"{cell.probabilities[-1]:.3f}"
        draw.text((left + SIDE - 2, top + SIDE + 6), chance, INK, font=_font(30), anchor="ra")
        if cell.unfamiliar:
            draw.text((left + 2, top + SIDE + 44), "unfamiliar", MUTED, font=_font(26))
    return sheet


def maps(paths: Iterable[str]) -> Image.Image:
    """Three cells, and below each the part of it that the attention gate of `cnn_attention` lets pass."""
    model = lz.load_model("cnn_attention")
    chosen = list(paths)[::2]
    pixels = model.zoo.preprocessing.batch([lz.cells.read_image(path) for path in chosen])
    attention = np.asarray(lz.prediction.attention_maps(model, pixels), np.float64)
    sheet = Image.new("RGB", (3 * SIDE + 2 * GAP, 2 * SIDE + GAP), PAGE)
    for number, (frame, gate) in enumerate(zip(pixels, attention, strict=True)):
        left = number * (SIDE + GAP)
        cell = Image.fromarray(frame).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        sheet.paste(cell, (left, 0))
        sheet.paste(_overlay(cell, gate), (left, SIDE + GAP))
    return sheet


def curve(found: dict[str, Any]) -> str:
    """The ROC curve of `cnn` on people whom it has not seen, beside that of cell area alone, as SVG."""
    import io

    import matplotlib
    from matplotlib.figure import Figure

    settings = {"svg.hashsalt": "leukaemia-zoo", "svg.fonttype": "path", "font.size": 11, "font.family": "DejaVu Sans"}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(4.8, 4.2), layout="constrained")
        axes = figure.add_subplot(box_aspect=0.82)
        for name, colour, dash in (("cnn", "#1177bb", "-"), ("cell area alone", "#70727b", "--")):
            model = found["models"][name]
            rates, area = model["curves"]["roc"], model["metrics"]["auroc"]
            told = f"{name}: {area['value']:.2f} ({area['low']:.2f} to {area['high']:.2f})"
            axes.plot(rates["fpr"], rates["tpr"], dash, color=colour, linewidth=2, label=told)
        axes.plot([0, 1], [0, 1], ":", color="#b9bbc4", linewidth=1)
        axes.set(xlim=(0, 1), ylim=(0, 1.005))
        axes.set(xlabel="share of normal cells called leukaemic", ylabel="share of leukaemic cells found")
        axes.legend(loc="lower right", title="AUROC (95 % interval)", frameon=False, fontsize=10, title_fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


def _overlay(cell: Image.Image, gate: np.ndarray) -> Image.Image:
    """Amber where the gate is open, stretched over what it does inside the cell; the black around stays black."""
    pixels = np.asarray(cell, np.float64)
    is_cell = pixels.max(axis=2) > 8
    smooth = Image.fromarray(gate.astype(np.float32)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    values = np.asarray(smooth, np.float64)
    low, high = np.percentile(values[is_cell], [2, 98])
    share = 0.75 * is_cell * np.clip((values - low) / max(high - low, 1e-6), 0, 1)
    return Image.fromarray(np.rint(pixels * (1 - share[..., None]) + AMBER * share[..., None]).astype(np.uint8))


def _cell(path: str) -> Image.Image:
    frame = lz.cells.read_image(path)
    cut = round(frame.shape[0] * 0.16)
    return Image.fromarray(frame[cut:-cut, cut:-cut]).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def _font(size: int) -> Any:
    return ImageFont.load_default(size)
