"""Finding, checking and loading the base model: package, path, and a hub that a local server plays."""

import hashlib
import itertools
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from naics_pipeline.errors import ModelError
from naics_pipeline.text_model import base

COMMIT = "0" * 40


class Hub(ThreadingHTTPServer):
    """Serves one model the way the hub does; `failures` answers 503 so many times first."""

    def __init__(self, directory: Path, failures: int = 0) -> None:
        self.directory, self.failures = directory, failures
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET(body=False)

    def do_GET(self, body: bool = True) -> None:
        if self.server.failures > 0:
            self.server.failures -= 1
            return self.answer(503, b"busy", body)
        path = self.path.split("?")[0].replace("%2F", "/")
        if path.startswith("/api/models/acme/tiny/") and not re.search(f"/(main|{COMMIT})$", path):
            return self.answer(404, b"{}", body, {"X-Error-Code": "RevisionNotFound"})
        if path.startswith("/api/models/acme/tiny/"):
            files = sorted(self.server.directory.iterdir())
            tree = [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": COMMIT} for f in files]
            model = {"id": "acme/tiny", "sha": COMMIT, "siblings": [{"rfilename": file.name} for file in files]}
            return self.answer(200, json.dumps(tree if "/tree/" in path else model).encode(), body)
        file = self.server.directory / path.rsplit("/", 1)[-1]
        if path.startswith("/acme/tiny/resolve/") and file.is_file():
            return self.answer(200, file.read_bytes(), body)
        return self.answer(404, b"{}", body, {"X-Error-Code": "RepoNotFound"})

    def answer(self, status: int, content: bytes, body: bool, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)


@pytest.fixture
def hub(tiny_base: Path) -> Iterator[Hub]:
    server = Hub(tiny_base)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def locate_elsewhere(hub: Hub, home: Path, name: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`locate` in a process of its own: the hub's client reads its settings when it is imported."""
    script = f"""
import time; time.sleep = lambda seconds: None
from naics_pipeline.text_model.base import locate
print(locate({name!r}))
"""
    return subprocess.run(
        [sys.executable, "-c", script],
        env={"PATH": "/usr/bin:/bin", "HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
        | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_model_comes_from_the_hub_once_and_then_from_the_cache(hub: Hub, tmp_path: Path, tiny_base: Path) -> None:
    first = locate_elsewhere(hub, tmp_path, "acme/tiny")
    assert first.returncode == 0, first.stderr
    directory = Path(first.stdout.splitlines()[-1])
    assert (directory / "model.safetensors").read_bytes() == (tiny_base / "model.safetensors").read_bytes()
    offline = locate_elsewhere(hub, tmp_path, "acme/tiny", HF_HUB_OFFLINE="1")
    assert Path(offline.stdout.splitlines()[-1]) == directory


def test_a_model_can_be_pinned_to_a_commit(hub: Hub, tmp_path: Path) -> None:
    floating = locate_elsewhere(hub, tmp_path, "acme/tiny")
    assert f"name 'acme/tiny@{COMMIT}'" in floating.stderr
    pinned = locate_elsewhere(hub, tmp_path, f"acme/tiny@{COMMIT}")
    assert pinned.stdout.splitlines()[-1].endswith(f"/snapshots/{COMMIT}")
    assert "is at commit" not in pinned.stderr
    absent = locate_elsewhere(hub, tmp_path, f"acme/tiny@{'f' * 40}")
    assert f"there is no model 'acme/tiny@{'f' * 40}' on the hub" in absent.stderr


def test_a_busy_hub_is_asked_again(hub: Hub, tmp_path: Path) -> None:
    hub.failures = 2
    result = locate_elsewhere(hub, tmp_path, "acme/tiny")
    assert result.returncode == 0, result.stderr
    assert hub.failures == 0


def test_a_model_that_is_not_there_is_named(hub: Hub, tmp_path: Path) -> None:
    result = locate_elsewhere(hub, tmp_path, "acme/absent")
    assert "ModelError: model.base: there is no model 'acme/absent' on the hub" in result.stderr


def test_an_unreachable_hub_is_said_to_be_so(hub: Hub, tmp_path: Path) -> None:
    result = locate_elsewhere(hub, tmp_path, "acme/tiny", HF_ENDPOINT="http://127.0.0.1:1")
    assert "ModelError: model.base: 'acme/tiny' could not be downloaded in 4 attempts" in result.stderr


def test_weights_that_do_not_match_their_hash_are_refused(tiny_base: Path, tmp_path: Path) -> None:
    directory = tmp_path / "model"
    shutil.copytree(tiny_base, directory)
    right = hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest()
    assert base.locate(str(directory), right) == directory
    content = bytearray((directory / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (directory / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=f"do not match their hash.*expected {right}"):
        base.locate(str(directory), right)


def test_the_packaged_model_has_the_official_weights() -> None:
    directory = base.locate("all-MiniLM-L6-v2")
    found = hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest()
    assert found == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def test_an_incomplete_or_damaged_directory_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    directory = tmp_path / "model"
    shutil.copytree(tiny_base, directory)
    (directory / "model.safetensors").write_bytes((directory / "model.safetensors").read_bytes()[:500])
    with pytest.raises(ModelError, match=r"weights in .* cannot be loaded"):
        base.load_base(directory)
    (directory / "config.json").unlink()
    with pytest.raises(ModelError, match=r"has no config\.json"):
        base.locate(str(directory))


def test_sentence_embeddings_say_which_texts_are_alike() -> None:
    vectors = base.encode_texts("all-MiniLM-L6-v2", ["soybean farm", "growing soybeans", "commercial bank"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2


@given(st.lists(st.integers(1, 9), max_size=7), st.integers(0, 30))
def test_length_groups_pad_no_more_than_they_must(lengths: list[int], group_cost: int) -> None:
    """Against every way to cut the sorted texts."""
    of_text = np.array(lengths, dtype=int)

    def cost(groups: list[np.ndarray]) -> int:
        return sum(len(group) * int(group.max()) + group_cost for group in groups if len(group))

    ways = itertools.product([False, True], repeat=max(0, len(lengths) - 1))
    least = min(cost(np.split(np.sort(of_text), np.flatnonzero(way) + 1)) for way in ways)
    groups = base.length_groups(of_text, 1000, group_cost)
    assert sorted(itertools.chain.from_iterable(groups)) == list(range(len(lengths)))
    assert cost([of_text[group] for group in groups]) == least


def test_length_groups_hold_every_text_within_the_limit() -> None:
    lengths = np.random.default_rng(0).integers(1, 200, 300)
    groups = base.length_groups(lengths, 1000)
    assert sorted(np.concatenate(groups)) == list(range(300))
    assert all(len(group) == 1 or lengths[group].max() * len(group) <= 1000 for group in groups)
    assert len(groups) < 2 * lengths.sum() / 1000
