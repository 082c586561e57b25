"""Files from the Hub and to it.

A file counts as fetched when its size and sha256 are the promised ones: neither the cache nor the Hub is believed. A
description, of which nobody promised a sha256, must be the file that its git id stands for.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leukaemia_zoo.common.files import check_integrity
from leukaemia_zoo.common.text import reason
from leukaemia_zoo.errors import HubError, HubOfflineError, HubUnavailableError, IntegrityError, WeightsError
from leukaemia_zoo.hub import cache
from leukaemia_zoo.hub.addresses import HubFile, is_offline, page, refuse_offline
from leukaemia_zoo.hub.refusals import Request, in_our_words

LARGEST_CONFIG = 1_000_000
"""Bytes: the description of a model is some kilobytes."""

LARGEST_WEIGHTS = 1_000_000_000
"""Bytes: the largest architecture has 100 MB in float32; whoever claims more wants to fill the disk."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_ANEW = "it is fetched anew"
_SLOW_DOWN_OR_FAULT = (408, 429, 500, 502, 503, 504)

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Remote:
    """What the Hub tells of a file.

    Attributes:
        size: In bytes.
        sha256: Of large files; None of those that lie in the repository itself.
    """

    size: int
    sha256: str | None


def fetch(file: HubFile) -> Path:
    """A file from the cache, else from the Hub, with the promised size and sha256; a wrong one is fetched once more."""
    path = cache.place_of(file)
    try:
        if not cache.is_cached(file):
            path = _download(file)
    except HubUnavailableError as error:
        # The client goes on by itself where a transfer breaks off; a reset connection or a fault of the server ends it.
        if not error.during_transfer:
            raise
        _log.warning("%s Trying once more.", error)
    else:
        offline = is_offline()
        mend = f"the network is switched off (HF_HUB_OFFLINE), so {cache.by_hand(file)}" if offline else _ANEW
        try:
            check_integrity(path, file.sha256, file.size, mend=mend.rstrip("."))
            return path
        except IntegrityError as error:
            if offline:
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
        cache.remove(path)  # whoever else reads this cache must not take it for the weight
        raise
    return path


def fetch_config(repo: str, revision: str | None, name: str) -> tuple[Path, str]:
    """The description of a model at a commit, tag or branch, None for the main one: its path and the commit taken."""
    revision = revision or "main"
    path = cache.find_cached(repo, name, revision)
    if path is None or not _COMMIT.fullmatch(revision):
        try:
            path = _download_small(repo, revision, name)
        except HubUnavailableError as error:
            if path is None:
                raise
            _log.warning("%s Taking %s@%s from the cache.", error, repo, path.parent.name[:12])
    commit = path.parent.name
    if damage := _damage(path, repo):
        if is_offline():
            raise IntegrityError(f"{damage}; the network is switched off (HF_HUB_OFFLINE): switch it on, and {_ANEW}.")
        _log.warning("%s; %s.", damage, _ANEW)
        path = _download_small(repo, commit, name, again=True)
        if damage := _damage(path, repo):
            cache.remove(path)
            raise IntegrityError(
                f"{damage}; it was fetched anew, so what the Hub or a proxy on the way gives out is damaged: do not "
                f"use it, compare it with {page(repo, commit)}, and try it without the proxy or later."
            )
    _check_size(repo, name, path.stat().st_size)
    return path, commit


def upload(
    repo: str,
    files: Mapping[str, Path | bytes],
    *,
    message: str,
    private: bool | None = None,
    token: str | None = None,
) -> str:
    """Put files, by their names there, into a repository in one commit; made where it is missing.

    Returns:
        The commit; the one there was, if no file changes.
    """
    refuse_offline(f"{repo} cannot be written to")
    from huggingface_hub import CommitOperationAdd, HfApi

    with in_our_words(Request(repo, writing=True)):
        api = HfApi(token=token)
        api.create_repo(repo, private=private, exist_ok=True)
        operations = [CommitOperationAdd(name, content) for name, content in files.items()]
        return api.create_commit(repo, operations, commit_message=message).oid


