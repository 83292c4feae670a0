"""Workbooks from the web: retries, limits, and a cache in which every file lies under its checksum."""

import hashlib
import io
import json
import logging
import time
import zipfile
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from naics_pipeline.errors import SourceError
from naics_pipeline.files import fingerprint, replacing
from naics_pipeline.settings import Download

logger = logging.getLogger(__name__)

RETRIED_STATUSES = (429, 500, 502, 503, 504)
CHUNK_BYTES = 1 << 16
WAY_OUT = (
    "Try again later, check `download` in the settings, or put the workbooks into a directory and use that as source."
)


class _Incomplete(Exception):
    """The body of an answer broke off."""


@dataclass(frozen=True)
class _Cached:
    """What is known of a file that was downloaded before."""

    url: str
    path: str
    sha256: str
    etag: str | None
    last_modified: str | None

    def conditions(self) -> dict[str, str]:
        headers = {"If-None-Match": self.etag, "If-Modified-Since": self.last_modified}
        return {name: value for name, value in headers.items() if value}


def fetch(url: str, settings: Download, cache: Path) -> Path:
    """The workbook at a URL: from the cache, without network, where an intact copy lies there.

    Raises:
        SourceError: it cannot be had; names the URL, the reason and the way out.
    """
    cached = _lookup(url, cache)
    return cache / cached.path if cached else _store(url, *_download(url, settings, {}), cache)


def refresh(url: str, settings: Download, cache: Path) -> Path:
    """Like `fetch`, but asks the server first whether the cached copy is still the current one."""
    cached = _lookup(url, cache)
    response, content = _download(url, settings, cached.conditions() if cached else {})
    if cached and response.status_code == requests.codes.not_modified:
        return cache / cached.path
    return _store(url, response, content, cache)


def _note(url: str, cache: Path) -> Path:
    return cache / f"{fingerprint(url)}.json"


def _lookup(url: str, cache: Path) -> _Cached | None:
    note = _note(url, cache)
    if not note.exists():
        return None
    try:
        cached = _Cached(**json.loads(note.read_text()))
        content = (cache / cached.path).read_bytes()
    except (OSError, ValueError, TypeError) as error:
        logger.warning("%s: damaged (%s), downloading again", note, error)
        return None
    if hashlib.sha256(content).hexdigest() != cached.sha256:
        logger.warning("%s: does not match its checksum, downloading again", cache / cached.path)
        return None
    return cached


def _store(url: str, response: requests.Response, content: bytes, cache: Path) -> Path:
    checksum = hashlib.sha256(content).hexdigest()
    path = Path(checksum[:16]) / unquote(Path(urlsplit(url).path).name)
    with replacing(cache / path) as temporary:
        temporary.write_bytes(content)
    cached = _Cached(url, str(path), checksum, response.headers.get("ETag"), response.headers.get("Last-Modified"))
    with replacing(_note(url, cache)) as temporary:
        temporary.write_text(json.dumps(asdict(cached), indent=1))
    return cache / path


def _download(url: str, settings: Download, headers: dict[str, str]) -> tuple[requests.Response, bytes]:
    """The answer and its body, empty where the server says that nothing changed."""
    session = requests.Session()
    policy = Retry(
        total=settings.retries,
        backoff_factor=settings.backoff_seconds,
        status_forcelist=RETRIED_STATUSES,
        raise_on_status=False,
        retry_after_max=int(settings.timeout_seconds),
    )
    session.mount("http://", HTTPAdapter(max_retries=policy))
    session.mount("https://", HTTPAdapter(max_retries=policy))
    headers = {"User-Agent": "naics-pipeline", **headers}
    # The adapter retries until an answer begins; a body that breaks off is this loop's business.
    for attempt in range(settings.retries + 1):
        try:
            with session.get(url, headers=headers, timeout=settings.timeout_seconds, stream=True) as response:
                return response, _body(response, url, settings)
        except _Incomplete as error:
            reason: Exception = error
            logger.warning("%s: broke off (%s), try %d of %d", url, error, attempt + 1, settings.retries + 1)
            time.sleep(settings.backoff_seconds * 2**attempt if attempt < settings.retries else 0)
        except requests.RequestException as error:
            raise SourceError(f"{url}: no answer ({error}). {WAY_OUT}") from error
    raise SourceError(f"{url}: broke off {settings.retries + 1} times ({reason}). {WAY_OUT}") from reason


def _body(response: requests.Response, url: str, settings: Download) -> bytes:
    if response.status_code == requests.codes.not_modified:
        return b""
    if response.status_code == requests.codes.not_found:
        raise SourceError(f"{url}: does not exist (404). Check `vintage` and `download.base_url`. {WAY_OUT}")
    if response.status_code != requests.codes.ok:
        raise SourceError(f"{url}: answered {response.status_code} {response.reason}. {WAY_OUT}")
    limit = int(settings.max_megabytes * 1_000_000)
    content = io.BytesIO()
    try:
        for chunk in response.iter_content(CHUNK_BYTES):
            content.write(chunk)
            if content.tell() > limit:
                raise SourceError(
                    f"{url}: larger than {settings.max_megabytes:g} MB. Raise `download.max_megabytes` if that is so."
                )
    except requests.RequestException as error:
        raise _Incomplete(str(error)) from error
    if not content.getvalue().startswith(b"PK"):
        raise SourceError(f"{url}: the answer is not a workbook but begins {content.getvalue()[:40]!r}. {WAY_OUT}")
    if not zipfile.is_zipfile(content):
        raise _Incomplete(f"{content.tell()} bytes without the end of a workbook")
    # The length says nothing of what lies between: every part of a workbook has a checksum.
    try:
        with zipfile.ZipFile(content) as workbook:
            damaged = workbook.testzip()
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise _Incomplete(f"damaged on the way: {error}") from error
    if damaged:
        raise _Incomplete(f"damaged on the way: {damaged} does not match its checksum")
    return content.getvalue()
