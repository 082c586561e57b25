"""What lies in the local cache of the Hub, which the client shares with every other program of the user."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

from leukaemia_zoo.errors import HubStorageError
from leukaemia_zoo.hub.addresses import HubFile, check_client, page


def cache_path(repo: str, revision: str, name: str) -> Path:
    """Where a file lies in the cache, or would lie; a file that is put there by hand is found."""
    check_client()
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = repo_folder_name(repo_id=repo, repo_type="model")
    return Path(constants.HF_HUB_CACHE) / folder / "snapshots" / revision / name


def place_of(file: HubFile) -> Path:
    """Where a pinned file lies in the cache, or would lie."""
    return cache_path(file.repo, file.revision, file.name)


def is_cached(file: HubFile) -> bool:
    """Whether there is such a file in the cache, sound or not."""
    path = place_of(file)
    try:
        return path.is_file()
    except OSError as error:
        raise HubStorageError(
            f"The cache of the Hub cannot be looked into for {path} ({error.strerror or error}): give yourself the "
            "right to read there, or name another folder with HF_HOME."
        ) from error


def find_cached(repo: str, name: str, revision: str) -> Path | None:
    """A file of the cache at a commit, or at what a tag or branch was when it was last asked for."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, name, revision=revision)
    return Path(found) if isinstance(found, str) else None


def by_hand(file: HubFile) -> str:
    """How to do without a connection."""
    return (
        f"get {file.describe()} from {page(file.repo, file.revision)} on a machine with a connection and put it at "
        f"{place_of(file)}, or name the file itself with load_model(..., weights=FILE)."
    )


def damage(path: Path, promised: str) -> str:
    """What is wrong with a small file of this id on the Hub; "" if nothing is, or if nobody knows the id."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise HubStorageError(
            f"{path} cannot be read ({error.strerror or error}): give yourself the right to read it, or name another "
            "folder with HF_HOME."
        ) from error
    blob = b"blob %d\0" % len(data) + data
    # Git knows a small file by the sha1 of its blob, and the Hub a large one by its sha256.
    found = {40: hashlib.sha1(blob, usedforsecurity=False), 64: hashlib.sha256(data)}.get(len(promised))
    if found is None or found.hexdigest() == promised:
        return ""
    return f"{path} is cut off or damaged: it has the id {found.hexdigest()}, not the promised {promised}"


def is_of_the_client(path: Path) -> bool:
    """Whether a file in the cache is one of the client's own, a link to bytes that it keeps under their id."""
    return path.is_symlink() and path.resolve().parent == (path.parents[2] / "blobs").resolve()


def make_way(path: Path) -> None:
    """Remove what somebody put there by hand, which the client would not replace; it replaces its own links."""
    if not is_of_the_client(path):
        with contextlib.suppress(OSError):
            path.unlink()


def remove(path: Path) -> None:
    """Remove a file from the cache; what a link of somebody's leads to is not ours."""
    for wrong in [path.resolve(), path] if is_of_the_client(path) else [path]:
        with contextlib.suppress(OSError):
            wrong.unlink()
