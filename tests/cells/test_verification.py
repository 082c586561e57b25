import doctest
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from leukaemia_zoo.cells import cnmc, verification
from leukaemia_zoo.cells.cnmc import OfficialFiles
from leukaemia_zoo.cells.verification import verify
from leukaemia_zoo.errors import DataError

DATA = Path(__file__).parents[3] / "shared" / "data"

# A small official set: two folds, one cell in both, the preliminary set, the final set.
OFFICIAL = {
    "testing_data/C-NMC_test_final_phase_data/1.bmp": 1,
    "training_data/fold_0/all/UID_20_1_1_all.bmp": 2,
    "training_data/fold_0/hem/UID_H5_1_1_hem.bmp": 3,
    "training_data/fold_1/all/UID_21_1_1_all.bmp": 2,
    "training_data/fold_1/hem/UID_h3_1_1_hem.bmp": 4,
    "validation_data/C-NMC_test_prelim_phase_data/1.bmp": 5,
    "validation_data/C-NMC_test_prelim_phase_data/2.bmp": 6,
    "validation_data/C-NMC_test_prelim_phase_data_labels.csv": 7,
}


def write(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes([value]) * 100)


@pytest.fixture
def download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The whole small set on disk, with the packaged list replaced by its own."""
    root = tmp_path / "C-NMC_Leukemia"
    for path, value in OFFICIAL.items():
        write(root / path, value)
    digests = [np.frombuffer(hashlib.sha256((root / path).read_bytes()).digest(), np.uint8) for path in OFFICIAL]
    listed = OfficialFiles(tuple(OFFICIAL), np.stack(digests), np.full(len(OFFICIAL), 100, np.uint32))
    for module in (cnmc, verification):
        monkeypatch.setattr(module, "official_files", lambda: listed)
    cached = (cnmc.official_duplicates, cnmc._official_rows, cnmc._first_copies)
    for function in cached:
        function.cache_clear()
    yield root
    for function in cached:
        function.cache_clear()


def test_a_whole_download_is_ok_and_its_duplicates_are_named(download: Path) -> None:
    for root in (download, download.parent):
        report = verify(root)
        assert report.ok
        assert report.intact == tuple(OFFICIAL)
        assert report.missing == dict.fromkeys(("final", "fold_0", "fold_1", "preliminary"), ())
        assert report.duplicates == (
            ("training_data/fold_0/all/UID_20_1_1_all.bmp", "training_data/fold_1/all/UID_21_1_1_all.bmp"),
        )
        assert ": as published" in str(report)
        assert "1 cells there twice" in str(report)


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The small set as images: the one cell in two folds is the same file, all others differ."""
    root = tmp_path / "images"
    for path, value in OFFICIAL.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        if path.endswith(".csv"):
            (root / path).write_text(
                "Patient_ID,new_names,labels\nUID_66_1_1_all.bmp,1.bmp,1\nUID_H9_1_1_hem.bmp,2.bmp,0\n"
            )
        else:
            Image.fromarray(np.full((20, 20, 3), 10 * value, np.uint8)).save(root / path)
    digests = [np.frombuffer(hashlib.sha256((root / path).read_bytes()).digest(), np.uint8) for path in OFFICIAL]
    sizes = np.array([(root / path).stat().st_size for path in OFFICIAL], np.uint32)
    listed = OfficialFiles(tuple(OFFICIAL), np.stack(digests), sizes)
    for module in (cnmc, verification):
        monkeypatch.setattr(module, "official_files", lambda: listed)
    cached = (cnmc.official_duplicates, cnmc._official_rows, cnmc._first_copies)
    for function in cached:
        function.cache_clear()
    yield root
    for function in cached:
        function.cache_clear()


def other_header(source: Path, target: Path) -> None:
    """The pixels of one BMP under a header that is longer by 84 bytes, as the preliminary set has them."""
    data = bytearray(source.read_bytes())
    start = int.from_bytes(data[10:14], "little")
    pixels = data[start:]
    header = data[:start] + bytes(84)
    header[2:6] = (len(header) + len(pixels)).to_bytes(4, "little")
    header[10:14] = len(header).to_bytes(4, "little")
    target.write_bytes(header + pixels)


def test_pixels_under_another_header_join_two_subjects(images: Path) -> None:
    training = images / "training_data/fold_0/all/UID_20_1_1_all.bmp"
    preliminary = images / "validation_data/C-NMC_test_prelim_phase_data/1.bmp"
    report = verify(images, pixels=True)
    assert report.ok
    assert report.same_pixels == report.new_pairs == ()
    assert "0 cells there twice by pixels" in str(report)
    other_header(training, preliminary)
    assert training.read_bytes() != preliminary.read_bytes()
    assert verify(images).same_pixels is None
    report = verify(images, pixels=True)
    assert report.same_pixels is not None
    (group,) = report.same_pixels
    assert {training.relative_to(images).as_posix(), preliminary.relative_to(images).as_posix()} <= set(group)
    (told,) = report.new_pairs
    assert "the subjects 20 and 66 are one person" in told
    assert f"NEW: {told}" in str(report)


