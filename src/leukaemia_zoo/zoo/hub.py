"""The Hugging Face Hub: the only module that talks to it, and only through huggingface_hub.

Nothing else uses the network but `initial_weights`, which fetches ImageNet's weights through Keras. HF_HOME,
HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE, proxies, time-outs, the cache and the progress bars are therefore those that
users of the Hub know. What goes wrong comes out as one of our own errors, in one sentence with the mend. A file counts
as fetched when its size and sha256 are the promised ones: neither the cache nor the Hub is believed. A description, of
which nobody promised a sha256, must be the file that its git id stands for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from leukaemia_zoo.common.files import check_integrity
from leukaemia_zoo.common.text import reason, shown
from leukaemia_zoo.errors import (
    HubAccessError,
    HubError,
    HubNotFoundError,
    HubOfflineError,
    HubStorageError,
    HubUnavailableError,
    IntegrityError,
    UnknownNameError,
    WeightsError,
)

PREFIX = "hf://"
"""How a repository on the Hub is written where a name or a folder could stand too."""

LARGEST_CONFIG = 1_000_000
"""Bytes: the description of a model is some kilobytes."""

LARGEST_WEIGHTS = 1_000_000_000
"""Bytes: the largest architecture has 100 MB in float32; whoever claims more wants to fill the disk."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_ANEW = "it is fetched anew"
_SLOW_DOWN_OR_FAULT = (408, 429, 500, 502, 503, 504)

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class HubFile:
    """One file at one commit, and what it must be.

    Attributes:
        repo: ``org/name``.
        revision: Commit, 40 hexadecimal digits.
        name: Of the file.
        sha256: Of its bytes.
        size: In bytes.
    """

    repo: str
    revision: str
    name: str
    sha256: str
    size: int

    def describe(self) -> str:
        """For a person who has to find it."""
        return f"{self.name} of {self.repo} at {self.revision[:12]} ({self.size:,} bytes, sha256 {self.sha256})"


@dataclasses.dataclass(frozen=True)
class Remote:
    """What the Hub tells of a file.

    Attributes:
        size: In bytes.
        sha256: Of large files; None of those that lie in the repository itself.
    """

    size: int
    sha256: str | None


def parse(uri: str) -> tuple[str, str | None]:
    """Repository and revision of ``hf://org/name@revision``; without a revision None.

    Raises:
        UnknownNameError: If it is not of this form.
    """
    match = re.fullmatch(rf"{PREFIX}([\w.-]+/[\w.-]+?)(?:@(\w[\w./-]*))?/?", uri)
    if match is None or ".." in uri or not is_repo(match[1]):
        raise UnknownNameError(
            f"{shown(uri)} is no repository on the Hub: write hf://org/name, or hf://org/name@revision with a commit, "
            "tag or branch."
        )
    return match[1], match[2]


def is_repo(repo: Any) -> bool:
    """Whether a name is one that a repository on the Hub can have, ``org/name``."""
    _check_client()
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError:
        return False
    return isinstance(repo, str) and "/" in repo  # the client's own rule lets names without an owner pass


def page(repo: str, revision: str | None = None) -> str:
    """Where a person can look at a repository."""
    _check_client()
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{repo}" + (f"/tree/{revision}" if revision else "")


def cache_path(file: HubFile) -> Path:
    """Where a file lies in the local cache, or would lie; a file that is put there by hand is found."""
    _check_client()
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = repo_folder_name(repo_id=file.repo, repo_type="model")
    return Path(constants.HF_HUB_CACHE) / folder / "snapshots" / file.revision / file.name


def is_cached(file: HubFile) -> bool:
    """Whether there is such a file in the local cache, sound or not.

    Raises:
        HubStorageError: If the cache may not be looked into.
    """
    path = cache_path(file)
    try:
        return path.is_file()
    except OSError as error:
        raise HubStorageError(
            f"The cache of the Hub cannot be looked into for {path} ({error.strerror or error}): give yourself the "
            "right to read there, or name another folder with HF_HOME."
        ) from error


