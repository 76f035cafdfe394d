"""The studio in a browser, from two pictures to the film; the screenshots of docs/studio are made here.

Needs Gradio, Playwright for Python and Chromium, and is skipped without them. With STUDIO_SCREENSHOTS=1 the
screenshots are written anew.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio")
pytest.importorskip("playwright.sync_api")

import av
from PIL import Image
from playwright import sync_api as playwright
from test_studio import picture

from segue.studio.timeline import RunView

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")

SHOTS = Path(__file__).parents[1] / "docs" / "studio"
FLAGS = (
    "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync "
    "--no-first-run"
)
SERVE = """
import sys
from pathlib import Path
import torch, uvicorn
torch.set_num_threads(1)
from test_studio import tiny_studio
from segue.studio.command import application
app = application(tiny_studio(Path(sys.argv[1])), most_bytes=2**20, hosts=frozenset({"127.0.0.1"}))
uvicorn.run(app, port=int(sys.argv[2]), log_level="error")
"""


class Served:
    """The studio in a process of its own, which can be killed and started again."""

    def __init__(self, root: Path) -> None:
        self.root = root
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.start()

    def start(self) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", SERVE, str(self.root), str(self.port)]
        self.process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)
        for _ in range(3000):  # a busy machine takes minutes to import the libraries
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                assert self.process.poll() is None
                time.sleep(0.1)
        self.kill()
        raise AssertionError("the server does not start")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    @property
    def run(self) -> Path:
        return next(self.root.glob("*/films/film-1"))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    server = Served(tmp_path_factory.mktemp("browser") / "root")
    yield server
    server.kill()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as runner:
        opened = runner.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield opened
        opened.close()


def _page(browser: Any, served: Served, **how: Any) -> Any:
    page = browser.new_context(viewport={"width": 1280, "height": 900}, **how).new_page()
    page.set_default_timeout(120_000)
    page.foreign = []
    page.on("request", lambda request: page.foreign.append(request.url) if _is_foreign(request.url) else None)
    return page


def _is_foreign(url: str) -> bool:
    return not url.startswith(("http://127.0.0.1", "data:", "blob:"))


def _shot(page: Any, name: str) -> None:
    if os.environ.get("STUDIO_SCREENSHOTS"):
        page.wait_for_timeout(600)
        path = SHOTS / f"{name}.png"
        page.screenshot(path=path, full_page=True)
        with Image.open(path) as shot:  # few colours make a small file
            shot.convert("RGB").quantize(64).save(path, optimize=True)


def _frames(run: Path) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in sorted((run / "frames").glob("*.png"))}


def _wait_done(page: Any) -> None:
    page.wait_for_function(
        "() => fetch('/studio/state').then(r => r.json()).then(s => s.job && s.job.state === 'done')"
    )
    page.evaluate("() => window.segue.refresh()")
    page.wait_for_selector("#sg-video")
    page.wait_for_function("() => !document.querySelector('.progress')")


def test_the_whole_story(browser: Any, served: Served, tmp_path: Path) -> None:
    page = _page(browser, served)
    begun = time.monotonic()
    page.goto(f"http://127.0.0.1:{served.port}/")
    page.wait_for_selector(".drop")
    page.wait_for_selector("#make")
    ready = time.monotonic() - begun
    print(f"page ready after {ready:.2f} s")
    _shot(page, "1-empty")

    # Two pictures; what is no picture is refused by name.
    (tmp_path / "notes.png").write_text("no picture")
    page.set_input_files("input[type=file]", tmp_path / "notes.png")
    page.wait_for_function("() => document.querySelector('#sg-notice').textContent.includes('notes.png is no picture')")
    page.set_input_files("input[type=file]", [picture(tmp_path / "blue.png", "blue"), picture(tmp_path / "red.png")])
    page.wait_for_function("() => document.querySelectorAll('.card').length === 2")
    page.get_by_label("Move left, keyframe 2").click()
    page.wait_for_function("() => document.querySelector('.card .name').textContent === '1. red.png'")
    for number in (1, 2):
        page.get_by_label(f"Describe it, keyframe {number}").click()
        page.wait_for_function(f"() => document.querySelectorAll('.card textarea')[{number - 1}].value === 'a red dot'")
    _shot(page, "2-keyframes")

    # Make; the frames arrive level by level.
    page.get_by_label("--num-frames").fill("9")
    page.click("#all-settings button")
    page.get_by_text("Candidates", exact=True).click()
    page.get_by_label("--candidates").fill("2")
    page.get_by_text("Denoising", exact=True).click()
    page.get_by_label("--num-inference-steps").fill("60")
    page.click("#make")
    page.wait_for_selector('.timeline button[data-place="1/2"] img')
    assert page.locator(".timeline .todo").count() > 0
    page.get_by_role("button", name="Pause").click()
    page.wait_for_selector("text=Paused.")
    _shot(page, "3-frames-arrive")
    page.get_by_role("button", name="Go on").click()
    _wait_done(page)
    _shot(page, "4-film")

    page.click("#all-settings > button")

    # Another candidate: only the frame and its descendants change.
    page.click('[data-place="1/4"]')
    page.wait_for_selector('#sg-panel[data-place="1/4"]')
    page.wait_for_timeout(300)
    times = []
    for place in ("1/2", "1/8", "3/4", "1/4"):
        page.click(f'[data-place="{place}"]')
        page.wait_for_selector(f'#sg-panel[data-place="{place}"]')
        page.wait_for_timeout(150)
        times.append(page.evaluate("window.segue.panelMs"))
    print("panel shown after", [f"{t:.0f} ms" for t in times])
    ringed = page.eval_on_selector_all(".timeline button.again", "all => all.map(b => b.dataset.place)")
    assert ringed == ["1/8", "1/4", "3/8"]
    _shot(page, "5-frame-panel")
    before = _frames(served.run)
    page.click("#sg-panel [data-candidate]:not(:disabled)")
    page.wait_for_selector(".progress")
    _wait_done(page)
    after = _frames(served.run)
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"000.1250000", "000.2500000", "000.3750000"}
    _shot(page, "6-another-candidate")

    # Edit a pose: click a joint, click where it goes.
    page.click('[data-place="1/8"]')
    page.wait_for_selector('#sg-panel[data-place="1/8"]')
    page.click("#sg-pose summary")
    page.get_by_role("button", name="Standing figure").click()
    page.click('circle[data-joint="4"]')
    box = page.locator("svg.edit").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.15, box["y"] + box["height"] * 0.2)
    moved = page.eval_on_selector('circle[data-joint="4"]', "c => [c.cx.baseVal.value, c.cy.baseVal.value]")
    size = RunView(served.run).size
    assert moved == pytest.approx([size[0] * 0.15, size[1] * 0.2], abs=1.5)
    _shot(page, "7-pose-editor")
    page.get_by_role("button", name="Make with this pose").click()
    page.wait_for_selector(".mark")
    _wait_done(page)
    posed = _frames(served.run)
    assert {name for name in posed if posed[name] != after[name]} == {"000.1250000"}

    # Undo twice gives the first film back, to the byte.
    for expected in (after, before):
        page.wait_for_selector('[data-f="undo"]:not(:disabled)')
        page.click('[data-f="undo"]')
        page.wait_for_timeout(300)
        _wait_done(page)
        assert _frames(served.run) == expected

    # Download the film and decode it.
    with page.expect_download() as download:
        page.get_by_role("link", name="MP4").click()
    download.value.save_as(tmp_path / "film.mp4")
    with av.open(str(tmp_path / "film.mp4")) as container:
        assert len(list(container.decode(video=0))) == 9
    assert re.match(r"segue morph .*-o .*film-1\.mp4 .*--num-frames 9", page.inner_text("#sg-command"))

    # Reload: everything is there.
    page.reload()
    page.wait_for_selector("#sg-video")
    assert page.locator(".card").count() == 2
    assert page.locator(".timeline img").count() == 9
    page.wait_for_function("() => document.querySelector('#segue-settings input[type=number]').value === '9'")

    # By keyboard along the timeline.
    page.focus('[data-place="0"]')
    page.keyboard.press("ArrowRight")
    page.wait_for_selector('#sg-panel[data-place="1/8"]')

    # A phone, in the dark.
    phone = _page(browser, served, color_scheme="dark", storage_state=page.context.storage_state())
    phone.set_viewport_size({"width": 390, "height": 844})
    phone.goto(f"http://127.0.0.1:{served.port}/")
    phone.wait_for_selector("#sg-video")
    phone.click('[data-place="1/4"]')
    phone.wait_for_selector("#sg-panel")
    assert phone.evaluate("document.documentElement.scrollWidth") == 390
    _shot(phone, "8-phone-dark")
    assert page.foreign == phone.foreign == []
    assert ready < 30  # docs/studio.md has the measured time; a busy machine takes longer
    assert max(times) < 5000


def test_a_killed_server_leaves_a_run_to_go_on_with(browser: Any, tmp_path: Path) -> None:
    served = Served(tmp_path / "root")
    try:
        page = _page(browser, served)
        page.goto(f"http://127.0.0.1:{served.port}/")
        page.wait_for_selector(".drop")
        page.set_input_files(
            "input[type=file]", [picture(tmp_path / "red.png"), picture(tmp_path / "blue.png", "blue")]
        )
        page.wait_for_function("() => document.querySelectorAll('.card').length === 2")
        page.get_by_label("--num-frames").fill("17")
        page.click("#make")
        page.wait_for_selector('.timeline button[data-place="1/2"] img')
        served.kill()
        page.wait_for_function("() => document.querySelector('#sg-offline').textContent.includes('does not answer')")
        _shot(page, "9-killed-server")
        made = _frames(served.run)
        assert 2 < len(made) < 17
        served.start()
        page.reload()
        page.click("#sg-continue")
        _wait_done(page)
        whole = _frames(served.run)
        assert len(whole) == 17
        assert all(whole[name] == pixels for name, pixels in made.items())
    finally:
        served.kill()
