"""Downloads against a server on this machine that answers as servers do on bad days."""

import hashlib
import io
import resource
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest

from naics_pipeline.errors import NaicsError, SourceError
from naics_pipeline.settings import Download
from naics_pipeline.taxonomy import census, download

from .workbooks import Source, small_source


@dataclass
class Answer:
    """One answer: how it differs from sending the whole file."""

    status: int = 200
    body: bytes | None = None
    sent: int | None = None
    announced: bool = True
    stall: bool = False


@dataclass
class Site:
    """Files by path, the answers to give first, and the requests that came."""

    files: dict[str, bytes] = field(default_factory=dict)
    answers: list[Answer] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    url: str = ""
    stopped: threading.Event = field(default_factory=threading.Event)


def handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = unquote(self.path)
            site.requests.append(path)
            answer = site.answers.pop(0) if site.answers else Answer(status=200 if path in site.files else 404)
            body = answer.body if answer.body is not None else site.files.get(path, b"nothing here")
            tag = f'"{hashlib.sha256(body).hexdigest()}"'
            if answer.stall:
                site.stopped.wait(10)
                return
            if self.headers.get("If-None-Match") == tag:
                site.unchanged.append(path)
                self.send_response(304)
                self.end_headers()
                return
            self.send_response(answer.status)
            self.send_header("ETag", tag)
            if answer.announced:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: answer.sent])

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    site = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(site))
    site.url = f"http://127.0.0.1:{server.server_port}/naics"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield site
    site.stopped.set()
    server.shutdown()
    server.server_close()
    thread.join()