def fetch(file: HubFile) -> Path:
    """A file from the local cache, else from the Hub, with the promised size and sha256.

    A file that is wrong, in the cache or as it came, is fetched once more.

    Returns:
        Its path in the cache.

    Raises:
        HubError: If it cannot be had; the subclass says why.
        IntegrityError: If the Hub, too, gives another file than the promised one, or a damaged one cannot be replaced.
    """
    path = cache_path(file)
    try:
        if not is_cached(file):
            path = _download(file)
    except HubUnavailableError as error:
        # The client goes on by itself where a transfer breaks off; a reset connection or a fault of the server ends it.
        if not error.during_transfer:
            raise
        _log.warning("%s Trying once more.", error)
    else:
        mend = f"the network is switched off (HF_HUB_OFFLINE), so {_by_hand(file)}" if _offline() else _ANEW
        try:
            check_integrity(path, file.sha256, file.size, mend=mend.rstrip("."))
            return path
        except IntegrityError as error:
            if _offline():
                raise
            _log.warning("%s", error)
    path = _download(file, again=True)
    mend = (
        f"it was fetched anew, so what lies at {page(file.repo, file.revision)}, or what a proxy on the way gives out, "
        "is not what was published: do not use it, and tell the owner of the repository"
    )
    try:
        check_integrity(path, file.sha256, file.size, mend=mend)
    except IntegrityError:
        _remove(path)  # whoever else reads this cache must not take it for the weight
        raise
    return path


def fetch_config(repo: str, revision: str | None, name: str) -> tuple[Path, str]:
    """The description of a model in somebody's repository, and the commit that was taken.

    Args:
        repo: ``org/name``.
        revision: Commit, tag or branch; None for the main branch.
        name: Of the file.

    Returns:
        Its path in the cache, and the commit.

    Raises:
        HubError: If it cannot be had.
        IntegrityError: If it is damaged, in the cache or as it came, and cannot be had whole.
        WeightsError: If it is too large to be a description.
    """
    revision = revision or "main"
    path = _cached(repo, name, revision)
    if path is None or not _COMMIT.fullmatch(revision):
        try:
            path = _download_small(repo, revision, name)
        except HubUnavailableError as error:
            if path is None:
                raise
            _log.warning("%s Taking %s@%s from the cache.", error, repo, path.parent.name[:12])
    commit = path.parent.name
    if damage := _damage(path, repo):
        if _offline():
            raise IntegrityError(f"{damage}; the network is switched off (HF_HUB_OFFLINE): switch it on, and {_ANEW}.")
        _log.warning("%s; %s.", damage, _ANEW)
        path = _download_small(repo, commit, name, again=True)
        if damage := _damage(path, repo):
            _remove(path)
            raise IntegrityError(
                f"{damage}; it was fetched anew, so what the Hub or a proxy on the way gives out is damaged: do not "
                f"use it, compare it with {page(repo, commit)}, and try it without the proxy or later."
            )
    if path.stat().st_size > LARGEST_CONFIG:
        raise WeightsError(f"{name} of {repo} has {path.stat().st_size:,} bytes: that is no description of a model.")
    return path, commit


def upload(
    repo: str,
    files: Mapping[str, Path | bytes],
    *,
    message: str,
    private: bool | None = None,
    token: str | None = None,
) -> str:
    """Put files into a repository, in one commit; the repository is made where it is missing.

    Args:
        repo: ``org/name``.
        files: Local path, or the bytes themselves, by the name in the repository.
        message: Of the commit.
        private: Whether a new repository is private; None for the account's own setting.
        token: With the right to write; None for HF_TOKEN or the stored login.

    Returns:
        The commit; the one there was, if no file changes.

    Raises:
        HubError: If the Hub cannot be reached or refuses.
    """
    _check_client()
    from huggingface_hub import CommitOperationAdd, HfApi

    _refuse_offline(f"{repo} cannot be written to")
    with _told(repo, writing=True):
        api = HfApi(token=token)
        api.create_repo(repo, private=private, exist_ok=True)
        operations = [CommitOperationAdd(name, content) for name, content in files.items()]
        return api.create_commit(repo, operations, commit_message=message).oid


