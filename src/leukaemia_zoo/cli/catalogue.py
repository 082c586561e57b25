"""What concerns the zoo itself: ``leukaemia-zoo list``, ``info``, ``download``, ``publish`` and ``verify``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from leukaemia_zoo.cli import options, output, paths
from leukaemia_zoo.common.text import printable
from leukaemia_zoo.errors import LeukaemiaZooError, UnknownNameError
from leukaemia_zoo.zoo import registry

_PLACES = {
    "package": "inside the package",
    "checkout": "in this checkout",
    "cache": "already in the cache",
    "hub": "downloaded",
}


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...", help="name in the zoo, or hf://org/name@revision")
@click.option("--all", "everything", is_flag=True, help="every weight of the zoo")
@click.option(
    "--to",
    type=paths.output_folder,
    metavar="DIR",
    help="write folders that load_model and --model take (default: fill the local cache)",
)
def download(names: tuple[str, ...], everything: bool, to: Path | None) -> int:
    """Get weights ahead of time, for a machine without a network or before it is needed."""
    from leukaemia_zoo.zoo import sources

    if bool(names) == everything:
        raise UnknownNameError("Name the weights to download, or say --all; `leukaemia-zoo list` has the names.")
    for name in names:
        sources.check_download(name)  # a mistyped name is told before anything is fetched
    failed = 0
    for name in registry.list_models(pretrained=True) if everything else names:
        try:
            weight = sources.download(name, to)
        except LeukaemiaZooError as error:
            # One that cannot be had must not keep back the others.
            failed += 1
            print(f"leukaemia-zoo: error: {printable(f'{name}: {error}')}", file=sys.stderr)
            continue
        place = _PLACES[weight.place]
        print(f"{weight.spec.name}: {place}, {weight.spec.size:,} bytes, sha256 verified: {weight.file}")
    return 2 if failed else 0


@click.command()
@click.argument("namespace", metavar="ORG", help="user or organisation: each weight becomes ORG/weight")
@click.argument("names", nargs=-1, metavar="[NAME]...", help="weights (default: all)")
@options.file("--weights", "folder of the weights that are not in the package (default: weights)", "DIR")
@options.file("--registry", "registry to read and to write back to (default: the package's)")
@options.private("make new repositories private")
@click.option("--dry-run", is_flag=True, help="show what would happen, without network or changes")
def publish(namespace: str, names: tuple[str, ...], **settings: Any) -> int:
    """Put the zoo's weights on the Hugging Face Hub and pin them."""
    from leukaemia_zoo.zoo import publishing

    publishing.publish(namespace, names=list(names) or None, log=print, **settings)
    return 0


@click.command()
@click.argument("folder", type=paths.path, metavar="DIR")
@click.option("--pixels", is_flag=True, help="find cells that lie there twice under other bytes too (some minutes)")
@click.option("--textures", is_flag=True, help="find cells that were photographed twice, too (some minutes)")
def verify(folder: Path, pixels: bool, textures: bool) -> int:
    """Compare a C-NMC download with the official list of sha256 hashes."""
    from leukaemia_zoo.cells import verification

    with output.progress_bar("files") as step:
        report = verification.verify(folder, progress=step, pixels=pixels, textures=textures)
    print(report)
    return 0 if report.ok else 1


@click.command("list")
@click.argument("pattern", default="*", help="shell-style pattern such as 'cnn*'")
@click.option("--pretrained", is_flag=True, help="only what has a pretrained weight")
@options.as_json()
def list_(pattern: str, pretrained: bool, as_json: bool) -> int:
    """List the architectures and their pretrained weights."""
    # One row a weight that the pattern means by its own or its architecture's name, one an architecture without any.
    architectures = set(registry.list_models(pattern))
    infos = [registry.model_info(name) for name in registry.list_models(pretrained=True)]
    trained = {info.architecture.name for info in infos}
    named = set(registry.list_models(pattern, pretrained=True))
    infos = [info for info in infos if info.name in named or info.architecture.name in architectures]
    if not pretrained:
        infos = sorted([*infos, *map(registry.model_info, architectures - trained)], key=lambda info: info.name)
    if not infos:
        what = "pretrained weight" if pretrained else "model"
        print(f"There is no {what} named '{pattern}'.", file=sys.stderr)
    if as_json:
        print(json.dumps([info.to_dict() for info in infos], indent=2))
    else:
        output.print_lines(output.models(infos))
    return 0


@click.command()
@click.argument("name")
@options.as_json()
def info(name: str, as_json: bool) -> int:
    """Tell what is known of a model: classes, data, figures, licence."""
    from leukaemia_zoo.zoo.sources import is_elsewhere

    if is_elsewhere(paths.home(name)):
        raise UnknownNameError(
            f"{name} is no weight of the zoo, which `info` tells of: read the README.md and config.json beside its "
            "weights."
        )
    model = registry.model_info(name)
    if as_json:
        print(json.dumps(model.to_dict(), indent=2))
    else:
        output.print_lines(output.about(model))
    return 0
