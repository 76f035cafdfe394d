"""The command ``segue studio``: the page on 127.0.0.1, until it is interrupted."""

import os
import re
import secrets
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segue.cli.options import with_settings
from segue.cli.request import check_model
from segue.errors import SegueError
from segue.settings.kinds import LOADED, ModelSettings, parse_settings, update_settings
from segue.settings.text import parse_lora

if TYPE_CHECKING:
    from segue.studio.session import Studio

__all__ = ["application", "check_run", "examples", "loader_of", "size_of", "studio"]

HOST = "127.0.0.1"
EXAMPLES = {"cat and tiger": ("cat.png", "tiger.png"), "apple and moon": ("apple.png", "moon.png")}


@with_settings(ModelSettings)
def studio(
    run: Annotated[
        Path | None, typer.Argument(help="A run folder to open, or to begin; one for each visitor if not given.")
    ] = None,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 takes a free one.", min=0, max=65535)] = 7860,
    folder: Annotated[Path, typer.Option(help="Where the visitors' folders are kept.")] = Path("segue-studio"),
    max_upload: Annotated[str, typer.Option(help="The largest picture accepted, such as 20mb.")] = "20mb",
    max_waiting: Annotated[int, typer.Option(help="How many films may wait for their turn.", min=0)] = 8,
    share: Annotated[bool, typer.Option("--share", help="Give the page a public address; needs --password.")] = False,
    password: Annotated[str | None, typer.Option(help="Ask for this password (any user name).")] = None,
    **values: Any,
) -> None:
    """Open the studio: a page on which films are made by looking."""
    if share and not password:
        raise SegueError("--share makes the page public, so it needs --password")
    if password is not None and len(password) < 8:
        raise SegueError("--password: at least 8 characters")
    most = size_of(max_upload)
    opened = check_run(run)
    model = parse_settings(ModelSettings, values)
    check_model(model)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise SegueError('the studio needs Gradio: pip install "segue[studio]"') from error
    from segue.studio.jobs import Queue
    from segue.studio.session import Studio

    made = Studio(
        folder.absolute(),
        loader_of(opened, model),
        _describe,
        opened,
        examples(),
        Queue(max_waiting),
        public=share,
        model_name=model.model or _model_of_run(opened).get("name"),
        loras=[parse_lora(text)[0] for text in model.lora or _model_of_run(opened).get("lora") or ()],
    )
    listening = _listen(port)
    hosts = None if share else frozenset({HOST, "localhost"})
    app = application(made, most_bytes=most, password=password, hosts=hosts)
    address = f"http://{HOST}:{listening.getsockname()[1]}"
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", server_header=False, date_header=False))
    print(f"The studio is at {address} (stop it with Ctrl+C)", flush=True)
    if share:
        print(f"and at {_share(listening.getsockname()[1])}, with the password", flush=True)
    server.run(sockets=[listening])


def application(studio: "Studio", *, most_bytes: int, password: str | None = None, hosts: frozenset[str] | None) -> Any:
    """The studio as an ASGI application: its routes, the page, and the guard before them."""
    import gradio as gr

    from segue.studio.page import HEAD, page, theme
    from segue.studio.serve import Guard, api

    blocks = page(studio)
    blocks.queue(max_size=64, default_concurrency_limit=4, api_open=False)
    app = gr.mount_gradio_app(
        api(studio, most_bytes),
        blocks,
        path="/",
        server_name=HOST,
        max_file_size=most_bytes,
        allowed_paths=[],
        ssr_mode=False,
        footer_links=[],
        show_error=True,
        theme=theme(),
        head=HEAD,
        enable_monitoring=False,
    )
    return Guard(app, most_bytes=most_bytes, password=password, hosts=hosts)


def size_of(text: str) -> int:
    """Bytes of a size as 20mb, 500kb or 1gb."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?)b?", text.strip().lower())
    if not found or float(found[1]) <= 0:
        raise SegueError(f"--max-upload takes a size such as 20mb, not '{text}'")
    return int(float(found[1]) * {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}[found[2]])


def check_run(run: Path | None) -> Path | None:
    """The run folder that a film or a folder stands for; it may be begun here."""
    from segue.film.outputs import run_folder
    from segue.run.schema import RUN_FILE, read_part

    if run is None:
        return None
    run = run.absolute()
    if run.suffix and not (run / RUN_FILE).exists():
        run = run_folder(run)
    if run.exists() and not (run.is_dir() and ((run / RUN_FILE).exists() or not any(run.iterdir()))):
        raise SegueError(f"{run} is not a film or run folder made by segue")
    found = read_part(run, RUN_FILE)  # a damaged one is refused here
    from segue.studio.keyframes import MOST

    if found and len(found["keyframes"]) > MOST:
        raise SegueError(f"{run} has {len(found['keyframes'])} keyframes; the studio takes at most {MOST}")
    return run


def _model_of_run(run: Path | None) -> Mapping[str, Any]:
    """What a run remembers of its model; nothing if there is no run."""
    from segue.run.schema import RUN_FILE, read_part

    data = read_part(run, RUN_FILE) if run else None
    return data["model"] if data else {}


def loader_of(run: Path | None, given: ModelSettings) -> Callable[[], Any]:
    """What loads the model: the one that is given, or else the one that the opened run was made with."""

    def load() -> Any:
        from segue.engine.interpolator import Interpolator

        begun = _model_of_run(run)
        name = given.model or begun.get("name")
        own = begun if name == begun.get("name") else {}
        rest = {name: own[name] for name in LOADED if own.get(name) and not getattr(given, name)}
        return Interpolator.from_settings(update_settings(given, {"model": name, **rest}))

    return load


def _describe(picture: Any, captioner: str | None) -> str:
    """A caption by the captioner that the settings name; pocket's needs no network and serves every model."""
    from segue.words.captions import captions

    return captions([picture], "pocket" if captioner in (None, "none") else captioner)[0].text


def examples() -> dict[str, tuple[Path, ...]]:
    """The example pictures that are there: in the studio's own folder, or in the repository."""
    folders = (Path(__file__).parents[1] / "studio" / "examples", Path(__file__).parents[3] / "examples")
    found: dict[str, tuple[Path, ...]] = {}
    for name, pictures in EXAMPLES.items():
        for folder in folders:
            if all((folder / picture).is_file() for picture in pictures):
                found.setdefault(name, tuple(folder / picture for picture in pictures))
    return found


def _listen(port: int) -> socket.socket:
    """A socket on 127.0.0.1; raises SegueError if the port is taken."""
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if os.name != "nt":  # where it would let two servers have one port
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((HOST, port))
    except OSError as error:
        found.close()
        raise SegueError(f"port {port} is taken ({error.strerror}); give another with --port") from error
    return found


def _share(port: int) -> str:
    """A public address, by Gradio's tunnel; raises SegueError if there is none to be had."""
    from gradio.networking import setup_tunnel

    try:
        return str(setup_tunnel(HOST, port, secrets.token_urlsafe(32), None, None))
    except Exception as error:
        raise SegueError(f"no public address is available: {error}; the page works without --share") from error
