"""The studio in a browser, from two pictures to the film, and with everything that goes wrong on the way.

Needs Gradio, Playwright for Python and Chromium, and is skipped without them. With STUDIO_SCREENSHOTS=1 the
screenshots of docs/studio are written anew; the story is then told with pocket instead of a tiny random network.
"""

import io
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio")
pytest.importorskip("playwright.sync_api")

import av
import numpy as np
from PIL import Image
from playwright import sync_api as playwright
from test_resilience import small_disk
from test_studio import picture
from tiny import tiny_pipe

from segue.method.tree import FrameKey
from segue.studio.timeline import RunView

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")]

ROOT = Path(__file__).parents[1]
SHOTS = ROOT / "docs" / "studio" if os.environ.get("STUDIO_SCREENSHOTS") else None
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
TINY = """
import sys
from pathlib import Path
import torch, uvicorn
torch.set_num_threads(1)
from test_studio import tiny_studio
from segue.cli.studio import application, examples
studio = tiny_studio(Path(sys.argv[1]), examples=examples())
app = application(studio, most_bytes=2**20, hosts=frozenset({"127.0.0.1"}))
uvicorn.run(app, port=int(sys.argv[2]), log_level="error")
"""
CLIPPED = "all => all.filter(e => e.clientWidth && e.scrollWidth > e.clientWidth + 1).map(e => e.innerText)"
COMMAND = """
import sys
from segue.cli.app import run
sys.exit(run(["studio", "--folder", sys.argv[1], "--port", sys.argv[2], "--max-upload", "1mb", *sys.argv[3:]]))
"""


class Served:
    """The studio in a process of its own, which can be killed and started again."""

    def __init__(self, root: Path, script: str, *options: str) -> None:
        self.root, self.script, self.options = root, script, options
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.start()

    def start(self) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", self.script, str(self.root), str(self.port), *self.options]
        self.process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
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

    def run(self, page: Any) -> Path:
        """The run folder on the table of a page."""
        state = page.evaluate("() => fetch('/studio/state').then(r => r.json())")
        return self.folder(page) / "films" / str(state["begun"])

    def folder(self, page: Any) -> Path:
        """The folder of a page's visitor."""
        visitor: str = next(cookie["value"] for cookie in page.context.cookies() if cookie["name"] == "segue")
        return self.root / visitor


@contextmanager
def serving(root: Path, script: str, *options: str) -> Iterator[Served]:
    server = Served(root, script, *options)
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("browser") / "root", COMMAND if SHOTS else TINY) as server:
        yield server


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder with a short name, which stands in messages."""
    with tempfile.TemporaryDirectory(prefix="segue-") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as runner:
        opened = runner.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    tiny_pipe().save_pretrained(folder)
    return folder


def opened(browser: Any, served: Served, width: int = 1280, height: int = 900, **how: Any) -> Any:
    """The studio's page, in a browser that was never there unless it brings its state; it notes what goes astray."""
    context = browser.new_context(viewport={"width": width, "height": height}, reduced_motion="reduce", **how)
    page = context.new_page()
    page.set_default_timeout(90_000)
    page.astray = []
    page.on("request", lambda request: page.astray.append(request.url) if _is_foreign(request.url) else None)
    page.on("pageerror", lambda error: page.astray.append(str(error)))
    page.goto(f"http://127.0.0.1:{served.port}/")
    page.wait_for_selector(".drop")
    return page


def _is_foreign(url: str) -> bool:
    return not url.startswith(("http://127.0.0.1", "data:", "blob:"))


def shot(page: Any, name: str, *, whole: bool = True) -> None:
    """Keep a screenshot of the page for the docs; few colours make a small file."""
    if SHOTS:
        page.wait_for_timeout(700)
        with Image.open(io.BytesIO(page.screenshot(full_page=whole))) as image:
            colours = image.convert("RGB").quantize(128, dither=Image.Dither.NONE)
            colours.save(SHOTS / f"{name}.png", optimize=True)


def frames(run: Path) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in sorted((run / "frames").glob("*.png"))}


def wait_state(page: Any, state: str) -> None:
    for _ in range(1800):
        told = page.evaluate("() => fetch('/studio/state').then(r => r.json())")
        if told["job"] and told["job"]["state"] == state:
            break
        page.wait_for_timeout(50)
    else:
        raise AssertionError(f"the job does not become {state}: {told['job']}")
    page.evaluate("() => window.segue.refresh()")
    page.wait_for_function("() => !document.querySelector('.progress')")


def wait_done(page: Any) -> None:
    wait_state(page, "done")
    page.wait_for_selector("#sg-video")


def choose(page: Any, place: str) -> None:
    page.click(f'.timeline [data-place="{place}"]')
    page.wait_for_selector(f'#sg-panel[data-place="{place}"]')