def test_textures_join_subjects_whose_cells_were_photographed_again(images: Path) -> None:
    """The one with noise and other colours; unreadable images are told, and known people are nothing new."""
    rng = np.random.default_rng(1)
    names = ("fold_0/all/UID_902_1_1_all", "fold_1/all/UID_903_4_2_all", "fold_1/all/UID_51_8_1_all")
    cell = np.asarray(Image.fromarray(rng.integers(60, 200, (24, 24, 3), dtype=np.uint8)).resize((128, 128)))
    other = np.asarray(Image.fromarray(rng.integers(60, 200, (24, 24, 3), dtype=np.uint8)).resize((128, 128)))
    again = np.clip(cell * 0.9 + rng.normal(0, 3, cell.shape), 0, 255).astype(np.uint8)
    for name, frame in zip((*names, "fold_0/all/UID_78_8_1_all"), (cell, again, other, other[::1] // 2), strict=True):
        Image.fromarray(frame).save(images / "training_data" / f"{name}.bmp")
    (images / "training_data/fold_0/all/UID_904_1_1_all.bmp").write_bytes(b"BM")
    assert verify(images).near_copies is None
    report = verify(images, textures=True)
    assert report.near_copies is not None
    assert report.same_pixels is None
    wanted = [{f"training_data/{name}.bmp" for name in names[:2]}]
    wanted.append({f"training_data/{names[2]}.bmp", "training_data/fold_0/all/UID_78_8_1_all.bmp"})
    found = [set(pair) for pair in report.near_copies]
    assert all(pair in found for pair in wanted)
    (told,) = [line for line in report.new_pairs if "UID_902" in line]
    assert "the subjects 902 and 903 are one person" in told
    assert not any("UID_78" in line for line in report.new_pairs)
    assert f"NEW: {told}" in str(report)
    assert "cells there twice by texture, such as" in str(report)
    assert any("UID_904" in fault for fault in report.unreadable)


def test_pixels_are_compared_across_formats_and_known_people_are_nothing_new(images: Path) -> None:
    """A converted copy of the one cell, and one of subject 51 beside one of subject 55."""
    source = images / "training_data/fold_1/hem/UID_h3_1_1_hem.bmp"
    Image.open(source).save(source.with_name("UID_h77_5_5_hem.png"))
    labels = images / "validation_data/C-NMC_test_prelim_phase_data_labels.csv"
    labels.write_text(labels.read_text().replace("UID_66_", "UID_55_"))
    other_header(labels.parent / "C-NMC_test_prelim_phase_data" / "1.bmp", images / "UID_51_9_9_all.bmp")
    report = verify(images, pixels=True)
    assert report.same_pixels is not None
    assert len(report.same_pixels) == 2
    (told,) = report.new_pairs
    assert "the subjects H3 and H77 are one person" in told


def test_what_cannot_be_looked_into_is_told(download: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken link, a locked folder, and with pixels an image that is none."""
    cell = download / "training_data/fold_1/all/UID_21_1_1_all.bmp"
    cell.unlink()
    try:
        cell.symlink_to("gone.bmp")
    except OSError:
        pytest.skip("this system makes no links")
    report = verify(download)
    assert not report.ok
    assert any("UID_21_1_1_all.bmp is a broken link" in told for told in report.unreadable)
    assert report.missing["fold_1"] == ("training_data/fold_1/all/UID_21_1_1_all.bmp",)
    assert "1 not looked into" in str(report)
    assert len(verify(download, pixels=True).unreadable) > 1
    scandir = os.scandir

    def refuse(path: Path) -> object:
        if Path(path) == download / "testing_data":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    cell.unlink()
    write(cell, OFFICIAL["training_data/fold_1/all/UID_21_1_1_all.bmp"])
    assert verify(download).ok
    monkeypatch.setattr(os, "scandir", refuse)
    report = verify(download)
    assert not report.ok
    assert len(report.intact) == len(OFFICIAL) - 1
    assert "testing_data cannot be listed" in report.unreadable[0]


@pytest.mark.parametrize("folder", ["@eaDir", "$RECYCLE.BIN", "found.000"])
def test_folders_of_the_system_are_no_part_of_a_download(download: Path, folder: str) -> None:
    write(download / "training_data" / "fold_0" / "all" / folder / "UID_20_1_1_all.bmp", 9)
    assert verify(download).ok


@pytest.mark.parametrize(
    ("part", "intact"),
    [
        ("training_data/fold_1", 2),
        ("training_data", 4),
        ("validation_data", 3),
        ("testing_data/C-NMC_test_final_phase_data", 1),
    ],
)
def test_a_part_is_compared_with_that_part_only(download: Path, part: str, intact: int) -> None:
    report = verify(download / part)
    assert report.ok
    assert len(report.intact) == intact


def test_only_the_parts_that_are_there_can_lack_files(download: Path) -> None:
    shutil.rmtree(download / "training_data" / "fold_0")
    (download / "validation_data" / "C-NMC_test_prelim_phase_data_labels.csv").unlink()
    (download / "validation_data" / "C-NMC_test_prelim_phase_data" / "2.bmp").unlink()
    report = verify(download)
    assert not report.ok
    assert set(report.missing) == {"final", "fold_1", "preliminary"}
    assert report.missing["preliminary"] == (
        "validation_data/C-NMC_test_prelim_phase_data/2.bmp",
        "validation_data/C-NMC_test_prelim_phase_data_labels.csv",
    )
    assert report.duplicates == ()
    assert "2 missing of preliminary" in str(report)


@pytest.mark.parametrize("content", [b"\x03" * 99, b"\x03" * 99 + b"\x00"])
def test_cut_off_and_altered_files_are_changed(download: Path, content: bytes) -> None:
    (download / "training_data/fold_0/hem/UID_H5_1_1_hem.bmp").write_bytes(content)
    report = verify(download)
    assert not report.ok
    assert report.changed == ("training_data/fold_0/hem/UID_H5_1_1_hem.bmp",)
    assert len(report.intact) == len(OFFICIAL) - 1
    assert "NOT as published" in str(report)


def test_converted_misplaced_and_unexpected_files(download: Path) -> None:
    fold = download / "training_data" / "fold_0"
    (fold / "hem" / "UID_H5_1_1_hem.bmp").rename(fold / "hem" / "UID_H5_1_1_hem.PNG")
    (fold / "all" / "UID_20_1_1_all.bmp").rename(fold / "hem" / "UID_20_1_1_all.bmp")
    write(fold / "all" / "mine.png", 9)
    write(fold / "copy" / "UID_H5_1_1_hem.bmp", 3)
    write(fold / "readme.txt", 9)
    write(fold / ".hidden.bmp", 9)
    report = verify(download)
    assert not report.ok
    assert report.misplaced == ("training_data/fold_0/hem/UID_20_1_1_all.bmp",)
    assert set(report.unexpected) == {
        "training_data/fold_0/all/mine.png",
        "training_data/fold_0/hem/UID_H5_1_1_hem.PNG",
    }
    assert report.converted == ()

    shutil.rmtree(fold / "copy")
    assert verify(download).converted == ("training_data/fold_0/hem/UID_H5_1_1_hem.PNG",)


def test_progress_counts_every_file(download: Path) -> None:
    calls: list[tuple[int, int]] = []
    verify(download, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(number, len(OFFICIAL)) for number in range(1, len(OFFICIAL) + 1)]


def test_folder_without_official_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder"):
        verify(tmp_path / "nowhere")
    Image.new("RGB", (2, 2)).save(tmp_path / "mine.png")
    with pytest.raises(DataError, match="No C-NMC file is under"):
        verify(tmp_path)


def test_examples_in_docstrings_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("C-NMC_Leukemia/training_data/fold_0/all/UID_11_10_1_all.bmp"), 0)
    result = doctest.testmod(verification)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.skipif(not (DATA / "cnmc_original").exists(), reason="the real original images are not on this machine")
def test_real_original_files_have_their_published_bytes() -> None:
    report = verify(DATA / "cnmc_original")
    assert len(report.intact) == sum(path.is_file() for path in (DATA / "cnmc_original").rglob("*.bmp")) > 0
    assert not report.changed
    assert not report.misplaced
    assert not report.ok, "most of the two folds is missing"


@pytest.mark.skipif(not (DATA / "cnmc").exists(), reason="the real images of cnmc are not on this machine")
def test_real_converted_files_are_told_apart() -> None:
    report = verify(DATA / "cnmc" / "training_data")
    assert len(report.converted) == 7_861
    assert report.intact == report.changed == report.misplaced == report.unexpected == report.duplicates == ()
    assert {part: len(paths) for part, paths in report.missing.items()} == {"fold_0": 0, "fold_1": 5, "fold_2": 2_795}
