"""The studio's server: which requests are answered, and with which files.

A visitor is known by a cookie. Files come only from the visitor's own folder and the run on the table: each part of
the path is checked to be no link and no dots, and the file to be a picture or film that the page shows. Of Gradio's
own routes only those that the page needs are answered; those for uploads, files and proxies are not among them.
"""

import base64
import binascii
import json
import re
import secrets
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from segue.errors import SegueError
from segue.studio.change import frame_at
from segue.studio.download import FORMATS
from segue.studio.films import download_film, remake_frame, resume_film, rewrite_film, step
from segue.studio.panel import frame_panel, table
from segue.studio.session import Session, Studio

__all__ = ["COOKIE", "Guard", "api", "file_of", "megabytes", "visitor_of"]

COOKIE = "segue"
PARTS = {path.name: path for path in (Path(__file__).parent / "static").iterdir()}  # of the page
# All that the page asks for; of Gradio's routes those of its own scripts and its one event.
ANSWERED = re.compile(
    r"/|/studio/.*|/files/.*|/download/\w+|/(assets|static)/.*|/(config|theme\.css|manifest\.json|favicon\.ico)"
    r"|/gradio_api/run/predict"
)
KINDS = {".png": "image/png", ".mp4": "video/mp4"}
# Only this server, so that nothing is fetched from or told to anybody else.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; frame-ancestors 'self'"
)

Action: TypeAlias = Callable[[Session, Mapping[str, Any]], Any]

# What is done whichever table is on the page; to keyframes, on the table of the film that the body names.
ACTIONS: Mapping[str, Action] = {
    "remove": lambda session, body: session.tables.keyframes_of(body.get("film")).remove(body["id"]),
    "move": lambda session, body: session.tables.keyframes_of(body.get("film")).move(body["id"], int(body["by"])),
    "prompt": lambda session, body: session.tables.keyframes_of(body.get("film")).word(body["id"], str(body["prompt"])),
    "crop": lambda session, body: session.tables.keyframes_of(body.get("film")).crop(body["id"], body["box"]),
    "describe": lambda session, body: session.describe(body["id"], body.get("film")),
    "example": lambda session, body: session.example(str(body["name"])),
    "new": lambda session, _body: session.new(),
    "open": lambda session, body: session.open(str(body["name"])),
    "pause": lambda session, _body: session.pause(),
    "stop": lambda session, _body: session.stop(),
}
UNLOCKED = ("describe", "pause", "stop")  # of these, what takes long or must not wait
# What is refused where the body names another film than the one on the table.
ON_TABLE: Mapping[str, Action] = {
    "clear": lambda session, _body: session.clear(),
    "bring_back": lambda session, _body: session.bring_back(),
    "resume": lambda session, _body: resume_film(session),
    "remake": lambda session, body: remake_frame(session, str(body["place"]), body["change"]),
    "undo": lambda session, _body: step(session, back=True),
    "redo": lambda session, _body: step(session, back=False),
    "film": lambda session, body: rewrite_film(session, body["values"]),
}


def api(studio: Studio, most_bytes: int) -> FastAPI:
    """The routes beside the page: what it shows, what it does, its files."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.exception_handler(SegueError)
    async def refused(_request: Request, error: SegueError) -> JSONResponse:
        return JSONResponse({"error": " ".join(str(error).split())}, status_code=400)

    @app.exception_handler(OSError)
    async def broken(_request: Request, error: OSError) -> JSONResponse:
        return JSONResponse({"error": f"the studio's folder: {error.strerror or error}"}, status_code=500)

    @app.get("/studio/state")
    def state(request: Request) -> JSONResponse:
        return JSONResponse(table(_session(studio, request)), headers={"Cache-Control": "no-store"})

    @app.get("/studio/frame")
    def frame(request: Request, place: str) -> JSONResponse:
        panel = frame_panel(_session(studio, request), frame_at(place))
        return JSONResponse(panel, headers={"Cache-Control": "no-store"})

    @app.post("/studio/keyframes")
    async def add(request: Request, name: str = "the picture", film: str | None = None) -> JSONResponse:
        session = _session(studio, request)
        session.folder.mkdir(parents=True, exist_ok=True)
        temporary = session.folder / f".{secrets.token_hex(8)}.upload"
        try:
            size = 0
            with temporary.open("wb") as file:
                async for part in request.stream():
                    size += len(part)
                    if size > most_bytes:
                        raise SegueError(f"{name} is too large: the limit is {megabytes(most_bytes)}; make it smaller")
                    await run_in_threadpool(file.write, part)
            await run_in_threadpool(_add, session, film, temporary, name[:200])
        except OSError as error:
            raise SegueError(f"{name} cannot be kept: {error.strerror}") from error
        finally:
            temporary.unlink(missing_ok=True)
        return JSONResponse(table(session))

    @app.post("/studio/act/{action}")
    async def act(request: Request, action: str) -> JSONResponse:
        if action not in {**ACTIONS, **ON_TABLE}:
            raise SegueError(f"the studio cannot {action}")
        try:
            body = json.loads(await request.body() or b"{}")
            answer = await run_in_threadpool(_done, _session(studio, request), action, body)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            if isinstance(error, SegueError):
                raise
            raise SegueError(f"{action}: the request lacks something ({error})") from error
        except OSError as error:
            raise SegueError(f"{action}: {error.strerror or error}") from error
        return JSONResponse({"answer": answer if isinstance(answer, str) else None, **table(_session(studio, request))})

    @app.get("/files/{path:path}")
    def file(request: Request, path: str) -> Response:
        found = file_of(_session(studio, request), path)
        if found is None:
            return JSONResponse({"error": "no such file"}, status_code=404)
        headers = {"Cache-Control": "private, max-age=31536000, immutable"} if "v=" in str(request.url.query) else {}
        return FileResponse(found, media_type=KINDS[found.suffix], headers=headers)

    @app.get("/download/{kind}")
    def download(request: Request, kind: str, film: str | None = None) -> FileResponse:
        session = _session(studio, request)
        path = download_film(session, kind, film)
        return FileResponse(path, filename=f"{film or session.tables.name}-{FORMATS[kind]}")

    @app.get("/studio/page/{name}")
    def part(name: str) -> Response:
        if name not in PARTS:
            return Response(status_code=404)
        return FileResponse(PARTS[name], headers={"Cache-Control": "no-cache"})

    @app.get("/studio/example/{name}/{number}")
    def example(name: str, number: int) -> Response:
        pictures = studio.examples.get(name, ())
        if not 0 <= number < len(pictures):
            return Response(status_code=404)
        return FileResponse(pictures[number], media_type="image/png", headers={"Cache-Control": "max-age=3600"})

    return app


def _add(session: Session, film: str | None, picture: Path, name: str) -> None:
    """Lay a picture on a film's table."""
    with session.lock:
        session.tables.keyframes_of(film).add(picture, name)