def add(page: Any, *pictures: Path) -> None:
    before = page.locator(".card").count()
    page.set_input_files("input[type=file]", pictures)
    page.wait_for_function(f"() => document.querySelectorAll('.card').length === {before + len(pictures)}")


def two_dots(page: Any, folder: Path) -> None:
    add(page, picture(folder / "red.png"), picture(folder / "blue.png", "blue"))


def wait_settings(page: Any, film: str) -> None:
    """Wait until the page's settings are those of a film's table; "" is that of the next film."""
    page.wait_for_function(
        "film => document.querySelector('#segue-table').querySelector('input, textarea').value === film", arg=film
    )


def wait_kept(page: Any, served: Served, frames: int) -> None:
    """Wait until the server has heard of the number of frames that is typed."""
    file = served.folder(page) / "studio.json"
    for _ in range(600):
        if json.loads(file.read_text())["controls"].get("num_frames") == frames:
            return
        page.wait_for_timeout(50)
    raise AssertionError("what is typed is not kept")


def make_film(page: Any, frames: int) -> None:
    """Make a film of so many frames of the pictures on the table."""
    page.get_by_label("--num-frames").fill(str(frames))
    page.click("#make")
    page.wait_for_selector(".progress")
    wait_done(page)


def setting(page: Any, group: str, name: str, value: str) -> None:
    """Type a setting that is folded away, and fold it away again."""
    page.click("#all-settings > button")
    page.get_by_text(group, exact=True).click()
    page.get_by_label(name).fill(value)
    page.get_by_text(group, exact=True).click()
    page.click("#all-settings > button")


