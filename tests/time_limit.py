"""A test that takes more than ten seconds of work is marked `slow`, or it fails: with `--time-limit 10`, and in CI.

Work is the smaller of wall time, which a busy machine stretches, and processor time, which several threads add up.
"""

import os
import time

import pytest

SECONDS = 10.0


def pytest_addoption(parser):
    where = "the default where CI is set" if os.environ.get("CI") else f"{SECONDS:g} where CI is set"
    parser.addoption(
        "--time-limit",
        type=float,
        default=SECONDS if os.environ.get("CI", "").lower() in ("1", "true") else None,
        metavar="SECONDS",
        help=f"fail tests that take longer and are not marked slow ({where})",
    )


def _clocks():
    """Wall time, and processor time with that of processes that have ended."""
    times = os.times()
    return time.monotonic(), times.user + times.system + times.children_user + times.children_system


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    began = _clocks()
    try:
        return (yield)
    finally:
        item.stash[_WORK] = min(now - then for now, then in zip(_clocks(), began, strict=True))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    limit, work = item.config.getoption("--time-limit"), item.stash.get(_WORK, 0.0)
    if report.when == "call" and report.passed and limit and work > limit and not item.get_closest_marker("slow"):
        report.outcome = "failed"
        told = f"{item.nodeid} took {work:.1f} s of work, more than {limit:g}"
        report.longrepr = f"{told}: make it shorter, or mark it @pytest.mark.slow."
    return report


_WORK = pytest.StashKey[float]()
