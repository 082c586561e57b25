"""Many images through a network: read, crop, resize and judge side by side, in order, with memory for a few of them."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from leukaemia_zoo.cells.preprocessing import network_pixels
from leukaemia_zoo.engine.network import Network, cores
from leukaemia_zoo.errors import ImageError

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_AHEAD = 4
"""Images a worker that wait for their turn: enough that none idles, few enough that a folder needs no memory."""


def embedding_stream(
    network: Network,
    items: Iterable[tuple[Any, ...]],
    *,
    views: int | None = None,
    threads: int | None = None,
    raise_errors: bool = False,
) -> Iterator[tuple[tuple[Any, ...], np.ndarray | ImageError]]:
    """Each item with the embedding (features,) of its image, mean over the views, or why there is none; in order.

    An item is a path or frame, how to name it in an error, and what else is to be given back with it.
    """

    def read(item: tuple[Any, ...]) -> np.ndarray | ImageError:
        source, name, *_ = item
        try:
            return network_pixels(source, name, network.zoo.preprocessing)[None]
        except ImageError as error:
            if raise_errors:
                raise
            return error

    def judge(
        item: tuple[Any, ...], pool: ThreadPoolExecutor | None = None
    ) -> tuple[tuple[Any, ...], np.ndarray | ImageError]:
        pixels = read(item)
        if isinstance(pixels, ImageError):
            return item, pixels
        return item, network.embeddings(pixels, views=views, pool=pool)[0]

    rows = iter(items)
    first = list(itertools.islice(rows, 2))
    threads = threads or cores()
    with ThreadPoolExecutor(threads) as pool:
        if len(first) == 1:
            # Of a single image the views are what the cores can share.
            yield judge(first[0], pool)
            return
        yield from ordered(judge, itertools.chain(first, rows), pool, _AHEAD * threads)


def ordered(work: Callable[[_Item], _Result], items: Iterable[_Item], pool: Executor, ahead: int) -> Iterator[_Result]:
    """Apply work to items in a pool and give the results in order, with at most `ahead` of them begun.

    Example:
        >>> from concurrent.futures import ThreadPoolExecutor
        >>> with ThreadPoolExecutor(2) as pool:
        ...     list(ordered(abs, [-3, -2, -1], pool, ahead=2))
        [3, 2, 1]
    """
    begun: collections.deque[Future[_Result]] = collections.deque()
    try:
        for item in items:
            begun.append(pool.submit(work, item))
            if len(begun) >= ahead:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        for future in begun:
            future.cancel()