def test_the_whole_story(browser: Any, served: Served, tmp_path: Path) -> None:
    page = opened(browser, served)
    page.wait_for_selector("#make")
    shot(page, "01-empty")

    # Two pictures; put in order by a button and by dragging; described.
    cat, tiger = (shutil.copy(ROOT / "examples" / f"{name}.png", tmp_path) for name in ("cat", "tiger"))
    add(page, Path(tiger), Path(cat))
    first = "() => document.querySelector('.card .name').textContent"
    page.get_by_label("Move left, keyframe 2").click()
    page.wait_for_function(f"{first} === 'cat.png'")
    page.locator(".card .picture").nth(1).drag_to(page.locator(".card").nth(0))
    page.wait_for_function(f"{first} === 'tiger.png'")
    page.locator(".card .picture").nth(1).drag_to(page.locator(".card").nth(0))
    page.wait_for_function(f"{first} === 'cat.png'")
    for number in (1, 2):
        page.get_by_label(f"Describe it, keyframe {number}").click()
        page.wait_for_function(f"() => document.querySelectorAll('.card textarea')[{number - 1}]?.value.length > 3")

    # Cropped by dragging, as the fields say; and whole again.
    page.get_by_label("Crop, keyframe 2").click()
    box = page.locator(".card.editing .picture").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.2, box["y"] + box["height"] * 0.1)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + box["height"] * 0.9, steps=4)
    page.mouse.up()
    sides = page.eval_on_selector_all(".crop input", "all => all.map(input => Number(input.value))")
    assert sides == pytest.approx([20, 10, 80, 90], abs=2)
    shot(page, "02-crop")
    page.locator(".card.editing").get_by_role("button", name="Crop", exact=True).click()
    page.wait_for_function("() => document.querySelectorAll('.card img')[1].src.includes('-crop.png')")
    size = page.evaluate(
        "() => { const i = document.querySelectorAll('.card img')[1];"
        " return i.decode().then(() => [i.naturalWidth, i.naturalHeight]) }"
    )
    assert size == pytest.approx([77, 102], abs=4)
    page.get_by_label("Crop, keyframe 2").click()
    page.get_by_role("button", name="Whole", exact=True).click()
    page.wait_for_function("() => !document.querySelectorAll('.card img')[1].src.includes('-crop.png')")
    shot(page, "03-keyframes")

    # Make; the frames arrive level by level, the coarse film plays meanwhile.
    page.get_by_label("--num-frames").fill("9")
    setting(page, "Candidates", "--candidates", "3")
    setting(page, "Denoising", "--num-inference-steps", "12" if SHOTS else "60")
    page.click("#make")
    page.wait_for_selector('.timeline button[data-place="1/2"] img')
    page.get_by_role("button", name="Pause").click()
    page.wait_for_selector("text=Paused.")
    arrived = page.eval_on_selector_all(".timeline button:not(:disabled)", "all => all.map(b => b.dataset.place)")
    assert {"0", "1/2", "1"} <= set(arrived) != {"0", "1/8", "1/4", "3/8", "1/2", "5/8", "3/4", "7/8", "1"}
    assert page.locator(".timeline .todo").count() == 9 - len(arrived)
    page.wait_for_selector(f"text=The coarse film: {len(arrived)} of 9 frames.")
    shot(page, "04-frames-arrive")
    page.get_by_role("button", name="Go on").click()
    wait_done(page)
    run = served.run(page)
    page.get_by_label("place in the film").fill("0.3")
    shot(page, "05-film")

    # Stopped and continued by the page is tested below; here, a frame's panel and what would be made again.
    times = []
    for place in ("1/2", "1/8", "3/4", "1/4"):
        choose(page, place)
        page.wait_for_timeout(150)
        times.append(page.evaluate("window.segue.panelMs"))
    ringed = page.eval_on_selector_all(".timeline button.again", "all => all.map(b => b.dataset.place)")
    assert ringed == ["1/8", "1/4", "3/8"]
    assert "3 frames would be made again" in page.inner_text("#sg-timeline")
    assert page.locator("#sg-panel .thumbs [data-candidate]").count() == 3
    page.locator("[data-f=against]").select_option(label="the parent after")
    page.get_by_label("before and after", exact=True).fill("70")
    assert page.eval_on_selector("#sg-panel .stage", "s => s.style.getPropertyValue('--cut')") == "70%"
    shot(page, "06-frame-panel")

    # Another candidate: only the frame and its descendants change.
    before = frames(run)
    page.locator("#sg-panel [data-candidate]:not(:disabled)").first.click()
    page.wait_for_selector(".progress")
    wait_done(page)
    after = frames(run)
    assert {name for name in after if after[name] != before[name]} == {"000.1250000", "000.2500000", "000.3750000"}
    page.locator("[data-f=beside]").select_option("before")
    page.wait_for_selector("#sg-other")
    assert page.locator("#sg-watch .stage").count() == 1  # a slider over both
    page.get_by_label("place in the film").fill("0.4")
    page.get_by_label("before and after, of the films").fill("40")
    page.wait_for_function("() => document.querySelector('#sg-other').currentTime > 0.4")
    shot(page, "07-another-candidate")
    page.locator("[data-f=beside]").select_option("")

    # Edit a pose: click a joint, click where it goes; take a joint away and place it again.
    choose(page, "1/8")
    page.click("#sg-pose summary")
    page.get_by_role("button", name="Standing figure").click()
    page.click('circle[data-joint="4"]')
    box = page.locator("svg.edit").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.15, box["y"] + box["height"] * 0.2)
    place_of = "c => [c.cx.baseVal.value, c.cy.baseVal.value]"
    width, height = RunView(run).size
    assert page.eval_on_selector('circle[data-joint="4"]', place_of) == pytest.approx(
        [width * 0.15, height * 0.2], abs=2
    )
    page.focus('circle[data-joint="7"]')
    page.keyboard.press("Delete")
    page.wait_for_function("() => !document.querySelector('circle[data-joint=\"7\"]')")
    page.get_by_label("Add a joint").select_option(label="left wrist")
    page.mouse.click(box["x"] + box["width"] * 0.85, box["y"] + box["height"] * 0.2)
    assert page.eval_on_selector('circle[data-joint="7"]', place_of) == pytest.approx(
        [width * 0.85, height * 0.2], abs=2
    )
    shot(page, "08-pose-editor")
    page.get_by_role("button", name="Make with this pose").click()
    page.wait_for_selector(".timeline .mark")
    wait_done(page)
    posed = frames(run)
    assert {name for name in posed if posed[name] != after[name]} == {"000.1250000"}

    # The path of poses lies over the timeline; a pose is copied to another frame.
    page.get_by_label("Path of poses").check()
    assert page.locator(".timeline svg").count() >= 1
    choose(page, "7/8")
    page.get_by_label("Copy a pose").select_option(label="frame 1")
    assert page.eval_on_selector('circle[data-joint="4"]', place_of) == pytest.approx(
        [width * 0.15, height * 0.2], abs=2
    )
    shot(page, "09-path-of-poses")
    page.get_by_role("button", name="Leave as it was").click()
    page.get_by_label("Path of poses").uncheck()

    # Undo twice gives the first film back to the byte, redo the second one.
    for button, expected in (("undo", after), ("undo", before), ("redo", after), ("undo", before)):
        page.click(f'[data-f="{button}"]:not(:disabled)')
        page.wait_for_selector(".progress")
        wait_done(page)
        assert frames(run) == expected

    # A prompt, a seed and a noise level of a frame's own.
    choose(page, "3/8")
    page.fill("#sg-panel [name=prompt]", "a fox")
    page.fill("#sg-panel [name=seed]", "7")
    page.fill("#sg-panel [name=noise]", "0.6")
    page.get_by_role("button", name="Make again").click()
    page.wait_for_selector(".progress")
    wait_done(page)
    edited = frames(run)
    assert {name for name in edited if edited[name] != before[name]} == {"000.3750000"}
    edit = RunView(run).history.edited
    assert [str(key.place) for key in edit] == ["3/8"]

    # Watch: speed, loop, scrubbing; the film's settings cost no network call.
    page.select_option("[data-f=speed]", "2")
    page.uncheck("[data-f=loop]")
    assert page.eval_on_selector("#sg-video", "v => [v.playbackRate, v.loop]") == [2, False]
    page.get_by_label("place in the film").fill("0.5")
    page.wait_for_function(
        "() => { const v = document.querySelector('#sg-video');"
        " return Math.abs(v.currentTime / v.duration - 0.5) < 0.1 }"
    )
    page.get_by_role("button", name="Play").click()
    page.wait_for_function("() => !document.querySelector('#sg-video').paused")
    seconds = page.eval_on_selector("#sg-video", "v => v.duration")
    page.get_by_role("button", name="Film settings").click()
    page.get_by_label("--hold").fill("1.5")
    page.get_by_role("button", name="Write the film anew").click()
    page.wait_for_function(f"() => document.querySelector('#sg-video')?.duration > {seconds + 1.5}")
    page.get_by_role("button", name="Film settings").click()
    assert frames(run) == edited

    # Every download is the film.
    downloads = {}
    for name in ("MP4", "GIF", "WebP", "PNGs", "Contact sheet"):
        with page.expect_download() as download:
            page.get_by_role("link", name=name).click()
        downloads[name] = tmp_path / download.value.suggested_filename
        download.value.save_as(downloads[name])
    decoded(downloads, run)
    page.click('[data-f="commands-summary"]')
    command, remake = page.inner_text("#sg-command").splitlines()
    assert re.match(r"segue morph .*-o .*film-1\.mp4 .*--num-frames 9 .*--candidates 3 .*--hold 1\.5", command)
    assert remake.endswith("--frame 3/8 --prompt 'a fox' --seed 7 --noise 0.6")

    # Another film, and both side by side.
    page.get_by_label("--seed").first.fill("1")
    page.click("#make")
    page.wait_for_selector(".progress")
    wait_done(page)
    page.locator("[data-f=beside]").select_option("film-1")
    page.get_by_role("button", name="Side by side").click()
    page.wait_for_function("() => document.querySelectorAll('#sg-watch .stage video').length === 2")
    page.wait_for_function("() => document.querySelector('#sg-other').readyState >= 2")
    assert page.locator("#sg-watch .stage").count() == 2
    assert page.locator("#sg-watch .tag").all_inner_texts() == ["film-2", "film-1"]
    page.get_by_label("place in the film").fill("0.5")
    shot(page, "10-two-films")
    page.select_option("[data-f=runs]", "film-1")
    page.wait_for_function("() => document.querySelector('#sg-video')?.src.includes('film-1')")
    playwright.expect(page.get_by_label("--seed").first).to_have_value("0", timeout=90_000)
    assert page.locator("#sg-watch video").count() == 1

    # Reload: everything is there.
    page.reload()
    page.wait_for_selector("#sg-video")
    assert page.locator(".card").count() == 2
    assert page.locator(".timeline img").count() == 9
    page.wait_for_function("() => document.querySelector('#segue-settings input[type=number]').value === '9'")
    assert frames(served.run(page)) == edited

    looks(browser, served, page)
    assert page.astray == []
    print("panel shown after", [f"{milliseconds:.0f} ms" for milliseconds in times])
    assert max(times) < 5000  # docs/studio.md has the measured times; a busy machine takes longer


