"""How long a stage still takes, for its lines of progress."""

from __future__ import annotations

import time


class TimeLeft:
    """An estimate from the epochs that were done in this run, which a resumed one begins anew.

    Example:
        >>> TimeLeft(done=0).told(done=10, total=10)
        ''
    """

    def __init__(self, done: int) -> None:
        self._began = time.perf_counter()
        self._before = done

    def told(self, done: int, total: int) -> str:
        """``", about 12 min left"``, to stand at the end of a line; nothing where nothing is left."""
        if done >= total or done <= self._before:
            return ""
        seconds = (time.perf_counter() - self._began) / (done - self._before) * (total - done)
        if seconds < 90:
            return f", about {max(1, round(seconds))} s left"
        if seconds < 90 * 60:
            return f", about {round(seconds / 60)} min left"
        return f", about {seconds / 3600:.1f} h left"
