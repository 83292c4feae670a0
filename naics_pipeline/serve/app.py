"""The page and the JSON API over one index. Nothing that is asked is kept or written anywhere."""

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, Field, ValidationError, field_validator
from starlette.middleware.trustedhost import TrustedHostMiddleware

from naics_pipeline.errors import NaicsError
from naics_pipeline.search.answers import THRESHOLD, Answer, Named
from naics_pipeline.search.classify import Coding, coded_csv, csv_frames
from naics_pipeline.search.index import Index
from naics_pipeline.serve.limits import Limits, Rate, body_of
from naics_pipeline.serve.page import page
from naics_pipeline.serve.worker import Worker

LOCAL = ("127.0.0.1", "localhost", "[::1]")
_WARM = "family diner, waiters at the tables"


class Question(BaseModel):
    """Texts to find codes for."""

    texts: list[str] = Field(description="what businesses do, in their own words")
    k: int = Field(5, ge=1, le=50, description="how many codes for each")
    threshold: float = Field(
        THRESHOLD, gt=0, le=1, description="the answer is the deepest code that is at least so probable"
    )

    @field_validator("texts", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


class About(BaseModel):
    """The index that answers."""

    index_version: str
    vintage: int
    codes: int
    base: str
    limits: dict[str, float]


def create_app(index: Index, limits: Limits | None = None, hosts: Sequence[str] = LOCAL) -> FastAPI:
    """The application.

    Args:
        hosts: names that it may be reached by; others are refused, so that no foreign page can ask in a browser's name.
    """
    bounds = limits or Limits()
    rate = Rate(bounds.rate)
    worker = Worker(index)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        # The first search would otherwise wait for what is computed once.
        await asyncio.wrap_future(worker.search([_WARM], 1, THRESHOLD))
        yield
        worker.close()

    # FastAPI's own pages of documentation load scripts from elsewhere.
    app = FastAPI(
        title="NAICS codes for free text", version=index.version, lifespan=life, docs_url=None, redoc_url=None
    )
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))
    html, policy = page()

    @app.middleware("http")
    async def guarded(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        address = request.client.host if request.client else ""
        if not rate.allows(address):
            return _problem(
                429, f"More than {bounds.rate:g} requests a second. Wait a moment, or send many texts at once."
            )
        response = await answer(request)
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Cache-Control"] = "no-store"
        return response

    @app.exception_handler(NaicsError)
    async def refused(request: Request, error: NaicsError) -> Response:
        return _problem(400, str(error))

    @app.get("/", include_in_schema=False)
    async def start() -> HTMLResponse:
        return HTMLResponse(html, headers={"Content-Security-Policy": policy})

    @app.get("/api/about")
    async def about() -> About:
        """Version and limits."""
        manifest = index.manifest
        own = {name: float(value) for name, value in vars(bounds).items()}
        described = {name: manifest[name] for name in ("vintage", "codes", "base")}
        return About(index_version=index.version, **described, limits=own)

    schema = {"required": True, "content": {"application/json": {"schema": Question.model_json_schema()}}}

    @app.post("/api/search", openapi_extra={"requestBody": schema})
    async def search(request: Request) -> list[Answer]:
        """The likeliest codes for each text, with all that helps to judge them."""
        most = 6 * bounds.texts * bounds.characters
        content = await body_of(request, min(most, bounds.bytes), "Send fewer or shorter texts.")
        try:
            question = Question.model_validate_json(content)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"])) or "body"
            raise HTTPException(422, f"{place}: {first['msg']}") from error
        if len(question.texts) > bounds.texts:
            raise HTTPException(413, f"{len(question.texts):,} texts at once: at most {bounds.texts:,}.")
        longest = max(map(len, question.texts), default=0)
        if longest > bounds.characters:
            raise HTTPException(413, f"A text of {longest:,} characters: at most {bounds.characters:,}.")
        return await asyncio.wrap_future(worker.search(question.texts, question.k, question.threshold))

    @app.get("/api/codes")
    async def codes(
        query: Annotated[str, Query(max_length=200)], limit: Annotated[int, Query(ge=1, le=50)] = 10
    ) -> list[Named]:
        """Six-digit codes by the beginning of the code or by words of the title."""
        words = query.lower().split()
        found = (
            Named(str(code), index.titles.get(code, ""))
            for code in index.candidates
            if words
            and (code.startswith(words[0]) or all(word in index.titles.get(code, "").lower() for word in words))
        )
        return [named for named, _ in zip(found, range(limit), strict=False)]

    @app.post(
        "/api/classify",
        response_class=Response,
        openapi_extra={"requestBody": {"required": True, "content": {"text/csv": {"schema": {"type": "string"}}}}},
    )
    async def classify(
        request: Request,
        text: Annotated[str, Query(description="the column of the texts")],
        top: Annotated[int, Query(ge=1, le=20)] = 3,
        threshold: Annotated[float, Query(gt=0, le=1)] = THRESHOLD,
    ) -> Response:
        """A CSV file with a code for every row: all its columns, and those that `naics classify` adds."""
        advice = "Code larger files with `naics classify`, which takes any size."
        content = await body_of(request, bounds.bytes, advice)
        coding = Coding(text, top, threshold)
        # Not splitlines, which also ends lines inside a text, such as at U+2028.
        lines = io.StringIO(content.decode("utf-8-sig", errors="replace"), newline="")
        frames = list(csv_frames(lines, "the file", coding))
        rows = sum(frame.height for frame in frames)
        if rows > bounds.rows:
            raise HTTPException(413, f"{rows:,} rows at once: at most {bounds.rows:,}. {advice}")
        # Block by block, so that a search that comes meanwhile does not wait for the whole file.
        done = [await asyncio.wrap_future(worker.run(partial(coded_csv, index, coding, frame))) for frame in frames]
        table = done[0][0] + "".join(body for _, body in done)
        return Response(table, media_type="text/csv", headers={"Content-Disposition": "attachment; filename=coded.csv"})

    return app


def _problem(status: int, said: str) -> JSONResponse:
    return JSONResponse({"detail": said}, status)
