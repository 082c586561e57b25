"""What goes wrong on the way to the Hub as one of our own errors, in one sentence with the mend."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from typing import Any

from leukaemia_zoo.common.text import reason
from leukaemia_zoo.errors import (
    HubAccessError,
    HubError,
    HubNotFoundError,
    HubStorageError,
    HubUnavailableError,
    UnknownNameError,
    WeightsError,
)
from leukaemia_zoo.hub.addresses import page


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked of the Hub.

    Attributes:
        repo: Of which repository.
        revision: At which commit, tag or branch.
        name: Of which file.
        mend: End of the sentence where the Hub or the way to it is at fault: what else can be done.
        writing: Whether something is sent.
        transfer: Whether the file is known to be there, and its bytes are on the way.
    """

    repo: str
    revision: str = ""
    name: str = ""
    mend: str = "."
    writing: bool = False
    transfer: bool = False

    @property
    def what(self) -> str:
        """The file and its repository."""
        return " of ".join(filter(None, (self.name, self.repo)))


@contextlib.contextmanager
def in_our_words(request: Request) -> Iterator[None]:
    """Turn what huggingface_hub, its HTTP client and the file system raise into errors of ours."""
    from huggingface_hub.errors import HFValidationError

    try:
        yield
    except WeightsError:
        raise
    except HFValidationError as error:
        raise UnknownNameError(f"'{request.repo}' is no name of a repository on the Hub ({reason(error)}).") from None
    except Exception as error:  # the client lets much of what it uses pass, such as a KeyError over a strange answer
        raise _translated(error, request) from error


def _translated(error: BaseException, request: Request) -> HubError:
    from huggingface_hub import constants, errors

    chain = _chain(error)
    for cause in chain:
        if isinstance(cause, errors.HfHubHTTPError):
            return _refused(cause, request)
    # A file without its headers, or an answer without what the client looks for in it.
    if isinstance(error, KeyError | TypeError | AttributeError | json.JSONDecodeError) or any(
        isinstance(cause, errors.FileMetadataError) for cause in chain
    ):
        return HubUnavailableError(
            f"What answers at {constants.ENDPOINT} is not a Hub, or a proxy strips its headers: check HF_ENDPOINT and "
            f"the proxy settings{request.mend}"
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
            elif request.transfer and "Connect" not in kind:
                what = f"broke off the transfer of {request.name} again and again"
            return _unavailable(
                f"{constants.ENDPOINT} {what} ({reason(cause) or kind}): check the network, the proxy and HF_ENDPOINT"
                + (", or raise HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT" if "time" in what else ""),
                request,
            )
    for cause in chain:
        if isinstance(cause, OSError) and cause.errno is not None:
            return HubStorageError(
                f"{request.name or request.repo} cannot be written to {cause.filename or constants.HF_HUB_CACHE} "
                f"({cause.strerror or cause}): make room or give yourself the right to write there, or name another "
                "folder with HF_HOME."
            )
    return _unavailable(f"{request.name or request.repo} was not transferred ({reason(error)}): try it again", request)


def _refused(error: Any, request: Request) -> HubError:
    """For an answer of the Hub that is an error."""
    from huggingface_hub import constants, errors

    repo, revision, status, headers = request.repo, request.revision, error.response.status_code, error.response.headers
    if isinstance(error, errors.GatedRepoError):
        return HubAccessError(
            f"{repo} is gated ({status}): open {page(repo)}, accept its terms, and give the token of that account with "
            "HF_TOKEN or `hf auth login`."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return HubNotFoundError(f"{repo} has no revision {revision} (404): look at {page(repo)} for those there are.")
    if isinstance(error, errors.EntryNotFoundError):
        return HubNotFoundError(
            f"{repo} has no file {request.name} at {revision} (404): it is no model of this package, or not at this "
            "revision."
        )
    if status == 401 and "Invalid credentials" in (headers.get("X-Error-Message") or ""):
        return HubAccessError(
            "The Hub does not know this token (401): sign in with `hf auth login`, or unset HF_TOKEN."
        )
    if status in (401, 403) and request.writing:
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
        pause = headers.get("Retry-After")
        # It is a number of seconds or a date.
        when = "later" if not pause else f"in {pause} s" if pause.isdigit() else f"after {reason(pause)}"
        return HubUnavailableError(
            f"The Hub has had too many requests from here (429): try again {when}, or give a token with "
            f"HF_TOKEN{request.mend}"
        )
    if 400 <= status < 500 and status != 408:
        said = error.server_message or headers.get("X-Error-Message") or error.response.reason_phrase
        return HubError(
            f"The Hub refuses {request.what} ({status}: {reason(said)}): mend that, or look at {page(repo)}."
        )
    return _unavailable(f"The Hub failed ({status}) over {request.what}: try again later", request)


def _unavailable(sentence: str, request: Request) -> HubUnavailableError:
    """For a failure after which another try may do, if it was the transfer that failed."""
    found = HubUnavailableError(sentence + request.mend)
    found.during_transfer = request.transfer
    return found


def _chain(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found
