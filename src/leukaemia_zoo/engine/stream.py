"""Many images through a network: read, crop, resize and judge side by side, in order, with memory for a few of them."""

from __future__ import annotations

import collections
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from leukaemia_zoo.cells.preprocessing import network_pixels
from leukaemia_zoo.engine.network import Network
from leukaemia_zoo.engine.trunk import cores
from leukaemia_zoo.errors import ImageError

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_TOGETHER = 8
"""Images that a worker takes at once: first it reads them all, then it judges them all, so that the network does not
have to be fetched into the caches of the processor anew for each."""

_AHEAD = 2
"""Takings a worker that wait for their turn: enough that none idles, few enough that a folder needs no memory."""


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
            return network_pixels(source, name, network.zoo.preprocessing)
        except ImageError as error:
            return error

    def judge(
        batch: list[tuple[Any, ...]], pool: ThreadPoolExecutor | None = None
    ) -> list[tuple[tuple[Any, ...], np.ndarray | ImageError]]:
        pixels = [read(item) for item in batch]
        good = [image for image in pixels if isinstance(image, np.ndarray)]
        embeddings = iter(network.embeddings(np.stack(good), views=views, pool=pool) if good else ())
        return [
            (item, image if isinstance(image, ImageError) else next(embeddings))
            for item, image in zip(batch, pixels, strict=True)
        ]

    rows = iter(items)
    threads = threads or cores()
    first = list(itertools.islice(rows, threads * _TOGETHER))
    rows = itertools.chain(first, rows)
    size = max(1, math.ceil(len(first) / threads))  # of a few images each core takes its share
    batches = iter(lambda: list(itertools.islice(rows, size)), [])
    with ThreadPoolExecutor(threads) as pool:
        # Of a single image the views are what the cores can share.
        done = [judge(first, pool)] if len(first) == 1 else ordered(judge, batches, pool, _AHEAD * threads)
        for item, found in itertools.chain.from_iterable(done):
            if raise_errors and isinstance(found, ImageError):
                raise found
            yield item, found


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
