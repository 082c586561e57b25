"""The documentation as it is published: built strictly, and opened in a browser as wide as a phone and as a screen."""

from __future__ import annotations

import functools
import http.server
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parents[1]
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NEEDED = ("mkdocs", "material", "mkdocstrings", "nbclient", "nbconvert", "ipykernel")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
EXAMINER = Path(__file__).parent / "site_examiner.html"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / "mkdocs.yml").is_file(), reason="the documentation is not beside the tests"),
    pytest.mark.skipif(bool(MISSING), reason=f"the site needs {', '.join(MISSING)}: pip install .[docs]"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Folder of the built site; a link to nowhere, within a page too, fails the build."""
    folder = tmp_path_factory.mktemp("site")
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site):
    """Path of every page by what stands in the address."""
    return {path.relative_to(site).as_posix(): path for path in sorted(site.rglob("*.html"))}


class Parsed(HTMLParser):
    """Addresses and ids of a page."""

    def __init__(self, text):
        super().__init__()
        self.links, self.loaded, self.ids = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids |= {found[name] for name in ("id", "name") if found.get(name)}
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        if tag in {"script", "img", "iframe", "source", "video", "audio"} and found.get("src"):
            self.loaded.append(found["src"])
        if tag == "link" and found.get("rel") in {"stylesheet", "preload", "preconnect", "icon", "modulepreload"}:
            self.loaded.append(found["href"])


@pytest.fixture(scope="module")
def parsed(pages):
    return {name: Parsed(path.read_text(encoding="utf-8")) for name, path in pages.items()}


def test_every_link_leads_somewhere(site, parsed):
    dead = []
    for name, page in parsed.items():
        if name == "404.html":  # served at any address: its links begin at the root of the server
            continue
        for link in page.links + page.loaded:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (site / name).parent / parts.path if parts.path else site / name
            target = target / "index.html" if target.is_dir() else target
            known = parsed.get(os.path.relpath(target.resolve(), site.resolve()))
            if not target.is_file() or (parts.fragment and known and parts.fragment not in known.ids):
                dead.append(f"{name}: {link}")
    assert dead == []


def test_nothing_is_loaded_from_other_servers(site, parsed):
    far = {f"{name}: {link}" for name, page in parsed.items() for link in page.loaded if urlsplit(link).netloc}
    assert far == set()
    styles = [path.read_text(encoding="utf-8") for path in site.rglob("*.css")]
    assert styles
    assert [found for text in styles for found in re.findall(r"url\(['\"]?https?://[^)]*|@import[^;]*", text)] == []


def test_no_page_names_a_folder_of_the_machine(site, pages):
    home = str(ROOT)
    assert [name for name, path in pages.items() if home in path.read_text(encoding="utf-8")] == []


def test_every_weight_has_a_card_and_every_notebook_its_page_with_pictures(site, parsed):
    from leukaemia_zoo.zoo.registry import weights

    for name in weights():
        text = (site / "cards" / name / "index.html").read_text(encoding="utf-8")
        assert f'lz.predict("{name}"' in re.sub(r"<[^>]+>|&quot;", lambda tag: '"' if tag[0] == "&quot;" else "", text)
        assert "not a diagnosis" in text
    notebooks = [path.stem for path in (ROOT / "examples" / "notebooks").glob("*.ipynb")]
    assert len(notebooks) == 3
    for name in notebooks:
        page = parsed[f"notebooks/{name}/index.html"]
        assert sum(picture.endswith(".png") for picture in page.loaded) >= 2
        assert any(link.startswith("https://colab.research.google.com/github/") for link in page.links)


class Handler(http.server.SimpleHTTPRequestHandler):
    """The site, a page that examines it, and where that page tells what it saw."""

    def __init__(self, *args, told, **kwargs):
        self.told = told
        super().__init__(*args, **kwargs)

    def do_GET(self):
        if self.path.split("?")[0] != "/__examine__":
            return super().do_GET()
        body = EXAMINER.read_bytes()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        self.told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.told.ready.set()
        self.send_response(204)
        self.end_headers()

    def log_message(self, *args):
        pass


class Told(list):
    """What the browser told."""

    def __init__(self):
        super().__init__()
        self.ready = threading.Event()


@pytest.fixture
def examine(site, tmp_path):
    """A function that lets a browser look at pages, and returns what it saw."""
    if BROWSER is None and not os.environ.get("LEUKAEMIA_ZOO_NEEDS_BROWSER"):
        pytest.skip("there is no Chromium or Chrome on this machine")
    assert BROWSER is not None, "LEUKAEMIA_ZOO_NEEDS_BROWSER is set, but there is no Chromium or Chrome"
    told = Told()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, told=told, directory=site))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()

    def look(question, **values):
        told.clear()
        told.ready.clear()
        task = json.dumps({"question": question, **values})
        flags = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking disable-sync"
        flags += " disable-component-update mute-audio window-size=1400,900"
        address = f"http://127.0.0.1:{server.server_port}/__examine__?{task.encode().hex()}"
        command = [BROWSER, *(f"--{flag}" for flag in flags.split()), f"--user-data-dir={tmp_path / 'profile'}"]
        # Without --dump-dom or --screenshot the browser stays open until it is ended.
        browser = subprocess.Popen(
            [*command, "--remote-debugging-port=0", address], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            assert told.ready.wait(240), "the browser told nothing within four minutes"
        finally:
            browser.terminate()
            browser.wait(30)
        assert "failed" not in told[0], told[0]
        return told[0]["seen"]

    yield look
    server.shutdown()
    server.server_close()


def test_no_page_is_wider_than_the_window(examine, pages):
    names = [name.removesuffix("index.html") for name in pages]
    both = examine("width", width=360, widths=[360, 1300], pages=names)
    for width, seen in both.items():
        assert set(seen) == set(names)
        assert {name: found["inner"] for name, found in seen.items()} == dict.fromkeys(names, int(width))
        assert {name: found for name, found in seen.items() if found["page"] > int(width)} == {}
    # A table that is too wide for the page can be pushed sideways in its own frame.
    assert both["360"]["results/"]["scrolled"] >= 5


@pytest.mark.parametrize(
    ("words", "expected"),
    [("specificity", "limits/"), ("fine_tune", "api/finetuning/"), ("blast", "glossary-medicine/")],
)
def test_search_gives_hits(examine, words, expected):
    hits = examine("search", words=words, width=1300)
    assert hits
    assert any(expected in hit for hit in hits), hits


def test_search_for_what_is_nowhere_gives_none(examine):
    assert examine("search", words="zzxqqwk", width=1300) == []


def test_a_click_on_a_heading_sorts_a_table(examine):
    seen = examine("sort", page="results/", width=1300, heading="AUROC")
    before, up, down = (seen[name] for name in ("before", "up", "down"))
    assert sorted(before) == sorted(up) == sorted(down)
    numbers = [float(re.match(r"[\d.]+", value)[0]) for value in up]
    assert numbers == sorted(numbers)
    assert [float(re.match(r"[\d.]+", value)[0]) for value in down] == sorted(numbers, reverse=True)
    assert before != up or before != down
    assert seen["announced"] == ["ascending", "descending"]
