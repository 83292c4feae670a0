"""A server in this process, on a port of its own, over an index of a few codes."""

import threading
import time
from collections.abc import Iterator

import httpx
import pytest
import uvicorn

from naics_pipeline.search.index import Index
from naics_pipeline.serve.app import create_app
from naics_pipeline.serve.limits import Limits
from naics_pipeline_tests.search.conftest import index, index_path

__all__ = ["index", "index_path"]
LIMITS = Limits(texts=40, characters=500, rows=600, bytes=50_000, rate=1000)


class Serving:
    """A server that runs, and a client of it."""

    def __init__(self, index: Index, limits: Limits) -> None:
        config = uvicorn.Config(create_app(index, limits), port=0, log_level="warning", access_log=False)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        while not self.server.started:
            assert self.thread.is_alive()
            time.sleep(0.02)
        port = self.server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.client = httpx.Client(base_url=self.url, timeout=60)

    def close(self) -> None:
        self.client.close()
        self.server.should_exit = True
        self.thread.join(20)
        assert not self.thread.is_alive()


@pytest.fixture(scope="session")
def served(index: Index) -> Iterator[Serving]:
    serving = Serving(index, LIMITS)
    yield serving
    serving.close()


@pytest.fixture(scope="session")
def client(served: Serving) -> httpx.Client:
    return served.client
