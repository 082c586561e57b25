"""From whole fields of a smear to a verdict for each white cell, with a warning where a cell looks unfamiliar.

python examples/cells_from_fields.py [FOLDER] [--micrometres-per-pixel X] [--stain reinhard] [--picture FILE]

Without a folder it draws a field, so that there is something to try.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

import leukaemia_zoo as lz

SIDE = 180  # pixels a side of each cell in the picture


def main(folder: Path | None, micrometres_per_pixel: float | None, stain: str | None, picture: Path | None) -> None:
    """Cut the cells out of every field and predict them."""
    model = lz.load_model("cnn_attention")
    paths = lz.cells.find_images(folder)[0] if folder else []
    fields = {path.name: lz.cells.read_image(path) for path in paths} or {"drawn field": draw_field()}

    # All fields of one microscope have one scale: estimate it from all of them, unless it is known.
    scale = micrometres_per_pixel or lz.smears.estimate_scale(list(fields.values()))
    print(f"{scale:.3f} micrometres per pixel, {'given' if micrometres_per_pixel else 'by the red cells'}")

    for name, field in fields.items():
        cells = lz.smears.extract_cells(field, micrometres_per_pixel=scale, stain=stain)
        whole = [cell for cell in cells if not cell.touches_border]
        print(f"{name}: {len(cells)} white cells, {len(cells) - len(whole)} of them cut by the border and left out")
        if not whole:
            continue
        predictions = lz.predict(model, [cell.image for cell in whole])
        for cell, found in zip(whole, predictions, strict=True):
            # Where the score is above the limit, the label means nothing.
            verdict = "unfamiliar, no verdict" if found.unfamiliar else f"{found.label} {max(found.probabilities):.2f}"
            print(f"  at {cell.box[:2]}: {cell.area:.0f} square micrometres, OOD {found.ood_score:.2f}, {verdict}")
        if picture:
            draw(field, cells).save(picture, optimize=True)
            print("wrote", picture)
            picture = None


def draw_field(seed: int = 0) -> np.ndarray:
    """Draw red cells, platelets and four white cells, two that touch and one cut, at 0.1 micrometres per pixel."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (640, 480), (243, 232, 222))
    pen = ImageDraw.Draw(image)

    def disc(x: float, y: float, radius: float, colour: tuple[int, int, int]) -> None:
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)

    white = [(170, 150, 50, 38), (430, 230, 58, 47), (534, 230, 52, 42), (300, 478, 55, 42)]
    for _ in range(400):
        x, y = rng.integers(0, 640), rng.integers(0, 480)
        if all(np.hypot(x - a, y - b) > r + 41 for a, b, r, _ in white):
            white.append((x, y, 37, 0))
    for x, y, radius, nucleus in white:
        disc(x, y, radius, (188, 166, 208) if nucleus else (222, 168, 160))
        if nucleus:
            disc(x + 3, y - 3, nucleus, (96, 50, 130))
        else:
            disc(x, y, radius / 3, (232, 196, 188))
    for x, y in ((60, 440), (610, 60), (240, 30)):
        disc(x, y, 10, (140, 90, 160))
    return np.array(image.filter(ImageFilter.GaussianBlur(1.5)))


def draw(field: np.ndarray, cells: list) -> Image.Image:
    """The field with the boxes of its cells, those that the border cuts in grey, and beneath it the frames."""
    image = Image.fromarray(field)
    pen = ImageDraw.Draw(image)
    for cell in cells:
        pen.rectangle(cell.box, outline=(120, 120, 120) if cell.touches_border else (0, 110, 70), width=3)
    sheet = Image.new("RGB", (max(image.width, len(cells) * (SIDE + 10) - 10), image.height + SIDE + 10), "white")
    sheet.paste(image, (0, 0))
    for number, cell in enumerate(cells):
        frame = Image.fromarray(cell.image).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        sheet.paste(frame, (number * (SIDE + 10), image.height + 10))
    return sheet.quantize(64)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--micrometres-per-pixel", type=float)
    parser.add_argument("--stain", choices=["reinhard", "macenko"])
    parser.add_argument("--picture", type=Path)
    main(**vars(parser.parse_args()))
