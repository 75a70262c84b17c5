"""Downloads: complete or not there, encrypted, inside the cache, and checked when used again."""

import hashlib
import http.server
import threading
import time

import pytest

from keras_meanflow.files import fetching
from keras_meanflow.files.fetching import fetch
from keras_meanflow.files.inside import inside


def refused(message):
    return pytest.raises(ValueError, match=message)


BODY = bytes(range(200))
SUM = hashlib.sha256(BODY).hexdigest()


class Odd(http.server.BaseHTTPRequestHandler):
    """Answers as the last part of the path says."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        kind = self.path.rpartition("/")[2]
        if kind in ("elsewhere", "hub", "damaged"):
            self.send_response(302)
            plain = "http://example.com/x"
            self.send_header("Location", plain if kind == "elsewhere" else "/data/whole")
            self.send_header("X-Linked-Etag", f'"{SUM if kind == "hub" else SUM[::-1]}"')
            return self.end_headers()
        self.send_response(200)
        self.send_header("Content-Length", "5000" if kind in ("short", "stalls") else "200")
        self.end_headers()
        self.wfile.write(BODY)
        self.wfile.flush()
        time.sleep(3 if kind == "stalls" else 0)


@pytest.fixture
def odd(tmp_path, monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Odd)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("KMF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fetching, "TIMEOUT", 0.3)
    yield tmp_path / "cache"
    server.shutdown()


def files_in(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "kind, message",
    [
        ("short", "200 of 5,000 bytes came"),
        ("stalls", "cannot be read: timed out"),
        ("elsewhere", "http://example.com/x is not encrypted"),
        ("damaged", f"has SHA-256 {SUM}, not {SUM[::-1]}"),
    ],
)
def test_an_answer_that_is_not_the_whole_file_is_refused_and_not_kept(odd, kind, message):
    with refused(message):
        fetch(f"hf://a/b/{kind}")
    assert files_in(odd) == []


def test_a_lost_connection_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("KMF_CACHE", str(tmp_path))
    with refused("hf.pt cannot be read: .*refused"):
        fetch("hf://a/b/hf.pt")


def test_a_file_that_changed_in_the_cache_is_refused(odd):
    path = fetch("hf://a/b/hub")
    assert path.read_bytes() == BODY and fetch("hf://a/b/hub") == path
    path.write_bytes(BODY[:-1])
    with refused("hub has SHA-256"):
        fetch("hf://a/b/hub")


@pytest.mark.parametrize(
    "address",
    [
        "hf://a/b@../c.pt",
        "hf://../b/c.pt",
        "hf://a/../c.pt",
        "hf://a/b//etc/c.pt",
        "hf://a/b/c\\..\\..\\d.pt",
        "https://../x.pt",
        "https://127.0.0.1/../../../x.pt",
        "https://127.0.0.1/a/..",
    ],
)
def test_no_address_leads_out_of_the_cache(address, odd, monkeypatch):
    monkeypatch.setattr(fetching, "download", lambda *_: pytest.fail("fetched"))
    with refused(r"must be a relative path|An address is hf://"):
        fetch(address)


def test_plain_http_is_refused(odd, monkeypatch):
    with refused("begins with hf:// or https://. Received: 'http://127.0.0.1/x.pt'"):
        fetch("http://127.0.0.1/x.pt")
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror.example")
    with refused("mirror.example/.* is not encrypted"):
        fetch("hf://a/b/x.pt")


def test_addresses_that_differ_in_their_query_are_different_files(odd, monkeypatch):
    fetched = []

    def download(url, path, sha256=None):
        fetched.append(url)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(url.encode())
        return hashlib.sha256(url.encode()).hexdigest()

    monkeypatch.setattr(fetching, "download", download)
    addresses = ["https://x.org/a.pt", "https://x.org/a.pt?key=1", "https://x.org/a.pt?key=2"]
    places = [fetch(address) for address in addresses + addresses]
    assert fetched == addresses and len(set(places)) == 3
    assert all(place.suffix == ".pt" for place in places)


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../x", "a/../x", "a/./x", "a//x", "C:/x", "a\\x", "a\0", None, 3]
)
def test_a_name_that_leaves_its_folder_is_refused(tmp_path, name):
    with refused("must be a relative path that stays in its folder"):
        inside(tmp_path, name)


def test_a_link_that_leaves_its_folder_is_refused(tmp_path):
    (tmp_path / "out.txt").write_text("a secret")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "in.txt").write_text("")
    (folder / "good").symlink_to(folder / "in.txt")
    (folder / "bad").symlink_to(tmp_path / "out.txt")
    assert inside(folder, "good") == folder / "good"
    with refused("bad is a link to .*out.txt: copy the file"):
        inside(folder, "bad")