def listed(repo: str, revision: str, names: Sequence[str], *, token: str | None = None) -> dict[str, Remote]:
    """What the Hub says of files at a commit; those that it does not have are missing.

    Raises:
        HubError: If the Hub cannot be reached or refuses.
    """
    _check_client()
    from huggingface_hub import HfApi

    _refuse_offline(f"{repo} cannot be looked at")
    with _told(repo):
        found = HfApi(token=token).get_paths_info(repo, list(names), revision=revision)
        return {row.path: Remote(row.size, row.lfs.sha256 if row.lfs else None) for row in found}


# ---------------------------------------------------------------------------------------------------------------------
# Downloads


def _download(file: HubFile, again: bool = False) -> Path:
    from huggingface_hub import constants, hf_hub_download

    if _offline():
        raise HubOfflineError(
            f"{file.describe()} is not in the cache and the network is switched off (HF_HUB_OFFLINE): {_by_hand(file)}"
        )
    with _told(file.repo, file.revision, file.name, mend=f"; or {_by_hand(file)}"):
        offered = _ask(file.repo, file.revision, file.name)
        another = re.fullmatch(r"[0-9a-f]{64}", offered.etag or "") and offered.etag != file.sha256
        if another or offered.size not in (None, file.size):
            size = "a file" if offered.size is None else f"{offered.size:,} bytes"
            raise IntegrityError(
                f"The Hub offers {size} with the sha256 {reason(offered.etag)} as {file.name} of {file.repo} at "
                f"{file.revision[:12]}, not the {file.size:,} bytes with the sha256 {file.sha256} that are promised: "
                "nothing was fetched; tell the owner of the repository, and do not use it."
            )
    if again:
        _make_way(cache_path(file))
    with _told(file.repo, file.revision, file.name, mend=f"; or {_by_hand(file)}", transfer=True):
        found = hf_hub_download(
            file.repo,
            file.name,
            revision=file.revision,
            force_download=again,
            etag_timeout=constants.HF_HUB_ETAG_TIMEOUT,
        )
    return Path(found)


def _download_small(repo: str, revision: str, name: str, again: bool = False) -> Path:
    from huggingface_hub import constants, hf_hub_download

    if _offline():
        path = _cached(repo, name, revision)
        if path is None:
            raise HubOfflineError(
                f"{name} of {repo} at {revision} is not in the cache and the network is switched off (HF_HUB_OFFLINE): "
                "switch it on, or get the model with `leukaemia-zoo download --to DIR` on a machine that has one."
            )
        return path
    with _told(repo, revision, name):
        offered = _ask(repo, revision, name)
        if offered.size is not None and offered.size > LARGEST_CONFIG:
            raise WeightsError(f"{name} of {repo} has {offered.size:,} bytes: that is no description of a model.")
        if again:
            _make_way(cache_path(HubFile(repo, revision, name, "", 0)))
        found = hf_hub_download(
            repo, name, revision=revision, force_download=again, etag_timeout=constants.HF_HUB_ETAG_TIMEOUT
        )
    return Path(found)


def _damage(path: Path, repo: str) -> str:
    """What is wrong with a small file: nothing if it is the one that its git id stands for, or if nobody can say."""
    promised = path.resolve().name if _is_of_the_client(path) else _git_id(repo, path.parent.name, path.name)
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


def _git_id(repo: str, commit: str, name: str) -> str:
    """By what the Hub knows a file; "" if it cannot be asked."""
    try:
        with _told(repo, commit, name):
            return "" if _offline() else str(_ask(repo, commit, name).etag or "")
    except HubError:
        return ""