def zipped(size: int) -> bytes:
    """What a download takes for a workbook."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("part", bytes(size))
    return content.getvalue()


def flipped(content: bytes) -> bytes:
    """The same length, one bit of a part another."""
    return content[:100] + bytes([content[100] ^ 1]) + content[101:]


@pytest.fixture
def workbook() -> bytes:
    return zipped(300)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def settings(site: Site, **values: float) -> Download:
    return Download(base_url=site.url, **{"timeout_seconds": 5, "retries": 2, "backoff_seconds": 0, **values})


def publish(site: Site, source: Source, directory: Path) -> None:
    for path in source.write(directory).glob("*.xlsx"):
        site.files[f"/naics/{source.vintage}NAICS/{path.name}"] = path.read_bytes()


@pytest.mark.parametrize("vintage", [2017, 2022])
def test_four_workbooks_are_downloaded_once(vintage: int, site: Site, cache: Path, tmp_path: Path) -> None:
    source = small_source()
    source.vintage = vintage
    publish(site, source, tmp_path / "site")
    first = census.read_source("census", vintage, settings(site), cache)
    assert sorted(site.requests) == sorted(site.files)
    assert f"/naics/{vintage}NAICS/2-6 digit_{vintage}_Codes.xlsx" in site.requests
    # From here on the server has nothing: the second run needs no network.
    site.files.clear()
    second = census.read_source("census", vintage, settings(site), cache)
    assert len(site.requests) == 4
    assert second.codes.equals(first.codes)
    assert second.descriptions.equals(source.read(tmp_path / "directory").descriptions)


@pytest.mark.parametrize(
    "answers",
    [
        [Answer(status=503)],
        [Answer(status=500), Answer(status=429)],
        [Answer(sent=100)],
        [Answer(sent=100, announced=False), Answer(sent=0)],
        [Answer(stall=True)],
        [Answer(body=flipped(zipped(300)))],
    ],
    ids=["unavailable", "errors", "truncated", "cut off", "stall", "one bit wrong"],
)
def test_bad_answers_are_tried_again(answers: list[Answer], site: Site, workbook: bytes, cache: Path) -> None:
    site.answers = list(answers)
    site.files["/naics/file.xlsx"] = workbook
    path = download.fetch(f"{site.url}/file.xlsx", settings(site, timeout_seconds=0.3), cache)
    assert path.read_bytes() == workbook
    assert path.name == "file.xlsx"
    assert len(site.requests) == len(answers) + 1


@pytest.mark.parametrize(
    ("answer", "words", "requests"),
    [
        (Answer(status=404), r"does not exist \(404\).*vintage", 1),
        (Answer(status=403), "answered 403", 1),
        (Answer(status=503), "answered 503", 3),
        (Answer(body=b"<html>Please come back later</html>"), "not a workbook but begins b'<html>", 1),
        (Answer(sent=100), "broke off 3 times", 3),
        (Answer(sent=100, announced=False), "broke off 3 times .*without the end of a workbook", 3),
        (Answer(stall=True), "no answer", 3),
        (Answer(body=flipped(zipped(300))), "broke off 3 times .*part does not match its checksum", 3),
        (Answer(body=b"PK" + bytes(2_000_000)), "larger than 1 MB.*download.max_megabytes", 1),
    ],
    ids=["missing", "forbidden", "unavailable", "page", "truncated", "cut off", "stall", "one bit wrong", "too large"],
)
def test_what_cannot_be_had_is_said_and_not_kept(
    answer: Answer, words: str, requests: int, site: Site, workbook: bytes, cache: Path
) -> None:
    site.answers = [answer] * requests
    site.files["/naics/file.xlsx"] = workbook
    limits = settings(site, timeout_seconds=0.3, max_megabytes=1)
    with pytest.raises(SourceError, match=words) as caught:
        download.fetch(f"{site.url}/file.xlsx", limits, cache)
    assert f"{site.url}/file.xlsx" in str(caught.value)
    assert len(site.requests) == requests
    assert not cache.exists()
    # The next run goes on.
    assert download.fetch(f"{site.url}/file.xlsx", limits, cache).read_bytes() == workbook


def test_without_a_server_the_way_out_is_said(cache: Path) -> None:
    nobody = Download(base_url="http://127.0.0.1:9", retries=0, timeout_seconds=1)
    with pytest.raises(SourceError, match=r"http://127\.0\.0\.1:9/2022NAICS/.*no answer.*directory"):
        census.read_source("census", 2022, nobody, cache)


@pytest.mark.parametrize("damage", ["content", "note", "gone"])
def test_a_damaged_cache_is_not_used(damage: str, site: Site, workbook: bytes, cache: Path) -> None:
    site.files["/naics/file.xlsx"] = workbook
    path = download.fetch(f"{site.url}/file.xlsx", settings(site), cache)
    if damage == "content":
        path.write_bytes(workbook[:-1] + b"!")
    elif damage == "note":
        next(cache.glob("*.json")).write_text('{"url":')
    else:
        path.unlink()
    assert download.fetch(f"{site.url}/file.xlsx", settings(site), cache).read_bytes() == workbook
    assert len(site.requests) == 2


def test_checksums_follow_the_site_and_the_next_run_reads_the_new_files(
    site: Site, cache: Path, tmp_path: Path
) -> None:
    publish(site, small_source(), tmp_path / "site")
    before = census.source_checksums("census", 2022, settings(site), cache)
    assert before == census.source_checksums("census", 2022, settings(site), cache)
    assert sorted(site.unchanged) == sorted(site.files)
    changed = small_source()
    changed.codes["112"] = "Animal Production"
    publish(site, changed, tmp_path / "changed")
    after = census.source_checksums("census", 2022, settings(site), cache)
    assert before != after
    asked = len(site.requests)
    assert "112" in census.read_source("census", 2022, settings(site), cache).codes["code"].to_list()
    assert len(site.requests) == asked


@contextmanager
def full_disk() -> Iterator[None]:
    """No file of this process may grow beyond 500 bytes; not for a whole test, whose report may go to a file too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_named(site: Site, cache: Path) -> None:
    site.files["/naics/file.xlsx"] = zipped(2_000)
    with full_disk(), pytest.raises(NaicsError, match=r"cache/.*could not be written.*Free some space"):
        download.fetch(f"{site.url}/file.xlsx", settings(site), cache)
    assert not [path for path in cache.rglob("*") if path.is_file()]
