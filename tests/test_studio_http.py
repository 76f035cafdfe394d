"""The studio's server over raw HTTP: which files are served, which requests are refused."""

import asyncio
import base64
import http.client
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio")

import uvicorn
from test_studio import begun, made, tiny_studio

from segue.cli.studio import application, size_of
from segue.errors import SegueError
from segue.studio.session import Session

VISITOR = "d" * 32

# A server that is ended in a thread leaves its sockets to the collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@dataclass
class Server:
    port: int
    session: Session
    root: Path

    def raw(
        self, target: str, visitor: str | None = VISITOR, method: str = "GET", body: bytes = b"", **headers: str
    ) -> tuple[int, bytes]:
        """A request whose target is sent as it stands, without a client tidying it."""
        sent = {
            "Host": f"127.0.0.1:{self.port}",
            "Connection": "close",
            **{k.replace("_", "-"): v for k, v in headers.items()},
        }
        if visitor:
            sent["Cookie"] = f"segue={visitor}"
        if body:
            sent.setdefault("Content-Length", str(len(body)))
        lines = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            connection.sendall(f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode() + body)
            response = http.client.HTTPResponse(connection)
            response.begin()
            return response.status, response.read()


def _served(root: Path, *, password: str | None = None) -> Iterator[Server]:
    studio = tiny_studio(root / "visitors")
    session = made(begun(studio, root, VISITOR))
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]

    async def built() -> Any:  # where no loop runs, Gradio makes some that it never closes
        return application(studio, most_bytes=200_000, password=password, hosts=frozenset({"127.0.0.1"}))

    app = asyncio.run(built())
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield Server(port, session, root)
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from _served(tmp_path_factory.mktemp("served"))


def test_the_runs_pictures_are_served(server: Server) -> None:
    assert server.session.run
    frame = server.session.run / "frames" / "000.5000000.png"
    status, body = server.raw("/files/run/film-1/frames/000.5000000.png")
    assert (status, body) == (200, frame.read_bytes())
    assert server.raw("/files/film/film-1/film-1.mp4")[0] == 200


@pytest.mark.parametrize(
    "target",
    [
        "/files/run/film-1/run.json",
        "/files/run/film-1/frames/../run.json",
        "/files/run/film-1/frames/..%2frun.json",
        "/files/run/film-1/frames/%2e%2e/%2e%2e/%2e%2e/studio.json",
        "/files/run/../../../../secret.png",
        "/files/run/film-1/frames/..%5c..%5csecret.png",
        "/files/keyframes/../../../secret.png",
        "/files/keyframes/%2e%2e%2f%2e%2e%2f%2e%2e%2fsecret.png",
        "/files//etc/passwd",
        "/files/run/film-1/frames//etc/passwd",
        "/files/run/film-1/frames/link.png",
        "/files/run/film-1/linked/secret.png",
        "/files/run/film-1/frames/a%00.png",
        "/files/run/linked-run/frames/000.0000000.png",
        "/files/film/film-1/secret.mp4",
        "/files/before/film-1/../secret.mp4",
        "/files/before/film-2/film-2.mp4",
        "/files/before/film-1/film-1.mp4",
        "/studio/page/serve.py",
        "/studio/page/../serve.py",
        "/studio/page/..%2fserve.py",
        "/studio/example/secret.png/0",
        "/studio/example/../0",
        "/download/..%2fsecret.png",
        "/download/exe",
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=secret.png",
        "/gradio_api/file/etc/passwd",
        "/gradio_api/proxy=http://127.0.0.1/",
        "/gradio_api/info",
        "/gradio_api/queue/data?session_hash=a",
        "/gradio_api/upload_progress?upload_id=a",
        "/gradio_api/deep_link",
        "/gradio_api/custom_component/a/client/component/..%2f..%2f..%2fetc%2fpasswd",
        "/gradio_api//file=/etc/passwd",
        "/svelte/../../etc/passwd",
        "/monitoring",
        "/openapi.json",
        "/file=/etc/passwd",
        "/static/../../etc/passwd",
        "/assets/..%2f..%2f..%2fetc%2fpasswd",
    ],
)
def test_nothing_else_is_served(server: Server, target: str) -> None:
    assert server.session.run
    secret = server.root / "secret.png"
    secret.write_bytes(b"\x89PNG secret")
    (server.root / "visitors" / "secret.png").write_bytes(b"\x89PNG secret")
    link = server.session.run / "frames" / "link.png"
    if not link.is_symlink():
        link.symlink_to(secret)
        (server.session.run / "linked").symlink_to(server.root)
        (server.session.run.parent / "linked-run").symlink_to(server.session.run)
    status, body = server.raw(target)
    assert status in (400, 403, 404)
    assert b"secret" not in body
    assert b"root:" not in body


