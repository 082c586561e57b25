"""One reader for every table that a user gives: labels, subjects, the label file of C-NMC 2019."""

import doctest
import io
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from leukaemia_zoo.cells import cnmc
from leukaemia_zoo.cells.readers import read_cnmc, read_csv, read_data
from leukaemia_zoo.cli.predictions import _subject_of_path
from leukaemia_zoo.common import tables
from leukaemia_zoo.common.tables import read_table
from leukaemia_zoo.errors import DataError

ROWS = ("a.png,blast,Zoë", "b.png,blast,Ada", "c.png,lymphocyte,Bob")


def workbook() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
    return file.getvalue()


def test_the_examples_in_the_docstrings_run() -> None:
    found = doctest.testmod(tables)
    assert found.attempted
    assert not found.failed


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate("abc"):
        Image.fromarray(np.full((16, 16, 3), 90 + number, np.uint8)).save(tmp_path / f"{name}.png")
    return tmp_path


def text(*rows: str, header: str = "path,label,subject", end: str = "\n") -> str:
    return end.join((header, *rows, ""))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be-bom"])
@pytest.mark.parametrize("header", ["path,label,subject", " Path ;LABEL; Subject", "path\tLabel\tsubject", "sep=;"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_usual_writings_of_one_table(folder: Path, encoding: str, header: str, end: str) -> None:
    """A byte order mark, semicolons and tabs, capitals, spaces, Excel's line on what divides, and empty rows."""
    divider = next((sign for sign in "\t;" if sign in header), ",")
    rows = [row.replace(",", f" {divider} ") for row in (*ROWS, ",,")]
    if header == "sep=;":
        rows, header = ["Path;label;SUBJECT", *rows], "sep=;"
    content = text(*rows, header=header, end=end)
    data = b"\xfe\xff" + content.encode("utf-16-be") if encoding.endswith("bom") else content.encode(encoding)
    file = folder / "t.csv"
    file.write_bytes(data)
    cells = read_csv(file)
    assert cells.subjects == ("Zoë", "Ada", "Bob")
    assert cells.class_names == ("lymphocyte", "blast")  # the positive class is the last one
    assert _subject_of_path(file) == {"a.png": "Zoë", "b.png": "Ada", "c.png": "Bob"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (text(*ROWS).encode("cp1252"), "is no CSV in UTF-8 or UTF-16"),
        (text(*ROWS).encode("mac-roman"), "is no CSV in UTF-8 or UTF-16"),
        (text(*ROWS).encode("utf-16-le"), "UTF-16 without its byte order mark"),
        (text(*ROWS).encode("utf-16")[:-1], "is no CSV in UTF-8 or UTF-16"),
        (workbook(), "is an Excel workbook or another ZIP archive, whatever its name"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "is an old Excel workbook"),
        (b"PAR1\x15\x04", "is a Parquet file"),
        (b"<html><table><tr><td>path</td></tr></table>", "is a web page"),
        (bytes(100), "is no text"),
        (text('"a.png,blast,Ada', *ROWS[1:]).encode(), r"Row 2 of .* a quote in it may not be closed"),
        (text(ROWS[1], 'c.png,"blast,Ada', ROWS[1], ROWS[2]).encode(), r"Row 3 of .* a quote in it may not be closed"),
        (text('a.png,"blast', 'b.png,blast",Ada').encode(), r"Row 2 of .* has a label of several lines"),
        (text('a.png,blast,"Ada', 'b.png,blast,Bob"').encode(), r"Row 2 of .* has a subject of several lines"),
        (text("a, 1.png,blast,Ada").encode(), r"Row 2 of .* has more fields than the header \('Ada'\)"),
        (text(*ROWS, header="path,label,Label").encode(), "has the column 'label' twice"),
        (b"path,label\n" + b"x" * 200_000 + b",y\n", r"Row 2 of .* cannot be read as CSV"),
    ],
)
def test_what_is_no_table_is_refused_in_one_sentence(folder: Path, content: bytes, message: str) -> None:
    file = folder / "t.csv"
    file.write_bytes(content)
    for read in (read_data, lambda path: read_table(path, ("path", "label", "subject")), _subject_of_path):
        if b"label,Label" in content and read is not read_data:
            continue
        with pytest.raises(DataError) as caught:
            read(file)
        assert "\n" not in str(caught.value)
        if read is read_data:
            assert caught.match(message)


def test_a_quoted_field_may_hold_the_divider_and_a_remark_several_lines(folder: Path) -> None:
    file = folder / "t.csv"
    file.write_text(text('a.png,"blast, large",Ada,"one\ntwo"', "b.png,x,Bob,", header="path,label,subject,remark"))
    cells = read_csv(file)
    assert cells.class_names == ("x", "blast, large")
    assert cells.columns["remark"] == ("one\ntwo", "")
    file.write_text(text('a.png,x,Ada,"one\ntwo"', "gone.png,x,Bob,", header="path,label,subject,remark"))
    with pytest.raises(DataError, match=r"Row 4 of"):
        read_csv(file)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("divider", [",", ";"])
def test_the_label_file_of_the_preliminary_set_in_another_encoding(folder: Path, encoding: str, divider: str) -> None:
    images = folder / "set" / cnmc.PRELIMINARY_FOLDER
    images.mkdir(parents=True)
    (folder / "a.png").rename(images / "1.png")
    labels = "Patient_ID,new_names,labels\nUID_55_12_2_all.bmp,1.bmp,1\n".replace(",", divider)
    (images.parent / cnmc.PRELIMINARY_LABELS).write_bytes(labels.encode(encoding))
    assert read_cnmc(folder / "set").subjects == ("51",)
    (images.parent / cnmc.PRELIMINARY_LABELS).write_bytes(workbook())
    with pytest.raises(DataError, match="is an Excel workbook"):
        read_data(folder / "set")


def test_a_header_of_a_hundred_thousand_columns_is_read_through_once(tmp_path):
    file = tmp_path / "wide.csv"
    file.write_text("path,label" + ",a" * 100_000 + "\n1,2\n")
    with pytest.raises(DataError, match="has the column 'a' twice"):
        read_table(file, ("path", "label"))


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs a device without an end")
def test_a_table_without_an_end_is_refused() -> None:
    """It says that it is empty, and filled the memory."""
    code = (
        "import resource; from pathlib import Path; from leukaemia_zoo.common.tables import read_table\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2_000_000_000,) * 2)\n"
        "read_table(Path('/dev/zero'), ['path'])"
    )
    run = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert run.stderr.splitlines()[-1].endswith("DataError: /dev/zero is larger than 200 MB: divide the table.")
