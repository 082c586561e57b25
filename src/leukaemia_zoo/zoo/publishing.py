"""To the Hugging Face Hub: a model of somebody's own, or every weight of the zoo.

A repository gets ``config.json``, ``model.safetensors`` and ``README.md`` in one commit, and nothing else of their
folder, where training leaves file names of cells and subjects. Then the Hub is asked what it has stored: the registry
pins a weight by that commit only if size and sha256 are the local ones.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from leukaemia_zoo._names import renamed
from leukaemia_zoo.common.files import check_integrity, package_folder, replacing, write_json
from leukaemia_zoo.common.reading import read_json
from leukaemia_zoo.common.text import Log, close_matches, silent
from leukaemia_zoo.errors import IntegrityError, UnknownNameError, WeightsError
from leukaemia_zoo.hub import addresses, transfers
from leukaemia_zoo.zoo import registry as zoo_registry
from leukaemia_zoo.zoo.cards import CARD_FILE, LIBRARY, checked_about, model_card, refuse_to_replace_card
from leukaemia_zoo.zoo.registry import WeightSpec, checkout_file, packaged_file
from leukaemia_zoo.zoo.sources import CONFIG_FILE, WEIGHTS_FILE, find, is_in_zoo, read_saved, read_whole


@dataclasses.dataclass(frozen=True)
class Published:
    """A weight that is on the Hub, compared with the local file.

    Attributes:
        name: Of the weight.
        repo: Repository, ``org/name``.
        revision: Commit, 40 hexadecimal digits.
        url: Where a person can look at it.
        sha256: Of ``model.safetensors``.
        size: Of the same file, in bytes.
    """

    name: str
    repo: str
    revision: str
    url: str
    sha256: str
    size: int


@dataclasses.dataclass(frozen=True)
class _Upload:
    """One weight that is ready to be sent: its file is checked, and the bytes that go beside it are made."""

    spec: WeightSpec
    file: Path
    repo: str
    config: bytes
    card: bytes


@renamed(folder="out")
def save_pretrained(model: Any, out: str | os.PathLike[str], *, half: bool = False, **about: Any) -> WeightSpec:
    """Save a network with its model card: the three files of a repository on the Hub.

    Args:
        model: A network from `load_model`, trained further or not, with output ``"probabilities"``; or the name of one,
            a folder or ``hf://`` address.
        out: Folder for ``config.json``, ``model.safetensors`` and ``README.md``; made where it is missing.
        half: Store kernels as float16.
        **about: What to tell about it, as in `WeightSpec`: name, licence, citation, data, training, metrics,
            intended_use.

    Returns:
        The row that was written as ``config.json``.

    Raises:
        ArchitectureError: If the model does not come from this zoo, or has embeddings as output.
        UnknownNameError: If ``about`` has a key that cannot be told.
        WeightsError: If a weight is not finite, what is told has not its form, or the folder cannot be written to or
            has a README.md that is no model card of this package. Nothing is written then.

    Example:
        >>> import tempfile, leukaemia_zoo as lz
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     spec = lz.zoo.save_pretrained(lz.load_model("cnn"), folder, licence="Apache-2.0")
        ...     sorted(path.name for path in Path(folder).iterdir())
        ['README.md', 'config.json', 'model.safetensors']
    """
    folder = Path(out)
    refuse_to_replace_card(folder)
    # First elsewhere, then beside, then renamed: a mistake or a full disk must not leave some of the three files.
    with _saved(model, half, about) as (spec, made):
        (made / CARD_FILE).write_bytes(model_card(spec).encode())
        try:
            with contextlib.ExitStack() as stack:
                for name in (CONFIG_FILE, CARD_FILE, WEIGHTS_FILE):
                    shutil.copyfile(made / name, stack.enter_context(replacing(folder / name)))
        except OSError as error:
            raise WeightsError(
                f"The model cannot be saved in {folder} ({error.strerror or error}): name another folder, or make room."
            ) from error
    return spec


def push_to_hub(
    model: Any,
    repo: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    message: str | None = None,
    half: bool = False,
    **about: Any,
) -> Published:
    """Put a model into a repository on the Hugging Face Hub, from which ``load_model("hf://org/name")`` takes it.

    Args:
        model: A network from `load_model`, trained further or not; the folder that `save_model`,
            `save_pretrained` or training left, of which only the model goes up; a name in the zoo or
            ``hf://org/name@revision``.
        repo: ``org/name``; made where it is missing.
        private: Whether a new repository is private; None for the account's own setting.
        token: With the right to write; None for HF_TOKEN or the stored login.
        message: Of the commit.
        half: Store kernels as float16; not of a folder, where the model is stored already.
        **about: What to tell about it, as in `save_pretrained`; of a folder it replaces what the folder tells.

    Returns:
        Repository, commit, page, and the size and sha256 that the Hub was found to have.

    Raises:
        UnknownNameError: If ``repo`` is no name of a repository, or ``about`` has a key that cannot be told.
        ArchitectureError: If the model does not come from this zoo, or has embeddings as output.
        WeightsError: If the folder holds no model, or what is told has not its form.
        IntegrityError: If the file in the folder is not the one that was saved, or the Hub has another one.
        HubError: If the Hub cannot be reached or refuses; its subclasses say why.

    Example:
        >>> import leukaemia_zoo as lz
        >>> lz.zoo.push_to_hub("runs/cnn", "lab/my-cells", private=True).revision  # doctest: +SKIP
        '1f0c...'
    """
    repo = checked_repo(repo)
    if not isinstance(model, str | os.PathLike):
        with _saved(model, half, about) as (spec, made):
            return _send(_prepared(spec, made / WEIGHTS_FILE, repo), message, private, token)
    if half:
        raise WeightsError(
            f"The model {os.fspath(model)} is stored already: load it with load_model and push that to "
            "store its kernels as float16, or leave out half."
        )
    name = os.fspath(model)
    if is_in_zoo(name) or name.startswith(addresses.PREFIX):
        found = find(name)
        spec, file = found.spec, found.file
    else:
        spec, file = read_whole(name)
    if about:
        spec = WeightSpec.from_dict({**spec.to_dict(), **checked_about(about)})
    return _send(_prepared(spec, file, repo), message, private, token)


@renamed(report="log")
def publish(
    namespace: str,
    *,
    names: Sequence[str] | None = None,
    weights: Path | str | None = None,
    registry: Path | str | None = None,
    private: bool | None = None,
    token: str | None = None,
    dry_run: bool = False,
    log: Log | None = None,
) -> list[Published]:
    """Put the weights of the zoo on the Hub, one repository each, and pin them in the registry.

    All files are checked before the first one is sent. Each row gets its repository and commit as soon as the Hub has
    the file, so that an interrupted run can be run again: what is there already makes no new commit.

    Args:
        namespace: User or organisation: the repositories are ``namespace/<weight name>``.
        names: Weights; None for every row.
        weights: Folder of the weights that are not in the package, as ``<weight name>.safetensors``; None for
            ``weights`` in the working directory, where there is one.
        registry: Registry to read and to write back to; None for the package's own.
        private: Whether new repositories are private; None for the account's own setting.
        token: With the right to write; None for HF_TOKEN or the stored login.
        dry_run: Check, and tell the log what would happen, but touch neither the network nor a file.
        log: Called with each line about what happens, such as ``print``; None for none.

    Returns:
        One entry a weight, in the order of the registry; none after a dry run.

    Raises:
        UnknownNameError: If ``namespace`` is none, or there is no weight of a name.
        WeightsError: If the registry cannot be read or written, or a weight's file is missing.
        IntegrityError: If a file is not the one that its row promises, or the Hub has another one.
        HubError: If the Hub cannot be reached or refuses; its subclasses say why.

    Example:
        >>> import leukaemia_zoo as lz
        >>> lz.zoo.publish("lab", names=["cnn.cnmc"], dry_run=True)
        []
    """
    tell = log or silent
    table = _packaged_table() if registry is None else Path(registry).resolve()
    uploads = _uploads(table, _folder_of_large(weights), namespace, names)
    if dry_run:
        for upload in uploads:
            for line in _planned(upload, table):
                tell(line)
        tell("Nothing was sent or written.")
        return []
    if not (os.access(table, os.W_OK) and os.access(table.parent, os.W_OK)):
        raise WeightsError(f"{table} cannot be written to, so that nothing was published: name another with registry.")
    done = []
    for upload in uploads:
        published = _send(upload, None, private, token)
        what = "pinned in" if _pin(table, published) else "as pinned in"
        tell(f"{published.name}: {published.size:,} bytes, sha256 verified, {published.url}, {what} {table.name}")
        done.append(published)
    return done


# ---------------------------------------------------------------------------------------------------------------------
# One model


@contextlib.contextmanager
def _saved(model: Any, half: bool, about: Mapping[str, Any]) -> Iterator[tuple[WeightSpec, Path]]:
    """A network in a temporary folder, and its row as a reader of that folder finds it."""
    from leukaemia_zoo.zoo.loading import as_model, config_of, save_model  # publishing a file needs no Keras

    about = checked_about(about)
    model = as_model(model)
    row = {"file": WEIGHTS_FILE, "config": config_of(model).to_dict(), "size": 0, "parameters": 0}
    row |= {"sha256": "0" * 64, **dict.fromkeys(("name", "licence", "citation"), "none")}
    WeightSpec.from_dict(row | about)  # before the work is done: raises what is wrong with what is told
    with tempfile.TemporaryDirectory(prefix="leukaemia-zoo-") as made:
        save_model(model, made, half=half, **about)
        spec, _ = read_saved(made)
        yield spec, Path(made)


def _prepared(spec: WeightSpec, file: Path, repo: str) -> _Upload:
    # No commit may stand in the files, neither the new one, which is not known yet, nor that of the row: with one, a
    # second upload would differ from the first.
    config = dataclasses.replace(spec.config, origin=None)
    sent = dataclasses.replace(spec, config=config, file=WEIGHTS_FILE, repo=None, revision=None)
    try:
        text = json.dumps(sent.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
    except ValueError:
        raise WeightsError(
            f"The description of '{spec.name}' holds a number that is not finite, which JSON does not know: mend it."
        ) from None
    return _Upload(spec, file, repo, f"{text}\n".encode(), model_card(sent, repo).encode())


def _send(upload: _Upload, message: str | None, private: bool | None, token: str | None) -> Published:
    spec, repo = upload.spec, upload.repo
    files: dict[str, Path | bytes] = {
        CONFIG_FILE: upload.config,
        WEIGHTS_FILE: upload.file,
        CARD_FILE: upload.card,
    }
    message = message or f"Upload {spec.name} with {LIBRARY}"
    revision = transfers.upload(repo, files, message=message, private=private, token=token)
    _compare(spec, repo, revision, token)
    return Published(spec.name, repo, revision, addresses.page(repo, revision), spec.sha256, spec.size)


def _compare(spec: WeightSpec, repo: str, revision: str, token: str | None) -> None:
    """Raise unless the Hub has the file that was sent."""
    found = transfers.listed(repo, revision, [WEIGHTS_FILE], token=token).get(WEIGHTS_FILE)
    where = f"{WEIGHTS_FILE} of {repo} at {revision[:12]}"
    if found is not None and found.size == spec.size and found.sha256 is None:
        raise IntegrityError(
            f"The Hub keeps {where} as an ordinary file and tells no sha256 of it to compare: add the line "
            "`*.safetensors filter=lfs diff=lfs merge=lfs -text` to .gitattributes there, delete the file and publish "
            "it again."
        )
    if found is None or (found.size, found.sha256) != (spec.size, spec.sha256):
        has = "is missing" if found is None else f"has {found.size:,} bytes and the sha256 {found.sha256}"
        raise IntegrityError(
            f"{where} {has} on the Hub, not the {spec.size:,} bytes with the sha256 {spec.sha256} that were sent: "
            "publish it again, and do not use that commit."
        )


def checked_repo(repo: str) -> str:
    """The name of a repository, if it is one."""
    if not addresses.is_repo(repo):
        raise UnknownNameError(
            f"{repo!r} is no repository on the Hub: write org/name, with letters, digits and single '-', '_' and '.', "
            "such as lab/my-cells."
        )
    return repo


# ---------------------------------------------------------------------------------------------------------------------
# The whole zoo


def _packaged_table() -> Path:
    return package_folder() / "weights.json"


def _folder_of_large(folder: Path | str | None) -> Path | None:
    if folder is None:
        return Path("weights") if Path("weights").is_dir() else None
    if not Path(folder).is_dir():
        raise WeightsError(f"There is no folder {folder}: name the one with the weights that are not in the package.")
    return Path(folder)


def _uploads(table: Path, large: Path | None, namespace: str, names: Sequence[str] | None) -> list[_Upload]:
    """What is to be published, all of it checked."""
    if not addresses.is_repo(f"{namespace}/name"):
        raise UnknownNameError(
            f"{namespace!r} is no user or organisation on the Hub: write its name alone, such as lab, of letters, "
            "digits and single '-'."
        )
    specs = {spec.name: spec for spec in map(WeightSpec.from_dict, _rows(table))}
    asked = [names] if isinstance(names, str) else names
    for name in asked or ():
        if name not in specs:
            raise UnknownNameError(f"There is no weight '{name}' in {table}; {close_matches(name, specs)}")
    chosen = [spec for name, spec in specs.items() if asked is None or name in asked]
    if not chosen:
        raise WeightsError(f"There is no weight to publish in {table}: put one in with tools/add_weight.py.")
    found = []
    for spec in chosen:
        repo = checked_repo(f"{namespace}/{spec.name}")  # whereupon the name is a file name too
        places = [packaged_file(spec), *([large / spec.file] if large else []), checkout_file(spec)]
        file = next((place for place in places if place.is_file()), None)
        if file is None:
            raise WeightsError(
                f"The file of '{spec.name}' is not there ({' or '.join(map(str, places))}), so that nothing was "
                "published: say with weights which folder it lies in, or with names which others to publish."
            )
        check_integrity(file, spec.sha256, spec.size, mend=f"put the file there that {table.name} promises")
        found.append(_prepared(spec, file, repo))
    return found


def _rows(table: Path) -> list[dict[str, Any]]:
    try:
        rows = read_json(table)
    except (OSError, ValueError) as error:
        raise WeightsError(f"The registry {table} cannot be read ({error}): name a weights.json.") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise WeightsError(f"{table} is no registry, a list with an object a weight: name a weights.json.")
    return rows


def _pin(table: Path, published: Published) -> bool:
    """Write where a weight is into its row; returns whether that was new."""
    pinned = {key: getattr(published, key) for key in ("repo", "revision", "size", "sha256")}
    old = _rows(table)  # read again: it may have been edited during the upload
    new = [row | pinned if row.get("name") == published.name else row for row in old]
    if new == old:
        return False
    try:
        write_json(table, new)
    except OSError as error:
        raise WeightsError(
            f"'{published.name}' is on the Hub as {published.repo} at {published.revision}, but {table} cannot be "
            f"written ({error.strerror or error}): make it writable and publish again, which makes no new commit."
        ) from error
    if table == _packaged_table():
        zoo_registry.weights.cache_clear()
    return True


def _planned(upload: _Upload, table: Path) -> Iterator[str]:
    """What publishing would do with one weight."""
    spec = upload.spec
    yield spec.name
    yield f"  file      {upload.file}, {spec.size:,} bytes, sha256 {spec.sha256}"
    yield f"  to        {upload.repo}: {CONFIG_FILE}, {WEIGHTS_FILE}, {CARD_FILE}"
    if spec.repo == upload.repo:
        yield f"  registry  {table.name}: stays {spec.repo} at {spec.revision}, unless a file there is another by now"
    else:
        was = f"{spec.repo} at {spec.revision}" if spec.repo else "not published"
        yield f"  registry  {table.name}: {was}, becomes {upload.repo} at the new commit"
