"""How long the studio lets one wait: until the page is ready, and from a click on a frame until its panel is shown.

    python benchmarks/studio.py --rounds 10

Starts ``segue studio`` with pocket, makes the example film in Chromium, and reads the times in the page. "Ready" is
from the request for the page until its places are filled and its controls are there, in a browser without a cache;
"panel" is from the click until the frame is drawn in which the panel and its picture are shown. Needs the extra
``studio``, Playwright for Python and Chromium.
"""

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
ASKED = {"page ready": 5000.0, "frame's panel": 200.0}  # milliseconds
# A click, and the time until its panel and the panel's picture are drawn.
CLICK = """place => new Promise(done => {
  const begun = performance.now();
  document.querySelector(`.timeline [data-place="${place}"]`).click();
  const look = async () => {
    const panel = document.querySelector('#sg-panel');
    if (!panel || panel.dataset.place !== place) return requestAnimationFrame(look);
    await panel.querySelector('.stage img').decode();
    requestAnimationFrame(() => done(performance.now() - begun));
  };
  look();
})"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--model", help="checkpoint; pocket if not given")
    arguments = parser.parse_args()
    from playwright import sync_api

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with (
        tempfile.TemporaryDirectory() as folder,
        _studio(Path(folder), arguments.model) as address,
        sync_api.sync_playwright() as runner,
    ):
        browser = runner.chromium.launch(executable_path=chromium, args=FLAGS.split())
        page = browser.new_page()
        page.set_default_timeout(600_000)
        page.goto(address)
        seconds = _film(page)
        state = page.context.storage_state()
        ready = [_ready(browser, address, state) for _ in range(arguments.rounds)]
        page.reload()
        page.wait_for_selector("#sg-video")
        places = page.eval_on_selector_all(".timeline button:not(:disabled)", "all => all.map(b => b.dataset.place)")
        turns = [places[i % len(places)] for i in range(1, arguments.rounds * len(places) + 1)]
        panels = [float(page.evaluate(CLICK, place)) for place in turns]
        browser.close()
    print(f"example film of {len(places)} frames made in {seconds:.1f} s; load {os.getloadavg()[0]:.1f}")
    for name, times in {"page ready": ready, "frame's panel": panels}.items():
        print(_line(name, times))


@contextmanager
def _studio(folder: Path, model: str | None) -> Iterator[str]:
    """A studio of its own; its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-c", "from segue.cli.app import main; main()", "studio", "--port", str(port)]
    command += ["--folder", str(folder), *(["--model", model] if model else [])]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.2)
        else:
            sys.exit("the studio does not start")
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait()


def _film(page: Any) -> float:
    """Make the first example's film; the seconds it takes, the loading of the model included."""
    page.click('[data-f^="ex-"]')
    page.wait_for_function("() => document.querySelectorAll('.card').length === 2")
    begun = time.monotonic()
    page.click("#make")
    page.wait_for_selector("#sg-video")
    return time.monotonic() - begun


def _ready(browser: Any, address: str, state: Any) -> float:
    """Milliseconds until the page with its film is there, in a browser that has kept nothing but the cookie."""
    page = browser.new_context(storage_state=state).new_page()
    begun = time.monotonic()
    page.goto(address)
    for place in (".card", ".timeline button", "#make"):
        page.wait_for_selector(place)
    taken = (time.monotonic() - begun) * 1000
    page.context.close()
    return taken


def _line(name: str, times: Sequence[float]) -> str:
    """One row: what was asked for, median, and the slowest."""
    low, mid, high = min(times), statistics.median(times), max(times)
    verdict = "within" if high <= ASKED[name] else "NOT within"
    return f"{name}: {mid:.0f} ms ({low:.0f} to {high:.0f}, n = {len(times)}), {verdict} {ASKED[name]:.0f} ms"


if __name__ == "__main__":
    main()