def _is_of_the_client(path: Path) -> bool:
    """Whether a file in the cache is one of the client's own, a link to bytes that it keeps under their id."""
    return path.is_symlink() and path.resolve().parent == (path.parents[2] / "blobs").resolve()


def _make_way(path: Path) -> None:
    """The client replaces what its own links mean, but no file and no other link that somebody put there by hand."""
    if not _is_of_the_client(path):
        with contextlib.suppress(OSError):
            path.unlink()


def _remove(path: Path) -> None:
    """Remove a file from the cache; what a link of somebody's leads to is not ours."""
    for wrong in [path.resolve(), path] if _is_of_the_client(path) else [path]:
        with contextlib.suppress(OSError):
            wrong.unlink()


def _ask(repo: str, revision: str, name: str) -> Any:
    """What the Hub says of a file before it is fetched: a failed download would not say why it failed."""
    # No connection at all is told at once. A server that is slow, busy or at fault is asked again with growing pauses,
    # as long as the client does, which honours Retry-After.
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    url = hf_hub_url(repo, name, revision=revision)
    try:
        return get_hf_file_metadata(url)
    except HfHubHTTPError as error:
        if error.response.status_code not in _SLOW_DOWN_OR_FAULT:
            raise
    except HTTPError as error:
        if "Connect" in type(error).__name__:
            raise
    return get_hf_file_metadata(url, retry_on_errors=True)


def _check_client() -> None:
    """Import the client: it reads the environment then, and fails on what makes no sense there."""
    try:
        from huggingface_hub import constants, file_download  # noqa: F401
    except ValueError as error:
        raise HubError(
            f"The client of the Hub does not start ({reason(error)}): check HF_ENDPOINT and the other variables of the "
            "environment that begin with HF_."
        ) from None


def _cached(repo: str, name: str, revision: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, name, revision=revision)
    return Path(found) if isinstance(found, str) else None


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _refuse_offline(what: str) -> None:
    if _offline():
        raise HubOfflineError(f"{what}: the network is switched off; unset HF_HUB_OFFLINE.")


def _by_hand(file: HubFile) -> str:
    return (
        f"get {file.describe()} from {page(file.repo, file.revision)} on a machine with a connection and put it at "
        f"{cache_path(file)}, or name the file itself with load_model(..., weights=FILE)."
    )


# ---------------------------------------------------------------------------------------------------------------------
# Errors


@contextlib.contextmanager
def _told(
    repo: str,
    revision: str = "",
    name: str = "",
    *,
    mend: str = ".",
    writing: bool = False,
    transfer: bool = False,
) -> Iterator[None]:
    """Turn what huggingface_hub, its HTTP client and the file system raise into errors of ours."""
    from huggingface_hub.errors import HFValidationError

    try:
        yield
    except WeightsError:
        raise
    except HFValidationError as error:
        raise UnknownNameError(f"'{repo}' is no name of a repository on the Hub ({reason(error)}).") from None
    except Exception as error:  # the client lets much of what it uses pass, such as a KeyError over a strange answer
        raise _translated(error, repo, revision, name, mend, writing, transfer) from error


