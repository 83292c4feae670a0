"""What one client may ask of the server."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from fastapi import HTTPException, Request

_CLIENTS = 10_000


@dataclass(frozen=True)
class Limits:
    """Bounds of a request.

    Attributes:
        texts: of one search.
        characters: of one text.
        rows: of one file.
        bytes: of one file.
        rate: requests a second of one address, on average over a few seconds.
    """

    texts: int = 100
    characters: int = 20_000
    rows: int = 20_000
    bytes: int = 20_000_000
    rate: float = 200.0


class Rate:
    """A bucket of requests for each address, which fills at a steady rate; two seconds of it can be saved up."""

    def __init__(self, rate: float, now: Callable[[], float] = time.monotonic) -> None:
        self.rate, self.now = rate, now
        self._left: dict[str, tuple[float, float]] = {}

    def allows(self, address: str) -> bool:
        """Whether the address may ask once more; counts it if so."""
        now, most = self.now(), max(1.0, 2 * self.rate)
        left, at = self._left.pop(address, (most, now))
        left = min(most, left + (now - at) * self.rate)
        allowed = left >= 1
        self._left[address] = (left - 1 if allowed else left, now)
        if len(self._left) > _CLIENTS:
            # The one that was quiet longest has a full bucket by now.
            del self._left[next(iter(self._left))]
        return allowed


async def body_of(request: Request, most: int, advice: str) -> bytes:
    """The body of a request; one that is too large is refused before it is all here.

    Raises:
        HTTPException: 413, with the advice.
    """
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > most:
            raise HTTPException(413, f"More than {most:,} bytes at once. {advice}")
    return bytes(content)
