"""The same image in two files, and the same cell in two images."""

import dataclasses
import doctest
from pathlib import Path

import numpy as np
import pytest
from painted_cells import paint
from PIL import Image

from leukaemia_zoo.cells import copies
from leukaemia_zoo.cells.cnmc import NEAR_COPIES, canonical_subject, parse_cnmc_name
from leukaemia_zoo.cells.copies import duplicate_cells, near_copies, pixel_sha256, tell_shared_cells
from leukaemia_zoo.cells.preprocessing import symmetric_views
from leukaemia_zoo.cells.readers import read_cnmc, read_folders
from leukaemia_zoo.cells.table import Cells
from leukaemia_zoo.errors import DataError

DATA = Path(__file__).parents[3] / "shared" / "data"


# --- identical images ---


def test_identical_images_are_found_in_any_format_and_only_those(tmp_path: Path) -> None:
    for folder, value in (("x", 7), ("y", 8)):
        paint(tmp_path / folder / "cell.bmp", value)
    same = paint(tmp_path / "y" / "other name.webp", 7)
    paint(tmp_path / "y" / "nearly.webp", 9)
    assert duplicate_cells(read_folders(tmp_path)) == [(tmp_path / "x" / "cell.bmp", same)]


def test_pixel_hash_sees_the_shape_and_a_rewritten_file(tmp_path: Path) -> None:
    wide, high = tmp_path / "wide.png", tmp_path / "high.png"
    Image.new("RGB", (24, 16)).save(wide)
    Image.new("RGB", (16, 24)).save(high)
    before = pixel_sha256(wide)
    assert before != pixel_sha256(high)
    Image.new("RGB", (40, 20), "white").save(wide)
    assert pixel_sha256(wide) != before


def test_unreadable_image_is_named(tmp_path: Path) -> None:
    paint(tmp_path / "a" / "good.png")
    whole = paint(tmp_path / "b" / "cut.png").read_bytes()
    (tmp_path / "b" / "cut.png").write_bytes(whole[:45])
    with pytest.raises(DataError, match=r"cut\.png cannot be read"):
        duplicate_cells(read_folders(tmp_path))


# --- the same cell in two images ---


def texture(seed: int, side: int = 128, ground: int = 0) -> np.ndarray:
    """A disc with a texture of its own, on black or on a grey ground."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(60, 200, (24, 24, 3), dtype=np.uint8)).resize((side, side))
    y, x = np.mgrid[:side, :side] / side - 0.5
    return np.where((np.hypot(x, y) < 0.3)[..., None], np.asarray(coarse), ground).astype(np.uint8)


@pytest.mark.parametrize("ground", [0, 220])
def test_a_cell_under_two_subjects_is_found_in_other_pixels(tmp_path: Path, ground: int) -> None:
    frames = [texture(seed, ground=ground) for seed in range(6)]
    paths = [tmp_path / f"{number}.png" for number in range(6)]
    for path, frame in zip(paths, frames, strict=True):
        Image.fromarray(frame).save(path)
    darker = Image.fromarray((frames[2] * 0.8).astype(np.uint8))
    darker.save(tmp_path / "again.jpg", quality=80)
    Image.fromarray(frames[4]).resize((160, 160)).save(tmp_path / "larger.png")
    Image.fromarray(frames[5]).save(tmp_path / "own.png")
    further = [tmp_path / name for name in ("again.jpg", "larger.png", "own.png")]
    subjects = ("a", "b", "c", "d", "e", "f", "other", None, "f")
    cells = Cells((*paths, *further), np.zeros(9, np.int64), subjects, ("x",), ("",) * 9, "csv")
    found = near_copies(cells)
    assert {(copy.first, copy.second) for copy in found} == {(2, 6), (4, 7)}
    assert all(0.8 < copy.correlation <= 1 for copy in found)
    assert [copy.correlation for copy in found] == sorted((copy.correlation for copy in found), reverse=True)
    assert near_copies(cells.subset([0, 1, 3])) == ()
    told: list[str] = []
    tell_shared_cells(cells, told.append)
    assert len(told) == 1
    assert "2.png (c) and again.jpg (other)" in told[0]
    assert "larger.png" not in told[0]  # nobody's
    tell_shared_cells(cells.subset([0, 1, 3]), told.append)
    assert len(told) == 1


@pytest.mark.parametrize("ground", [0, 220])
def test_a_copy_that_was_turned_or_mirrored_is_found_and_its_view_told(tmp_path: Path, ground: int) -> None:
    frames = [texture(seed, ground=ground) for seed in range(8)]
    paths = [tmp_path / f"{name}.jpg" for name in (*range(8), *(f"turned{view}" for view in range(8)))]
    views = symmetric_views(np.stack(frames), 8)
    for number in range(8):
        Image.fromarray(frames[number]).save(paths[number], quality=90)
        Image.fromarray(views[number, number]).resize((180, 180)).save(paths[8 + number], quality=70)
    for subjects in (tuple("abcdefghijklmnop"), (None,) * 16):
        cells = Cells(tuple(paths), np.zeros(16, np.int64), subjects, ("x",), ("",) * 16, "csv")
        found = near_copies(cells)
        assert {(copy.first, copy.second) for copy in found} == {(number, 8 + number) for number in range(8)}
        for copy in found:  # by its view the copy is the first again
            again = symmetric_views(views[copy.first, copy.first][None], 8)[copy.view, 0]
            np.testing.assert_array_equal(again, frames[copy.first])
    told: list[str] = []
    for rows in ([0, 8], [3, 11]):
        pair = dataclasses.replace(cells, subjects=tuple("abcdefghijklmnop")).subset(rows)
        tell_shared_cells(pair, told.append)
    assert "0.jpg (a) and turned0.jpg (i); if" in told[0]
    assert "3.jpg (d) and turned3.jpg (l) turned or mirrored; if" in told[1]


@pytest.mark.skipif(not (DATA / "cnmc").exists(), reason="the real images of cnmc are not on this machine")
def test_near_copies_of_cnmc_are_those_that_merge_subjects() -> None:
    cells = read_cnmc(DATA / "cnmc")
    names = [path.stem for path in cells.paths]
    listed = {frozenset(names.index(name) for name in pair) for pair in NEAR_COPIES}
    rows = sorted({*(row for pair in listed for row in pair), *range(0, len(cells), 40)})
    parsed = [parse_cnmc_name(cells.paths[row]) for row in rows]
    apart = dataclasses.replace(cells.subset(rows), subjects=tuple(name.subject for name in parsed if name is not None))
    found = {frozenset((rows[copy.first], rows[copy.second])) for copy in near_copies(apart)}
    assert listed <= found
    joined = [{canonical_subject(names[row].split("_")[1]) for row in pair} for pair in found]
    assert all(len(subjects) == 1 for subjects in joined)


# --- habits ---


def test_examples_in_docstrings_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paint(Path("my_cells/blast/1.png"), 1)
    paint(Path("my_cells/lymphocyte/2.png"), 2)
    paint(Path("my_cells/lymphocyte/copy of 1.webp"), 1)
    for name, seed in (("blast/1.png", 1), ("blast/2.jpg", 1), ("blast/3.png", 3), ("normal/4.png", 4)):
        (Path("others_cells") / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(texture(seed)).save(Path("others_cells") / name)
    result = doctest.testmod(copies, extraglobs={"read_folders": read_folders})
    assert result.attempted > 0
    assert result.failed == 0
