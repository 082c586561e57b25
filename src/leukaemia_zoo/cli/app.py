"""The command line: which commands there are, and how mistakes are told."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import click

from leukaemia_zoo._version import __version__
from leukaemia_zoo.common.files import NO_ROOM
from leukaemia_zoo.common.text import printable
from leukaemia_zoo.errors import LeukaemiaZooError

COMMANDS = {
    "predict": ("predictions.predict", "classify the cells in files and folders"),
    "cells": ("pictures.cells", "find, cut out and classify the white cells of whole fields and slides"),
    "explain": ("pictures.explain", "show where in each cell a network finds the evidence for a class"),
    "app": ("predictions.app", "judge cells on a page in the browser, on this machine"),
    "export": ("exports.export", "write a network as one file for other programs"),
    "train": ("training.train", "train a network on single-cell images, by subject"),
    "finetune": (
        "adaptation.finetune",
        "fine-tune a network on labelled cells of your own and judge it on cells apart",
    ),
    "probe": (
        "adaptation.probe",
        "cross-validate a linear classifier on a network's features: a first answer within a minute",
    ),
    "benchmark": (
        "benchmarking.benchmark",
        "judge models on the same labelled cells, with intervals over subjects, and write a report",
    ),
    "download": (
        "catalogue.download",
        "get weights ahead of time, for a machine without a network or before it is needed",
    ),
    "publish": ("catalogue.publish", "put the zoo's weights on the Hugging Face Hub and pin them"),
    "verify": ("catalogue.verify", "compare a C-NMC download with the official list of sha256 hashes"),
    "list": ("catalogue.list_", "list the architectures and their pretrained weights"),
    "info": ("catalogue.info", "tell what is known of a model: classes, data, figures, licence"),
}
"""Where each command lies below this wing, and what it does. Its module is imported when it is called."""


class _Commands(click.Group):
    """The commands of the table, none of which is imported for the others' sake."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        if cmd_name not in COMMANDS:
            raise click.exceptions.NoSuchCommand(cmd_name, possibilities=COMMANDS, ctx=ctx)
        module, _, name = COMMANDS[cmd_name][0].partition(".")
        command: click.Command = getattr(importlib.import_module(f"leukaemia_zoo.cli.{module}"), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, what) for name, (_, what) in COMMANDS.items()])


@click.group(
    cls=_Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120, "show_default": True},
)
@click.version_option(__version__, prog_name="leukaemia-zoo", message="%(prog)s %(version)s")
@click.pass_context
def _zoo(context: click.Context) -> int:
    """Pretrained networks that tell leukaemic (all) from normal (hem) white blood cells in single-cell images.

    For research only, not a diagnosis.
    """
    if context.invoked_subcommand is None:
        print(context.get_help())
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``leukaemia-zoo`` and return its exit status: 0, 1 if some inputs failed, 2 for a mistake in the call."""
    _open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        # A file name may hold what the terminal cannot show, such as bytes that are no UTF-8.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        return _run(sys.argv[1:] if arguments is None else list(arguments))
    except click.UsageError as error:
        name = "leukaemia-zoo" if error.ctx is None else error.ctx.command_path
        if error.ctx is not None:
            print(printable(error.ctx.get_usage()), file=sys.stderr)
        mistake = error.format_message()
        end = "" if mistake.endswith((".", "?", "!")) else "."
        return _refuse(f"{mistake}{end} `{name} --help` tells what can be said.")
    except LeukaemiaZooError as error:
        return _refuse(str(error))
    except BrokenPipeError:
        # Whoever read the output, such as head, has had enough; Python must not try to flush the rest.
        with contextlib.suppress(OSError):  # without a file of its own
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno in NO_ROOM:
            return _refuse(f"{error.filename} cannot be written ({error.strerror}): make room, or name another place.")
        told = f"{error.strerror or error}: {error.filename or ''}".rstrip(": ")
        return _refuse(f"{told}; check the path and your rights to it." if error.filename else told)
    except KeyboardInterrupt:
        print("leukaemia-zoo: stopped.", file=sys.stderr)
        return 130


def _run(arguments: list[str]) -> int:
    """What the command returns; 0 after --help and --version."""
    try:
        with _warnings_as_notes(), _zoo.make_context("leukaemia-zoo", arguments) as context:
            status: int = _zoo.invoke(context)
    except click.exceptions.Exit as end:
        status = end.exit_code
    sys.stdout.flush()
    return status


@contextlib.contextmanager
def _warnings_as_notes() -> Iterator[None]:
    """Print what a Python caller is warned of as one line, without the place in our code that it comes from."""

    def one_line(message: Warning | str, *where: Any, **line: Any) -> str:
        return f"note: {printable(str(message))}\n"

    before, warnings.formatwarning = warnings.formatwarning, one_line
    try:
        yield
    finally:
        warnings.formatwarning = before


def _refuse(mistake: str) -> int:
    print(f"leukaemia-zoo: error: {printable(mistake)}", file=sys.stderr)
    return 2


def _open_standard_streams() -> None:
    """Give a process that was started without standard streams, as by ``2>&-`` or pythonw, ones that lead nowhere."""
    # Otherwise the first file that it opens takes the number of a stream, and what libraries print ends up in it.
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # which takes the lowest number that is free
    if sys.stdout is None:
        sys.stdout = io.StringIO()  # without bytes below it, by which `--csv -` is told that there is no output
    if sys.stderr is None:
        sys.stderr = io.StringIO()


if __name__ == "__main__":
    sys.exit(main())
