"""What the commands need of the terminal: lines, progress bars, and the silence of the backend."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any, TextIO


def print_lines(lines: Iterable[str], file: TextIO | None = None) -> None:
    """Print each line, on the standard output where nothing else is said."""
    for line in lines:
        print(line, file=file)


@contextlib.contextmanager
def without_notes_of_the_backend() -> Iterator[None]:
    """Keep the notes that TensorFlow prints on every start off the terminal, unless the import fails.

    Its C++ code writes them straight to file descriptor 2, of late whatever TF_CPP_MIN_LOG_LEVEL says. Whoever sets
    that variable sees all that it leaves.
    """
    if "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        yield
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    sys.stderr.flush()
    with tempfile.TemporaryFile() as notes:
        terminal = os.dup(2)
        os.dup2(notes.fileno(), 2)
        try:
            yield
        except BaseException:
            notes.seek(0)
            os.write(terminal, notes.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


def tell(line: str) -> None:
    """A line of progress on the standard error, above the progress bar if there is one."""
    from tqdm import tqdm

    tqdm.write(line, file=sys.stderr)


def progress(items: Iterable[Any], total: int, unit: str, quiet: bool) -> Iterable[Any]:
    """A progress bar around items whose number is known."""
    from tqdm import tqdm

    # A terminal sees the bar from half a second on; files and pipes never do.
    return tqdm(items, total=total, unit=f" {unit}", delay=0.5, disable=True if quiet else None, file=sys.stderr)


@contextlib.contextmanager
def progress_bar(unit: str, file: TextIO | None = None) -> Iterator[Any]:
    """A progress bar as a function of what is done and how much there is."""
    from tqdm import tqdm

    with tqdm(unit=f" {unit}", delay=0.5, disable=None, file=file or sys.stderr) as bar:

        def step(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield step
