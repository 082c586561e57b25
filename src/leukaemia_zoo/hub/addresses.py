"""Repositories on the Hub and files in them: how they are written, and where a person can look at them."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from leukaemia_zoo.common.text import reason, shown
from leukaemia_zoo.errors import HubError, HubOfflineError, UnknownNameError

PREFIX = "hf://"
"""How a repository on the Hub is written where a name or a folder could stand too."""


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


def parse(uri: str) -> tuple[str, str | None]:
    """Repository and revision of ``hf://org/name@revision``; without a revision None."""
    match = re.fullmatch(rf"{PREFIX}([\w.-]+/[\w.-]+?)(?:@(\w[\w./-]*))?/?", uri)
    if match is None or ".." in uri or not is_repo(match[1]):
        raise UnknownNameError(
            f"{shown(uri)} is no repository on the Hub: write hf://org/name, or hf://org/name@revision with a commit, "
            "tag or branch."
        )
    return match[1], match[2]


def is_repo(repo: Any) -> bool:
    """Whether a name is one that a repository on the Hub can have, ``org/name``."""
    check_client()
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError:
        return False
    return isinstance(repo, str) and "/" in repo  # the client's own rule lets names without an owner pass


def page(repo: str, revision: str | None = None) -> str:
    """Where a person can look at a repository."""
    check_client()
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{repo}" + (f"/tree/{revision}" if revision else "")


def check_client() -> None:
    """Import the client: it reads the environment then, and fails on what makes no sense there."""
    try:
        from huggingface_hub import constants, file_download  # noqa: F401
    except ValueError as error:
        raise HubError(
            f"The client of the Hub does not start ({reason(error)}): check HF_ENDPOINT and the other variables of the "
            "environment that begin with HF_."
        ) from None


def is_offline() -> bool:
    """Whether the user has switched the network off for the Hub."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def refuse_offline(what: str) -> None:
    """Raise if the network is switched off, with what can therefore not be done."""
    check_client()
    if is_offline():
        raise HubOfflineError(f"{what}: the network is switched off; unset HF_HUB_OFFLINE.")