def listed(repo: str, revision: str, names: Sequence[str], *, token: str | None = None) -> dict[str, Remote]:
    """What the Hub says of files at a commit; those that it does not have are missing."""
    refuse_offline(f"{repo} cannot be looked at")
    from huggingface_hub import HfApi

    with in_our_words(Request(repo)):
        found = HfApi(token=token).get_paths_info(repo, list(names), revision=revision)
        return {row.path: Remote(row.size, row.lfs.sha256 if row.lfs else None) for row in found}


def _download(file: HubFile, again: bool = False) -> Path:
    if is_offline():
        raise HubOfflineError(
            f"{file.describe()} is not in the cache and the network is switched off (HF_HUB_OFFLINE): "
            f"{cache.by_hand(file)}"
        )
    request = Request(file.repo, file.revision, file.name, mend=f"; or {cache.by_hand(file)}")
    with in_our_words(request):
        offered = _ask(request)
        another = re.fullmatch(r"[0-9a-f]{64}", offered.etag or "") and offered.etag != file.sha256
        if another or offered.size not in (None, file.size):
            size = "a file" if offered.size is None else f"{offered.size:,} bytes"
            raise IntegrityError(
                f"The Hub offers {size} with the sha256 {reason(offered.etag)} as {file.name} of {file.repo} at "
                f"{file.revision[:12]}, not the {file.size:,} bytes with the sha256 {file.sha256} that are promised: "
                "nothing was fetched; tell the owner of the repository, and do not use it."
            )
    request = dataclasses.replace(request, transfer=True)
    with in_our_words(request):
        return _transfer(request, again)


def _download_small(repo: str, revision: str, name: str, again: bool = False) -> Path:
    if is_offline():
        path = cache.find_cached(repo, name, revision)
        if path is None:
            raise HubOfflineError(
                f"{name} of {repo} at {revision} is not in the cache and the network is switched off (HF_HUB_OFFLINE): "
                "switch it on, or get the model with `leukaemia-zoo download --to DIR` on a machine that has one."
            )
        return path
    request = Request(repo, revision, name)
    with in_our_words(request):
        _check_size(repo, name, _ask(request).size or 0)
        return _transfer(request, again)


def _transfer(request: Request, again: bool) -> Path:
    """A file from the cache, or if it is not there or to be fetched again from the Hub."""
    from huggingface_hub import constants, hf_hub_download

    if again:
        cache.make_way(cache.cache_path(request.repo, request.revision, request.name))
    found = hf_hub_download(
        request.repo,
        request.name,
        revision=request.revision,
        force_download=again,
        etag_timeout=constants.HF_HUB_ETAG_TIMEOUT,
    )
    return Path(found)


def _check_size(repo: str, name: str, size: int) -> None:
    if size > LARGEST_CONFIG:
        raise WeightsError(f"{name} of {repo} has {size:,} bytes: that is no description of a model.")


def _damage(path: Path, repo: str) -> str:
    """What is wrong with a small file: nothing if it is the one that its git id stands for, or if nobody can say."""
    return cache.damage(path, path.resolve().name if cache.is_of_the_client(path) else _git_id(repo, path))


def _git_id(repo: str, path: Path) -> str:
    """By what the Hub knows a file of the cache; "" if it cannot be asked."""
    request = Request(repo, path.parent.name, path.name)
    try:
        with in_our_words(request):
            return "" if is_offline() else str(_ask(request).etag or "")
    except HubError:
        return ""


def _ask(request: Request) -> Any:
    """What the Hub says of a file before it is fetched: a failed download would not say why it failed."""
    # No connection at all is told at once. A server that is slow, busy or at fault is asked again with growing pauses,
    # as long as the client does, which honours Retry-After.
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    url = hf_hub_url(request.repo, request.name, revision=request.revision)
    try:
        return get_hf_file_metadata(url)
    except HfHubHTTPError as error:
        if error.response.status_code not in _SLOW_DOWN_OR_FAULT:
            raise
    except HTTPError as error:
        if "Connect" in type(error).__name__:
            raise
    return get_hf_file_metadata(url, retry_on_errors=True)