def decoded(downloads: dict[str, Path], run: Path) -> None:
    """Decode each downloaded film: 9 frames, the first of which is the first keyframe."""
    with Image.open(run / "frames" / "000.0000000.png") as image:
        first = np.asarray(image.convert("RGB"), dtype=int)
    with av.open(str(downloads["MP4"])) as container:
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(shown) == 56  # 0.5 + 1.33 + 0.5 s at 24 a second
    assert np.abs(shown[0].astype(int) - first).mean() < 6
    for name in ("GIF", "WebP"):
        with Image.open(downloads[name]) as image:
            assert image.n_frames == 9  # type: ignore[attr-defined]
            assert np.abs(np.asarray(image.convert("RGB"), dtype=int) - first).mean() < 12
    with zipfile.ZipFile(downloads["PNGs"]) as archive:
        assert sorted(archive.namelist()) == [f"{i:04d}.png" for i in range(56)]
        with Image.open(io.BytesIO(archive.read("0000.png"))) as image:
            assert np.array_equal(np.asarray(image.convert("RGB")), first)
    with Image.open(downloads["Contact sheet"]) as image:
        assert image.width >= first.shape[1]


def looks(browser: Any, served: Served, page: Any) -> None:
    """The film's page on a phone and on a wide screen, light and dark: nothing is wider than the screen."""
    state = page.context.storage_state()
    for name, width, scheme in (("11-dark", 1280, "dark"), ("12-phone", 390, "light"), ("13-phone-dark", 390, "dark")):
        other = opened(browser, served, width, 844, color_scheme=scheme, storage_state=state)
        other.wait_for_selector("#sg-video")
        choose(other, "1/4")
        assert other.evaluate("document.documentElement.scrollWidth") == width
        assert other.evaluate("document.body.classList.contains('dark')") == (scheme == "dark")
        assert faint(other) == []
        shot(other, name)
        other.click("#all-settings > button")
        assert other.evaluate("document.documentElement.scrollWidth") == width
        other.click("#film-settings > button")
        for narrow in (width, 700):
            other.set_viewport_size({"width": narrow, "height": 844})
            assert other.eval_on_selector_all("#film-settings .form *", CLIPPED) == []
        assert other.astray == []
        other.context.close()