def _done(session: Session, action: str, body: Mapping[str, Any]) -> Any:
    """Do what the page asks for; raises SegueError if it is meant for a film that is not on the table."""
    if action in UNLOCKED:
        return ACTIONS[action](session, body)
    with session.lock:
        if action in ACTIONS:
            return ACTIONS[action](session, body)
        session.check(body.get("film"))
        return ON_TABLE[action](session, body)


def file_of(session: Session, path: str) -> Path | None:
    """The file that an address stands for; None for everything but the pictures and films of the visitor's table."""
    parts = path.split("/")
    if any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in parts):
        return None
    base: Path | None
    match parts:
        case ["keyframes", name]:
            base, rest = session.folder, ["keyframes", name]
        case ["run", run, ("frames" | "pictures") as folder, name]:
            base, rest = session.runs().get(run), [folder, name]
        case ["before", run, name] if name == f"{run}.mp4" and run in session.runs():
            base, rest = session.folder, ["before", name]
        case ["film", run, name] if name == f"{run}.mp4":
            found = session.runs().get(run)
            base, rest = (found.parent, [name]) if found else (None, [])
        case _:
            return None
    if base is None or Path(rest[-1]).suffix not in KINDS:
        return None
    place = base
    for part in rest:
        place = place / part
        try:
            mode = place.lstat().st_mode
        except (OSError, ValueError):
            return None
        if stat.S_ISLNK(mode):
            return None
    return place if stat.S_ISREG(place.lstat().st_mode) else None


def visitor_of(cookies: Mapping[str, str]) -> str | None:
    """The visitor that a cookie names; None if it names none."""
    value = cookies.get(COOKIE, "")
    return value if len(value) == 32 and all(letter in "0123456789abcdef" for letter in value) else None


class Guard:
    """Stands before everything: password, host, size, cookie, and headers that keep the page to itself."""

    def __init__(
        self, app: ASGIApp, *, most_bytes: int, password: str | None = None, hosts: frozenset[str] | None
    ) -> None:
        self.app, self.most_bytes, self.hosts = app, most_bytes, hosts
        self.password = password

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] == "websocket":  # the page uses none
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if refusal := self._refusal(scope, headers):
            await refusal(scope, receive, send)
            return
        cookies = cookie_parser(headers.get("cookie", ""))
        fresh = None if visitor_of(cookies) else secrets.token_hex(16)
        if fresh:  # the application sees the cookie at once
            cookies[COOKIE] = fresh
            joined = "; ".join(f"{name}={value}" for name, value in cookies.items()).encode()
            others = [(name, value) for name, value in scope["headers"] if name != b"cookie"]
            scope = {**scope, "headers": [*others, (b"cookie", joined)]}

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                out = MutableHeaders(scope=message)
                out["X-Content-Type-Options"], out["Referrer-Policy"] = "nosniff", "no-referrer"
                out["Content-Security-Policy"] = POLICY
                if fresh:
                    out.append("Set-Cookie", f"{COOKIE}={fresh}; Path=/; HttpOnly; SameSite=Strict; Max-Age=31536000")
            await send(message)

        await self.app(scope, receive, answer)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        host = headers.get("host", "").rsplit(":", 1)[0]
        if self.hosts is not None and host not in self.hosts:
            return Response("unknown host", status_code=400)
        if self.password is not None and not self._knows(headers.get("authorization", "")):
            return Response("password", status_code=401, headers={"WWW-Authenticate": 'Basic realm="segue"'})
        if not ANSWERED.fullmatch(scope["path"]):
            return Response("refused", status_code=403)
        origin = headers.get("origin")
        if scope["method"] == "POST" and origin and origin.split("//")[-1] != headers.get("host"):
            return Response("requests from other sites are refused", status_code=403)
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self.most_bytes:
            text = f"too large: the limit is {megabytes(self.most_bytes)}; make the picture smaller"
            return JSONResponse({"error": text}, status_code=413)
        return None

    def _knows(self, authorization: str) -> bool:
        """Whether the request brings the password (HTTP Basic, any user's name)."""
        kind, _, coded = authorization.partition(" ")
        try:
            given = base64.b64decode(coded).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return False
        return kind.lower() == "basic" and secrets.compare_digest(given.encode(), (self.password or "").encode())


def megabytes(size: int) -> str:
    """Bytes as a person reads them."""
    return f"{size / 2**20:g} MB"


def _session(studio: Studio, request: Request) -> Session:
    visitor = visitor_of(request.cookies)
    if visitor is None:
        raise SegueError("the page needs its cookie; allow cookies for this address and reload")
    return studio.session(visitor)
