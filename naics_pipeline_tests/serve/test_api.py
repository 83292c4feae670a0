"""The JSON API: answers of the index, limits that say what to do, nothing kept."""

import io
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import polars as pl
import pytest

from naics_pipeline.search.classify import Coding, Task, classify_file
from naics_pipeline.serve.limits import Limits, Rate
from naics_pipeline_tests.conftest import REPOSITORY
from naics_pipeline_tests.serve.conftest import LIMITS, Serving


def test_search_answers_as_the_index_does(client, index):
    texts = ["grooming of dogs", "pizza, delivery", ""]
    response = client.post("/api/search", json={"texts": texts, "k": 2})
    assert response.status_code == 200
    assert response.json() == [asdict(answer) for answer in index.search(texts, 2)]
    assert client.post("/api/search", json={"texts": texts[0]}).json()[0]["text"] == texts[0]


def test_many_clients_at_once_get_each_their_own_answer(client, index):
    texts = [f"{what} {number}" for number in range(30) for what in ("growing corn", "pet boarding")]
    with ThreadPoolExecutor(16) as clients:
        found = list(clients.map(lambda text: client.post("/api/search", json={"texts": [text], "k": 1}).json(), texts))
    assert [answer["text"] for (answer,) in found] == texts
    # Not the codes: two are equally likely, and rounding, as of the texts that are read together, says which is first.
    expected = [answer.candidates[0].probability for answer in index.search(texts, 1)]
    assert len({round(probability, 2) for probability in expected}) > 1
    assert [answer["candidates"][0]["probability"] for (answer,) in found] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"{", 422, "body: Invalid JSON"),
        (b'{"texts": ["a"], "k": 0}', 422, "k: Input should be greater than or equal to 1"),
        (b'{"texts": 1}', 422, "texts: Input should be a valid array"),
        (b'{"texts": ["' + 501 * b"a" + b'"]}', 413, "A text of 501 characters: at most 500."),
        (b'{"texts": [' + b",".join([b'"a"'] * 41) + b"]}", 413, "41 texts at once: at most 40."),
        (b'{"texts": ["' + 1_000_000 * b"a" + b'"]}', 413, "More than 50,000 bytes at once. Send fewer"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_the_reason(client, body, status, says):
    response = client.post("/api/search", content=body)
    assert response.status_code == status
    assert says in response.json()["detail"]


def test_a_file_comes_back_as_classify_codes_it(client, index, tmp_path):
    table = pl.DataFrame(
        {"id": range(550), "what": ["growing corn", "grooming of\u2028dogs", "", "pizza, delivery", "x"] * 110}
    )
    table.write_csv(tmp_path / "in.csv")
    content = (tmp_path / "in.csv").read_bytes() + b"550\n"
    (tmp_path / "in.csv").write_bytes(content)
    response = client.post("/api/classify", params={"text": "what", "top": 2}, content=content)
    assert response.status_code == 200, response.text
    classify_file(index, Task(tmp_path / "in.csv", tmp_path / "out.csv", Coding("what", 2)))
    found, expected = (pl.read_csv(source) for source in (io.BytesIO(response.content), tmp_path / "out.csv"))
    assert found.drop("probability_1", "probability_2").equals(expected.drop("probability_1", "probability_2"))
    assert found.height == 551


@pytest.mark.parametrize(
    ("text", "content", "status", "says"),
    [
        ("words", b"what\na\n", 400, "has no column 'words'. It has what"),
        ("what", b"what,code_1\na,1\n", 400, "has a column 'code_1' already"),
        ("what", b"", 400, "its first line has to name each column once"),
        (
            "what",
            b"what\n" + 601 * b"a\n",
            413,
            "601 rows at once: at most 600. Code larger files with `naics classify`",
        ),
        ("what", b"what\n" + 50_000 * b"a", 413, "More than 50,000 bytes at once."),
    ],
)
def test_a_file_that_cannot_be_coded_is_refused_with_the_reason(client, text, content, status, says):
    response = client.post("/api/classify", params={"text": text}, content=content)
    assert response.status_code == status
    assert says in response.json()["detail"]


def test_codes_are_found_by_digits_and_by_words(client):
    def codes(query: str) -> list[str]:
        return [found["code"] for found in client.get("/api/codes", params={"query": query}).json()]

    assert codes("7225") == ["722511", "722513"]
    assert codes("restaurants full") == ["722511"]
    assert codes(" ") == codes("zzz") == []


def test_who_asks_too_often_is_told_to_wait(index):
    serving = Serving(index, Limits(rate=2))
    try:
        statuses = [serving.client.get("/api/about").status_code for _ in range(8)]
        assert statuses[:4] == [200] * 4
        assert 429 in statuses
        assert "2 requests a second" in serving.client.get("/api/about").json()["detail"]
    finally:
        serving.close()


def test_a_bucket_fills_again_and_is_one_addresss_own():
    now = [0.0]
    rate = Rate(2, lambda: now[0])
    assert [rate.allows("a") for _ in range(5)] == [True] * 4 + [False]
    assert rate.allows("b")
    now[0] = 0.5
    assert [rate.allows("a") for _ in range(2)] == [True, False]


def test_other_names_of_the_server_are_refused(client):
    """A page elsewhere whose name was made to point here must not ask in the name of who looks at it."""
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 400


def test_the_api_is_described_and_says_who_answers(client, index):
    paths = client.get("/openapi.json").json()["paths"]
    assert paths.keys() == {"/api/about", "/api/search", "/api/codes", "/api/classify"}
    body = paths["/api/search"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {"texts", "k", "threshold"} == body["properties"].keys()
    about = client.get("/api/about").json()
    assert about["index_version"] == index.version
    assert about["limits"]["rows"] == LIMITS.rows


def test_nothing_that_is_asked_is_written(client, monkeypatch, tmp_path):
    opened = []
    real = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *a, **k: opened.append(self) or real(self, *a, **k))
    client.post("/api/search", json={"texts": ["grooming of dogs"]})
    client.post("/api/classify", params={"text": "what"}, content=b"what\nfarming\n")
    assert opened == []


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_commands_of_the_manual_work(served, tmp_path):
    manual = (REPOSITORY / "docs" / "searching.md").read_text()
    commands = [line for line in manual.splitlines() if line.startswith("curl ") and ":8000/" in line]
    assert len(commands) == 2
    (tmp_path / "firms.csv").write_text("activity\ngrowing corn\n")
    for command in commands:
        own = command.replace("http://127.0.0.1:8000", served.url).replace("curl ", "curl --fail ")
        subprocess.run(["bash", "-c", own], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "coded.csv").read_text().splitlines()[1].startswith("growing corn,111150,")