def faint(page: Any) -> list[str]:
    """Texts whose contrast with what lies behind them is below 4.5, those of disabled controls aside."""
    found: list[str] = page.evaluate(
        """() => {
        const parse = text => (text.match(/[\\d.]+/g) || []).map(Number);
        const light = ([r, g, b]) => { const f = v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
          return .2126 * f(r) + .7152 * f(g) + .0722 * f(b); };
        const behind = el => { for (; el; el = el.parentElement) {
          const c = parse(getComputedStyle(el).backgroundColor);
          if (c.length && (c.length < 4 || c[3] > .9)) return c; } return [255, 255, 255]; };
        const out = [];
        for (const el of document.querySelectorAll('.gradio-container *')) {
          const own = [...el.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
          if (!own || !el.offsetParent || el.closest(':disabled, option, .number, .tick, .mark, .tag')) continue;
          const a = light(parse(getComputedStyle(el).color)), b = light(behind(el));
          const contrast = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
          if (contrast < 4.5) out.push(`${el.textContent.trim().slice(0, 40)}: ${contrast.toFixed(1)}`);
        }
        return out; }"""
    )
    return found


def test_by_keyboard_alone(browser: Any, served: Served) -> None:
    page = opened(browser, served)
    page.focus('[data-f^="ex-"]')
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelectorAll('.card').length === 2")
    page.wait_for_function("() => document.querySelector('#segue-settings input[type=number]').value === '9'")
    page.focus("#make")
    page.keyboard.press("Enter")
    page.wait_for_selector(".progress")
    wait_done(page)
    page.focus('.timeline [data-place="0"]')
    for place in ("1/8", "1/4"):
        page.keyboard.press("ArrowRight")
        page.wait_for_selector(f'#sg-panel[data-place="{place}"]')
    assert page.evaluate("document.activeElement.dataset.place") == "1/4"
    page.focus("[data-f=more]")
    page.keyboard.press("Enter")
    page.wait_for_selector(".progress")
    wait_done(page)
    page.wait_for_function("() => document.querySelectorAll('#sg-panel [data-candidate]').length === 2")
    page.focus("[data-f=pose-summary]")
    page.keyboard.press("Enter")
    page.focus("[data-f=pose-stand]")
    page.keyboard.press("Enter")
    page.focus('circle[data-joint="0"]')
    x = "() => document.querySelector('circle[data-joint=\"0\"]').cx.baseVal.value"
    before = page.evaluate(x)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    size = RunView(served.run(page)).size
    assert page.evaluate(x) == pytest.approx(before + 2 * max(size) / 64, abs=0.05)
    run, made = served.run(page), frames(served.run(page))
    page.focus("[data-f=undo]")
    page.keyboard.press("Control+z")
    page.wait_for_selector(".progress")
    wait_done(page)
    assert {name for name, pixels in frames(run).items() if made[name] != pixels} == {
        "000.1250000", "000.2500000", "000.3750000",
    }  # fmt: skip
    page.context.close()


