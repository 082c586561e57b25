"""Keep what a release says in many places the same: RELEASING.md tells when to call what.

python tools/release.py address OWNER/NAME         # where the repository lies, in every file that names it
python tools/release.py version 0.2.0              # version and date, in the package, CITATION.cff and CHANGELOG.md
python tools/release.py recipe                     # the dependencies of conda/recipe.yaml, from pyproject.toml
python tools/release.py source dist/*.tar.gz       # print the source that a conda-forge feedstock needs
python tools/release.py check v0.2.0 OWNER/NAME    # whether all of it agrees (exit status 1 if not)
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]

PLACES = (
    *("pyproject.toml", "SECURITY.md", "conda/recipe.yaml", ".github/ISSUE_TEMPLATE/config.yml", "CITATION.cff"),
    *(f"examples/notebooks/{name}.ipynb" for name in ("first_verdicts", "compare_models", "finetune_your_cells")),
)
"""Files that name the repository."""

NOWHERE = "OWNER/leukaemia-zoo"
"""What stands there while no public repository exists."""

CONDA_NAMES = {"matplotlib": "matplotlib-base"}
"""What conda-forge calls a package otherwise."""


def address(root: Path = ROOT) -> str:
    """Return OWNER/NAME of the repository, as pyproject.toml has it."""
    return str(_project(root)["urls"]["Repository"]).removeprefix("https://github.com/")


def set_address(new: str, root: Path = ROOT) -> None:
    """Replace the address of the repository in every place."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]*/[A-Za-z0-9._-]+", new):
        raise SystemExit(f"'{new}' is no address of a repository on GitHub: write OWNER/NAME.")
    old = address(root)
    for place in PLACES:
        _rewrite(root / place, old, new)


def set_space(new: str, root: Path = ROOT) -> None:
    """Replace the address of the Space, which the site then links to."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", new):
        raise SystemExit(f"'{new}' is no address of a Space: write OWNER/NAME.")
    _rewrite(root / "pyproject.toml", str(_project(root)["urls"]["Space"]), f"https://huggingface.co/spaces/{new}")


def set_version(new: str, date: datetime.date, root: Path = ROOT) -> None:
    """Set version and date, and close the *Unreleased* part of the change log."""
    if not re.fullmatch(r"\d+\.\d+\.\d+", new):
        raise SystemExit(f"'{new}' is no version: write three numbers, such as 0.2.0.")
    changes = root / "CHANGELOG.md"
    if f"## [{new}]" in changes.read_text(encoding="utf-8"):
        raise SystemExit(f"CHANGELOG.md has a part for {new} already.")
    _rewrite(changes, "## [Unreleased]\n", f"## [Unreleased]\n\n## [{new}] - {date}\n")
    _rewrite(root / "src/leukaemia_zoo/_version.py", f'"{version(root)}"', f'"{new}"')
    citation = root / "CITATION.cff"
    text = re.sub(r"^version: .*$", f"version: {new}", citation.read_text(encoding="utf-8"), flags=re.MULTILINE)
    text = re.sub(r"^date-released: .*$", f"date-released: {date}", text, flags=re.MULTILINE)
    citation.write_text(text, encoding="utf-8")
    recipe = root / "conda/recipe.yaml"
    text = re.sub(r'^  version: ".*"$', f'  version: "{new}"', recipe.read_text(encoding="utf-8"), flags=re.MULTILINE)
    recipe.write_text(text, encoding="utf-8")


def version(root: Path = ROOT) -> str:
    """Return the version of the package."""
    text = (root / "src/leukaemia_zoo/_version.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    assert found is not None
    return found[1]


def conda_requirements(root: Path = ROOT) -> list[str]:
    """Return what the package needs, by the names and in the form of conda-forge; markers are for pip alone."""
    lines = [str(line).partition(";")[0].strip() for line in _project(root)["dependencies"]]
    found = [re.fullmatch(r"([A-Za-z0-9._-]+)(.*)", line) for line in lines]
    return sorted(f"{CONDA_NAMES.get(name[1], name[1])} {name[2]}".strip() for name in found if name)


def set_requirements(root: Path = ROOT) -> None:
    """Write the dependencies into the recipe, between its marks."""
    recipe = root / "conda/recipe.yaml"
    text = recipe.read_text(encoding="utf-8")
    lines = "".join(f"    - {line}\n" for line in conda_requirements(root))
    begin, end = "    # From pyproject.toml, by tools/release.py:\n", "    # End.\n"
    before, _, rest = text.partition(begin)
    recipe.write_text(f"{before}{begin}{lines}{end}{rest.partition(end)[2]}", encoding="utf-8")


def source(archive: Path) -> str:
    """Return the source of a feedstock's recipe, for a source archive that is on PyPI."""
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    url = "https://pypi.org/packages/source/l/leukaemia-zoo/leukaemia_zoo-${{ version }}.tar.gz"
    return f"source:\n  url: {url}\n  sha256: {digest}"


def disagreements(tag: str, repository: str, root: Path = ROOT) -> Iterator[str]:
    """Yield what would make a release wrong, a sentence each."""
    own = version(root)
    if tag != f"v{own}":
        yield f"The tag is {tag}, but the package is {own}: tag v{own}, or call tools/release.py version."
    if not re.search(rf"^## \[{re.escape(own)}\] - \d{{4}}-\d\d-\d\d$", _text(root, "CHANGELOG.md"), re.MULTILINE):
        yield f"CHANGELOG.md has no part for {own} with a date."
    if not re.search(rf"^version: {re.escape(own)}$", _text(root, "CITATION.cff"), re.MULTILINE):
        yield f"CITATION.cff does not name version {own}."
    if f'  version: "{own}"\n' not in _text(root, "conda/recipe.yaml"):
        yield f"conda/recipe.yaml does not name version {own}."
    if any(f"    - {line}\n" not in _text(root, "conda/recipe.yaml") for line in conda_requirements(root)):
        yield "conda/recipe.yaml has other dependencies than pyproject.toml: call tools/release.py recipe."
    for place in PLACES:
        text = _text(root, place)
        if f"github.com/{repository}" not in text and f"/github/{repository}/" not in text:
            yield f"{place} does not name {repository}: call tools/release.py address {repository}."


def _project(root: Path) -> dict[str, dict[str, str]]:
    return tomllib.loads(_text(root, "pyproject.toml"))["project"]


def _text(root: Path, place: str) -> str:
    return (root / place).read_text(encoding="utf-8")


def _rewrite(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    if old not in text:
        raise SystemExit(f"{file.name} does not hold '{old.strip()}'.")
    file.write_text(text.replace(old, new), encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Do one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ways = parser.add_subparsers(dest="way", required=True)
    ways.add_parser("address").add_argument("repository")
    ways.add_parser("space").add_argument("repository")
    ways.add_parser("version").add_argument("version")
    ways.add_parser("recipe")
    ways.add_parser("source").add_argument("archive", type=Path)
    check = ways.add_parser("check")
    check.add_argument("tag")
    check.add_argument("repository")
    options = parser.parse_args(arguments)
    if options.way == "address":
        set_address(options.repository)
    elif options.way == "space":
        set_space(options.repository)
    elif options.way == "version":
        set_version(options.version, datetime.datetime.now(datetime.UTC).date())
    elif options.way == "recipe":
        set_requirements()
    elif options.way == "source":
        print(source(options.archive))
    else:
        found = list(disagreements(options.tag, options.repository))
        print("\n".join(found) or "Version, change log, citation, recipe and addresses agree.")
        return int(bool(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
