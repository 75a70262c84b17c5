"""The site: a strict build without a dead link, and its pages in a browser. Needs `.[docs]`."""

import functools
import http.server
import importlib.util
import shutil
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from keras_meanflow.backend import BACKEND

ROOT = Path(__file__).resolve().parents[1]
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
LACKING = [
    n for n in ("material", "mkdocstrings", "mkdocs_click") if not importlib.util.find_spec(n)
]
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(BACKEND != "torch", reason="the site is the same on every backend"),
    pytest.mark.skipif(bool(LACKING), reason=f"pip install '.[docs]': no {', '.join(LACKING)}"),
]
in_a_browser = pytest.mark.skipif(
    not (BROWSER and importlib.util.find_spec("playwright")),
    reason="needs Chromium, and pip install '.[docs]'",
)
PAGES = ("", "guide/methods/", "reference/api/samplers/", "reference/cli/", "start/your_images/")


class Links(HTMLParser):
    """The addresses that a page links to, and the names that can be linked to."""

    def __init__(self, page):
        super().__init__()
        self.links, self.names = [], set()
        self.feed(page.read_text("utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.names |= {attrs[key] for key in ("id", "name") if attrs.get(key)}
        self.links += [attrs[key] for key in ("href", "src") if attrs.get(key)]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site; a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def test_every_link_inside_the_site_leads_somewhere(site):
    pages = {page: Links(page) for page in site.rglob("*.html") if page.name != "404.html"}
    assert len(pages) > 40
    dead = [
        (page.relative_to(site).as_posix(), link)
        for page, found in pages.items()
        for link in found.links
        if not _leads(page, link, pages)
    ]
    assert dead == []


def _leads(page, link, pages):
    address = urlsplit(link)
    if address.scheme or link.startswith(("//", "#__")):
        return True
    target = (page.parent / unquote(address.path)).resolve() if address.path else page
    target = target / "index.html" if target.is_dir() else target
    known = not address.fragment or target not in pages or address.fragment in pages[target].names
    return target.is_file() and known


def test_every_page_has_a_way_back_to_the_front_page(site):
    for page in site.rglob("index.html"):
        targets = {
            (page.parent / unquote(urlsplit(link).path)).resolve() for link in Links(page).links
        }
        assert site in targets or site / "index.html" in targets, page


@pytest.fixture(scope="module")
def browser(site):
    """Opens a page of the served site in a headless browser; no error may reach its console."""
    from playwright.sync_api import sync_playwright

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(site))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 1280, "height": 900})
        errors = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)

        def show(path):
            page.goto(f"http://127.0.0.1:{server.server_port}/{path}", wait_until="networkidle")
            assert errors == []
            return page

        yield show
        chromium.close()
    server.shutdown()


@in_a_browser
@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_drawn_whole(browser, path):
    page = browser(path)
    assert page.locator("h1").is_visible()
    broken = "images => images.filter(i => !i.naturalWidth).map(i => i.src)"
    assert page.locator(".md-content img").evaluate_all(broken) == []
    wide = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(wide) <= 0


@in_a_browser
def test_your_images_are_two_clicks_from_the_front_page(browser):
    page = browser("")
    page.get_by_role("link", name="Your images").first.click()
    assert page.get_by_text("keras-meanflow train images --set data=FOLDER").first.is_visible()


@in_a_browser
def test_the_search_finds_a_class(browser):
    page = browser("")
    page.locator("input.md-search__input").fill("AlphaFlow")
    found = page.locator(".md-search-result__item").first
    found.wait_for()
    assert "AlphaFlow" in found.inner_text()