def test_the_film_before_is_served_unless_it_is_a_link(server: Server) -> None:
    before = server.session.folder / "before" / "film-1.mp4"
    assert not before.exists()
    before.parent.mkdir(exist_ok=True)
    before.write_bytes(b"a film")
    assert server.raw("/files/before/film-1/film-1.mp4") == (200, b"a film")
    assert server.raw("/files/before/film-1/film-1.mp4", "e" * 32)[0] == 404
    before.unlink()
    before.symlink_to(server.root / "secret.png")
    assert server.raw("/files/before/film-1/film-1.mp4")[0] == 404
    before.unlink()


def test_websockets_are_refused(server: Server) -> None:
    status, _ = server.raw(
        "/gradio_api/queue/join",
        Upgrade="websocket",
        Connection="Upgrade",
        Sec_WebSocket_Version="13",
        Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZQ==",
    )
    assert status in (400, 403, 404)


def test_another_visitor_sees_nothing_of_it(server: Server) -> None:
    assert server.raw("/files/run/film-1/frames/000.5000000.png", "e" * 32)[0] == 404
    assert json.loads(server.raw("/studio/state", "e" * 32)[1])["films"] == []
    status, body = server.raw("/studio/state", "../../etc")
    assert status == 200  # a new visitor
    assert json.loads(body)["keyframes"] == []


def test_other_programs_cookies_do_not_hide_the_visitor(server: Server) -> None:
    """Browsers send the cookies of all ports of this machine, in any form."""
    known = server.raw("/studio/state")
    assert json.loads(known[1])["films"]
    for other in ("x[y]=1", 'p={"a": 1}', "u=a b", "a@b=1", "plain", "=", "a{b}=1"):
        for cookie in (f"{other}; segue={VISITOR}", f"segue={VISITOR}; {other}"):
            assert server.raw("/studio/state", None, Cookie=cookie) == known


def test_uploads_are_limited(server: Server) -> None:
    status, body = server.raw("/studio/keyframes?name=big.png", "f" * 32, "POST", b"x" * 200_001)
    assert status == 413
    assert b"too large" in body
    chunked = b"%x\r\n" % 250_000 + b"x" * 250_000 + b"\r\n0\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        head = "POST /studio/keyframes?name=big.png HTTP/1.1\r\n"
        head += f"Host: 127.0.0.1:{server.port}\r\nCookie: segue={'f' * 32}\r\n"
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n".encode() + chunked)
        response = http.client.HTTPResponse(connection)
        response.begin()
        assert response.status == 400
        assert b"big.png is too large" in response.read()
    assert server.raw("/gradio_api/upload", method="POST", body=b"x")[0] == 403
    left = [path.name for path in (server.root / "visitors" / ("f" * 32)).glob(".*")]
    assert left == []


def test_a_huge_picture_in_a_small_file_is_refused(server: Server) -> None:
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")
    status, body = server.raw("/studio/keyframes?name=bomb.png", "f" * 32, "POST", bomb)
    assert status == 400
    assert b"bomb.png is too large" in body


def test_other_sites_and_hosts_cannot_act(server: Server) -> None:
    assert server.raw("/studio/act/clear", "f" * 32, "POST", b"{}", Origin="http://evil.example")[0] == 403
    assert server.raw("/studio/state", Host="evil.example")[0] == 400
    assert server.raw("/studio/act/format", "f" * 32, "POST", b"{}")[0] == 400


def full(*_arguments: object, **_others: object) -> None:
    """What the operating system says on a full disk."""
    raise OSError(28, os.strerror(28))


def test_a_full_disk_leaves_a_message(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segue.studio.session.write_json", full)
    status, body = server.raw(
        "/studio/act/prompt",
        VISITOR,
        "POST",
        json.dumps({"id": server.session.data["keyframes"][0]["id"], "prompt": "x"}).encode(),
    )
    assert status == 400
    assert b"No space left on device" in body


def test_a_download_on_a_full_disk_leaves_a_message(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segue.studio.download.shutil.make_archive", full)
    status, body = server.raw("/download/png")
    assert status == 400
    assert b"frames.zip cannot be written" in body
    monkeypatch.setattr("segue.studio.session.Path.mkdir", full)
    status, body = server.raw("/download/gif")
    assert status == 500
    assert b"No space left on device" in body
    monkeypatch.undo()
    assert server.raw("/download/png")[0] == 200


def test_a_password_is_asked_for(tmp_path: Path) -> None:
    for server in _served(tmp_path, password="a long one"):
        for target in ("/", "/studio/state", "/files/run/film-1/frames/000.5000000.png", "/gradio_api/info"):
            assert server.raw(target)[0] == 401
        wrong, right = (base64.b64encode(f"me:{word}".encode()).decode() for word in ("wrong", "a long one"))
        assert server.raw("/studio/state", Authorization=f"Basic {wrong}")[0] == 401
        assert server.raw("/studio/state", Authorization=f"Basic {right}")[0] == 200


def test_sizes() -> None:
    assert [size_of(text) for text in ("20mb", "500 KB", "1g", "100")] == [20 * 2**20, 500 * 2**10, 2**30, 100]
    with pytest.raises(SegueError, match="max-upload"):
        size_of("large")