def test_what_is_no_picture_or_too_large_leaves_a_message_and_the_table(
    browser: Any, served: Served, tmp_path: Path
) -> None:
    page = opened(browser, served)
    add(page, picture(tmp_path / "red.png"))
    (tmp_path / "notes.png").write_text("no picture")
    noise = np.random.default_rng(0).integers(0, 256, (800, 800, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "big.png")
    (tmp_path / "bomb.png").write_bytes(bomb(60_000))
    for name, text in (
        ("notes.png", "notes.png is not a picture"),
        ("bomb.png", "bomb.png is too large"),
        ("big.png", "big.png: too large: the limit is 1 MB; make the picture smaller"),
    ):
        page.set_input_files("input[type=file]", tmp_path / name)
        page.wait_for_function(f"() => document.querySelector('#sg-notice').textContent.includes('{text}')")
        assert page.locator("#sg-toast").is_visible()
        assert page.locator(".card").count() == 1
    shot(page, "14-no-picture", whole=False)
    page.get_by_label("Close the message").click()
    assert not page.locator("#sg-toast").is_visible()
    add(page, picture(tmp_path / "blue.png", "blue"))
    make_film(page, 3)
    page.context.close()


def bomb(side: int) -> bytes:
    """A PNG of a few bytes that claims to be huge."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")


def test_a_lost_model_leaves_a_message_and_a_run_to_go_on_with(
    browser: Any, place: Path, tmp_path: Path, tiny_model_folder: Path
) -> None:
    model = place / "model"
    with serving(place / "root", COMMAND, "--model", str(model)) as served:
        page = opened(browser, served)
        two_dots(page, tmp_path)
        page.get_by_label("--num-frames").fill("3")
        page.click("#make")
        wait_state(page, "failed")
        assert str(model) in page.inner_text("#sg-ended")
        assert "Traceback" not in page.inner_text("#sg-ended")
        shot(page, "15-lost-model", whole=False)
        shutil.copytree(tiny_model_folder, model)
        page.click("#sg-continue")
        wait_done(page)
        assert len(frames(served.run(page))) == 3


def test_a_full_disk_leaves_a_message_and_a_run_to_go_on_with(
    browser: Any, place: Path, tmp_path: Path, tiny_model_folder: Path
) -> None:
    with (
        small_disk(place / "disk", "4m") as disk,
        serving(disk / "root", COMMAND, "--model", str(tiny_model_folder)) as served,
    ):
        page = opened(browser, served)
        two_dots(page, tmp_path)
        page.get_by_label("--num-frames").fill("9")
        filler = disk / "filler"
        filler.write_bytes(bytes(shutil.disk_usage(disk).free - 64 * 1024))  # the run needs more than it leaves
        page.click("#make")
        wait_state(page, "failed")
        assert "No space left on device" in page.inner_text("#sg-ended")
        shot(page, "16-full-disk", whole=False)
        made = frames(served.run(page)) if served.run(page).exists() else {}
        assert len(made) < 9
        page.reload()
        page.wait_for_selector("#sg-continue")
        filler.unlink()
        page.click("#sg-continue")
        wait_done(page)
        whole = frames(served.run(page))
        assert len(whole) == 9
        assert all(whole[name] == pixels for name, pixels in made.items())
        served.kill()  # before the disk goes


def test_a_killed_server_leaves_a_run_to_go_on_with(browser: Any, tmp_path: Path) -> None:
    with serving(tmp_path / "root", TINY) as served:
        page = opened(browser, served)
        two_dots(page, tmp_path)
        page.get_by_label("--num-frames").fill("17")
        setting(page, "Denoising", "--num-inference-steps", "60")
        page.click("#make")
        page.wait_for_selector('.timeline button[data-place="1/2"] img')
        run = served.run(page)
        served.kill()
        page.wait_for_function("() => document.querySelector('#sg-offline').textContent.includes('does not answer')")
        assert page.locator("#sg-offline").bounding_box()["y"] < 100  # wherever one has scrolled to
        shot(page, "17-killed-server", whole=False)
        made = frames(run)
        assert 2 < len(made) < 17
        served.start()
        page.wait_for_selector("#sg-continue")  # the page finds the new server by itself
        page.click("#sg-continue")
        wait_done(page)
        whole = frames(run)
        assert len(whole) == 17
        assert all(whole[name] == pixels for name, pixels in made.items())


def test_stop_and_continue(browser: Any, served: Served, tmp_path: Path) -> None:
    page = opened(browser, served)
    two_dots(page, tmp_path)
    page.get_by_label("--num-frames").fill("17")
    setting(page, "Denoising", "--num-inference-steps", "60")
    page.click("#make")
    page.wait_for_selector('.timeline button[data-place="1/2"] img')
    page.get_by_role("button", name="Stop").click()
    wait_state(page, "stopped")
    assert "Continue resumes it" in page.inner_text("#sg-ended")
    made = frames(served.run(page))
    assert len(made) < 17
    page.click("#sg-continue")
    wait_done(page)
    assert all(frames(served.run(page))[name] == pixels for name, pixels in made.items())
    page.context.close()


def test_what_is_typed_waits_for_its_place(browser: Any, served: Served, tmp_path: Path) -> None:
    page = opened(browser, served)
    two_dots(page, tmp_path)
    make_film(page, 5)
    page.locator("[data-f=speed]").select_option("2")
    page.get_by_label("Loop", exact=True).uncheck()

    # A prompt and a pose of one frame, while another one and a candidate are looked at.
    choose(page, "1/2")
    page.fill("#sg-panel [name=prompt]", "a fox")
    choose(page, "1/4")
    assert page.input_value("#sg-panel [name=prompt]") == ""
    page.click("#sg-pose summary")
    page.get_by_role("button", name="Standing figure").click()
    choose(page, "1/2")
    assert page.input_value("#sg-panel [name=prompt]") == "a fox"
    assert page.locator("svg.edit").count() == 0
    choose(page, "1/4")
    page.wait_for_selector("svg.edit")

    # A pose of its own is made, and given up again.
    run, before = served.run(page), frames(served.run(page))
    page.get_by_role("button", name="Make with this pose").click()
    page.wait_for_selector(".progress")
    wait_done(page)
    assert page.input_value("[data-f=speed]") == "2"
    assert not page.get_by_label("Loop", exact=True).is_checked()
    assert page.eval_on_selector("#sg-video", "v => [v.playbackRate, v.loop]") == [2, False]
    assert frames(run) != before
    page.get_by_role("button", name="Make without its own pose").click()
    page.wait_for_selector(".progress")
    wait_done(page)
    page.wait_for_function("() => !document.querySelector('[data-f=pose-reset]')")
    assert RunView(run).history.edit(FrameKey(0, Fraction(1, 4))).pose is None
    choose(page, "1/2")
    assert page.input_value("#sg-panel [name=prompt]") == "a fox"

    # A crop that is being drawn, while a picture is added and looked at; the keyboard is where the crop is.
    page.get_by_label("Crop, keyframe 1").click()
    assert page.evaluate("document.activeElement.dataset.side") == "0"
    page.keyboard.type("30")
    page.locator("[data-f^=d-]").first.click()
    page.wait_for_function("() => document.querySelectorAll('.card textarea')[0].value.length > 3")
    assert page.eval_on_selector('.crop [data-side="0"]', "input => input.value") == "30"
    page.locator(".card.editing").get_by_role("button", name="Crop", exact=True).click()
    page.wait_for_function("() => document.activeElement.ariaLabel === 'Crop, keyframe 1'")

    # Settings and a prompt outlast a reload, a new film and the film that was shown before; a cleared table comes back.
    page.get_by_label("--num-frames").fill("9")
    page.locator(".card textarea").first.fill("half a wor")
    wait_kept(page, served, 9)
    page.reload()
    page.wait_for_function("() => document.querySelector('#segue-settings input[type=number]')?.value === '9'")
    page.wait_for_function("() => document.querySelector('.card textarea')?.value === 'half a wor'")
    page.get_by_role("button", name="New film").click()
    page.wait_for_function("() => !document.querySelector('.card')")
    wait_settings(page, "")
    add(page, picture(tmp_path / "green.png", "green"))
    page.get_by_label("--num-frames").fill("3")
    wait_kept(page, served, 3)
    page.get_by_label("Film", exact=True).select_option("film-1")
    page.wait_for_function("() => document.querySelector('#segue-settings input[type=number]')?.value === '9'")
    page.wait_for_function("() => document.querySelector('.card textarea')?.value === 'half a wor'")
    page.get_by_role("button", name="New film").click()
    page.wait_for_function("() => document.querySelector('#segue-settings input[type=number]')?.value === '3'")
    page.get_by_role("button", name="Clear").click()
    page.get_by_role("button", name="Bring the picture back").click()
    page.wait_for_function("() => document.querySelector('.card .name')?.textContent === 'green.png'")

    # A film that is not finished is none to compare with; a damaged one leaves a way out.
    page.get_by_label("Film", exact=True).select_option("film-1")
    page.wait_for_selector("#sg-video")
    assert page.locator("[data-f=beside] option").all_inner_texts() == ["nothing", "the film before its last change"]
    (run / "run.json").write_text("{")
    page.wait_for_selector("#sg-fault")
    assert "run.json" in page.inner_text("#sg-fault")
    page.get_by_role("button", name="New film").click()
    page.wait_for_function("() => document.querySelector('.card .name')?.textContent === 'green.png'")
    assert page.astray == []
    page.context.close()


def test_two_tabs_change_the_film_that_each_shows(browser: Any, served: Served, tmp_path: Path) -> None:
    page = opened(browser, served)
    two_dots(page, tmp_path)
    make_film(page, 3)
    page.get_by_label("--seed").first.fill("22")
    page.click("#make")
    page.wait_for_selector(".progress")
    wait_done(page)
    wait_settings(page, "film-2")
    run = served.run(page)

    # The second tab lays the first film; until it has heard of it, the first one's requests are refused.
    other = opened(browser, served, storage_state=page.context.storage_state())
    other.wait_for_selector("#sg-video")
    choose(page, "1/2")
    page.evaluate(
        "() => { const ask = window.fetch; window.held = []; window.fetch = (path, options) =>"
        " path === '/studio/state' ? new Promise(() => {}) : ask(path, options); }"
    )
    page.wait_for_timeout(5000)  # no poll of the first tab is on its way any more
    other.get_by_label("Film", exact=True).select_option("film-1")
    playwright.expect(other.get_by_label("--seed").first).to_have_value("0")
    page.get_by_role("button", name="More candidates").click()
    page.wait_for_function(
        "() => document.querySelector('#sg-notice').textContent.includes('film-1 is on the table now, not film-2')"
    )
    assert len(RunView(run).history.remakes) == 0
    page.get_by_label("--seed").first.fill("77")
    page.click("#make")
    page.wait_for_timeout(1000)
    assert page.inner_text("#sg-notice") == "film-1 is on the table now, not film-2; show film-2 again to change it"

    # Each tab's settings follow the film, and what was typed for one is there when it is shown again.
    page.reload()
    playwright.expect(page.get_by_label("--seed").first).to_have_value("0")
    other.get_by_label("Film", exact=True).select_option("film-2")
    playwright.expect(other.get_by_label("--seed").first).to_have_value("77")
    playwright.expect(page.get_by_label("--seed").first).to_have_value("77", timeout=15_000)

    # A double click does not go through to the button that comes next; Escape leaves a crop as it was.
    page.get_by_role("button", name="New film").click()
    page.wait_for_function("() => !document.querySelector('.card')")
    add(page, tmp_path / "red.png")
    page.get_by_label("Crop, keyframe 1").click()
    page.keyboard.type("30")
    page.keyboard.press("Escape")
    page.wait_for_function("() => document.activeElement.ariaLabel === 'Crop, keyframe 1'")
    page.get_by_label("Crop, keyframe 1").click()
    assert page.input_value('.crop [data-side="0"]') == "0"
    page.get_by_role("button", name="Leave it").click()
    page.get_by_label("Film", exact=True).select_option("film-2")
    page.wait_for_selector("#sg-video")
    page.get_by_role("button", name="New film").click()
    page.wait_for_function("() => document.querySelector('.card .name')?.textContent === 'red.png'")
    page.get_by_role("button", name="Clear").dispatch_event("click", {"detail": 2})
    page.wait_for_timeout(500)
    assert page.locator(".card").count() == 1
    assert other.astray == page.astray == []
    other.context.close()
    page.context.close()


def test_what_was_not_made_is_still_there_to_be_sent(browser: Any, served: Served, tmp_path: Path) -> None:
    page = opened(browser, served)
    two_dots(page, tmp_path)
    make_film(page, 3)
    busy = opened(browser, served)
    two_dots(busy, tmp_path)
    busy.get_by_label("--num-frames").fill("17")
    setting(busy, "Denoising", "--num-inference-steps", "400")
    busy.click("#make")
    busy.wait_for_selector('.timeline button[data-place="1/2"] img')
    choose(page, "1/2")
    page.fill("#sg-panel [name=prompt]", "a fox")
    page.get_by_role("button", name="Make again").click()
    page.wait_for_selector("text=waiting for 1 other film")
    page.get_by_role("button", name="Stop").click()
    page.wait_for_selector("text=Stopped before it began")
    choose(page, "0")
    choose(page, "1/2")
    assert page.input_value("#sg-panel [name=prompt]") == "a fox"
    busy.get_by_role("button", name="Stop").click()
    wait_state(busy, "stopped")
    page.get_by_role("button", name="Make again").click()
    page.wait_for_selector(".progress")
    wait_done(page)
    page.click('[data-f="undo"]:not(:disabled)')
    page.wait_for_selector(".progress")
    wait_done(page)
    page.wait_for_function("() => document.querySelector('#sg-panel [name=prompt]').value === ''")
    busy.context.close()
    page.context.close()


@pytest.mark.parametrize("name", ["cat and tiger", "apple and moon"])
def test_an_example_runs_on_the_embedded_model(browser: Any, pocket: Served, name: str) -> None:
    page = opened(browser, pocket)
    page.get_by_role("button", name=name).click()
    page.wait_for_function("() => document.querySelectorAll('.card').length === 2")
    page.wait_for_function("() => document.querySelector('#segue-settings input[type=number]').value === '9'")
    begun = time.monotonic()
    page.click("#make")
    page.wait_for_selector(".progress")
    wait_done(page)
    print(f"{name}: {time.monotonic() - begun:.1f} s")
    run = RunView(pocket.run(page))
    assert run.data["model"]["name"] == "pocket"
    assert len(frames(run.path)) == 9
    shot(page, "18-example")
    page.context.close()


@pytest.fixture(scope="module")
def pocket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("pocket") / "root", COMMAND) as server:
        yield server