def _translated(
    error: BaseException, repo: str, revision: str, name: str, mend: str, writing: bool, transfer: bool
) -> HubError:
    from huggingface_hub import constants, errors

    chain = _chain(error)
    for cause in chain:
        if isinstance(cause, errors.HfHubHTTPError):
            return _refused(cause, repo, revision, name, mend, writing, transfer)
    # A file without its headers, or an answer without what the client looks for in it.
    if isinstance(error, KeyError | TypeError | AttributeError | json.JSONDecodeError) or any(
        isinstance(cause, errors.FileMetadataError) for cause in chain
    ):
        return HubUnavailableError(
            f"What answers at {constants.ENDPOINT} is not a Hub, or a proxy strips its headers: check HF_ENDPOINT and "
            f"the proxy settings{mend}"
        )
    for cause in chain:
        kind = type(cause).__name__
        if kind == "InvalidURL":  # which is no HTTPError
            return HubError(
                f"The address of the Hub or of a proxy is none ({reason(cause)}): check HF_ENDPOINT, HTTP_PROXY and "
                "HTTPS_PROXY."
            )
        if isinstance(cause, errors.HTTPError):  # no answer at all, or not the whole
            what = "cannot be reached"
            if "Timeout" in kind:
                what = "did not answer in time"
            elif transfer and "Connect" not in kind:
                what = f"broke off the transfer of {name} again and again"
            found = HubUnavailableError(
                f"{constants.ENDPOINT} {what} ({reason(cause) or kind}): check the network, the proxy and HF_ENDPOINT"
                + (", or raise HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT" if "time" in what else "")
                + mend
            )
            found.during_transfer = transfer
            return found
    for cause in chain:
        if isinstance(cause, OSError) and cause.errno is not None:
            return HubStorageError(
                f"{name or repo} cannot be written to {cause.filename or constants.HF_HUB_CACHE} "
                f"({cause.strerror or cause}): make room or give yourself the right to write there, or name another "
                "folder with HF_HOME."
            )
    found = HubUnavailableError(f"{name or repo} was not transferred ({reason(error)}): try it again{mend}")
    found.during_transfer = transfer
    return found


def _refused(error: Any, repo: str, revision: str, name: str, mend: str, writing: bool, transfer: bool) -> HubError:
    """For an answer of the Hub that is an error."""
    from huggingface_hub import constants, errors

    status = error.response.status_code
    if isinstance(error, errors.GatedRepoError):
        return HubAccessError(
            f"{repo} is gated ({status}): open {page(repo)}, accept its terms, and give the token of that account with "
            "HF_TOKEN or `hf auth login`."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return HubNotFoundError(f"{repo} has no revision {revision} (404): look at {page(repo)} for those there are.")
    if isinstance(error, errors.EntryNotFoundError):
        return HubNotFoundError(
            f"{repo} has no file {name} at {revision} (404): it is no model of this package, or not at this revision."
        )
    if status == 401 and "Invalid credentials" in (error.response.headers.get("X-Error-Message") or ""):
        return HubAccessError(
            "The Hub does not know this token (401): sign in with `hf auth login`, or unset HF_TOKEN."
        )
    if status in (401, 403) and writing:
        return HubAccessError(
            f"The Hub does not let you write to {repo} ({status}): give a token with the right to write with HF_TOKEN "
            "or `hf auth login`."
        )
    if status == 401:
        return HubAccessError(
            f"The Hub does not show {repo} to everybody (401): check the name, or if it is private give a token with "
            "HF_TOKEN or `hf auth login`."
        )
    if status == 403:
        return HubAccessError(
            f"The Hub does not let this token read {repo} (403): give one with that right with HF_TOKEN."
        )
    if status == 404:
        return HubNotFoundError(f"The Hub has no repository {repo} (404): check the name at {constants.ENDPOINT}.")
    if status == 429:
        pause = error.response.headers.get("Retry-After")
        # It is a number of seconds or a date.
        when = "later" if not pause else f"in {pause} s" if pause.isdigit() else f"after {reason(pause)}"
        return HubUnavailableError(
            f"The Hub has had too many requests from here (429): try again {when}, or give a token with HF_TOKEN{mend}"
        )
    if 400 <= status < 500 and status != 408:
        said = error.server_message or error.response.headers.get("X-Error-Message") or error.response.reason_phrase
        return HubError(
            f"The Hub refuses {' of '.join(filter(None, (name, repo)))} ({status}: {reason(said)}): mend that, or look "
            f"at {page(repo)}."
        )
    found = HubUnavailableError(
        f"The Hub failed ({status}) over {' of '.join(filter(None, (name, repo)))}: try again later{mend}"
    )
    found.during_transfer = transfer
    return found


def _chain(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found
