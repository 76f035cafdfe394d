"""The studio without a browser and without Gradio: sessions, the queue, the timeline, controls, poses."""

import json
import os
import shlex
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw
from tiny import tiny_controlnet, tiny_pipe

from segue.engine.dialogue import Progress
from segue.engine.interpolator import Interpolator
from segue.errors import SegueError
from segue.method.tree import FrameKey
from segue.run.journal import Edit
from segue.run.schema import films_of
from segue.settings.kinds import FilmSettings, ModelSettings, MorphSettings, fields
from segue.settings.text import as_json
from segue.studio import pose_editor
from segue.studio.change import frame_at
from segue.studio.controls import Control, command_line, controls, groups, read, shown
from segue.studio.films import (
    command_lines,
    download_film,
    film_before,
    make_film,
    remake_frame,
    resume_film,
    rewrite_film,
    step,
)
from segue.studio.jobs import Job, Queue
from segue.studio.panel import frame_panel, table
from segue.studio.session import Session, Studio
from segue.studio.timeline import RunView, again, film_of

FAST: dict[str, Any] = {"num_frames": 5, "num_inference_steps": 4, "guidance_scale": 1.0, "network_size": "64x64"}
ALIGNED_FINELY = True
MIDDLE = FrameKey(0, Fraction(1, 2))


@cache
def tiny_model() -> Interpolator:
    pipe = tiny_pipe()
    return Interpolator(pipe, controlnet=tiny_controlnet(pipe), name="tiny")


def tiny_studio(root: Path, **others: Any) -> Studio:
    others = {"model_name": "tiny", **others}
    return Studio(root, tiny_model, lambda _picture, _captioner: "a red dot", **others)


def picture(path: Path, colour: str = "red") -> Path:
    image = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(image).ellipse((12, 12, 52, 52), fill=colour)
    image.save(path)
    return path


def begun(studio: Studio, folder: Path, visitor: str = "a" * 32) -> Session:
    session = studio.session(visitor)
    for name in ("red", "blue"):
        session.keyframes.add(picture(folder / f"{name}.png", name), f"{name}.png")
    return session


def ended(session: Session) -> Session:
    for _ in range(600):
        if session.job and not session.job.is_open:
            return session
        time.sleep(0.05)
    raise AssertionError("the job does not end")


def made(session: Session, **values: Any) -> Session:
    make_film(session, {**FAST, **values})
    ended(session)
    assert session.job
    assert (session.job.state, session.job.message) == ("done", "")
    return session


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Session:
    folder = tmp_path_factory.mktemp("studio")
    return made(begun(tiny_studio(folder / "root"), folder), candidates=2)


def test_a_film_is_a_run_of_the_command_line(film: Session, tmp_path: Path) -> None:
    assert film.run
    view = RunView(film.run)
    assert view.is_finished
    assert film_of(film.run).exists()
    sources = [keyframe["source"] for keyframe in view.data["keyframes"]]
    own = tiny_model()(*sources, output=tmp_path / "own", candidates=2, **FAST)
    for path in own.frames.paths:
        assert path.read_bytes() == (film.run / "frames" / path.name).read_bytes()


def test_every_setting_has_a_control_with_its_name_and_help() -> None:
    shown_names = {*controls(), "prompt"}
    assert shown_names == set(fields(MorphSettings))
    placed = [name for group in groups().values() for name in group]
    assert sorted([*placed, "num_frames", "loop", "seed", "prompt"]) == sorted(fields(MorphSettings))
    assert controls()["num_inference_steps"] == Control(
        "num_inference_steps",
        "whole",
        "--num-inference-steps",
        fields(MorphSettings)["num_inference_steps"].description or "",
    )


def test_controls_give_the_settings_back() -> None:
    from segue.settings.kinds import parse_settings

    settings = MorphSettings(
        noise=(0.2, 0.6123456789),
        zoom=(1.5, 2.0),
        pan=((0.5, 0.0),),
        prompt_at={0.5: "a fox"},
        rank_for=("x", "y"),
        candidates=3,
    )
    values = as_json(settings)
    found = {name: read(name, shown(name, values[name])) for name in controls()}
    assert (
        parse_settings(MorphSettings, {name: value for name, value in found.items() if value is not None}) == settings
    )
    assert read("prompt_at", "1/2 = a fox") == {0.5: "a fox"}
    with pytest.raises(SegueError, match=r"noise: input should be a valid number.*not 'a'"):
        MorphSettings(noise=read("noise", "a lot"))
    for text in ("1/0=a fox", "a fox", "1/=a fox", "1e999999999/2=a fox\n2="):
        with pytest.raises(SegueError, match="prompt_at takes PLACE=TEXT"):
            read("prompt_at", text)


def test_the_command_line_names_what_differs() -> None:
    from segue.settings.kinds import FilmSettings, parse_settings
    from segue.settings.presets import POCKET

    line = command_line(
        ["a b.png", "c.png"],
        "f.mp4",
        parse_settings(MorphSettings, {**POCKET, "noise": (0.2, 0.6), "loop": True, "seed": 3}),
        FilmSettings(fps=30),
        {"name": "pocket", "dtype": "float32"},
    )
    assert line == "segue morph 'a b.png' c.png -o f.mp4 --dtype float32 --loop --noise 0.2 0.6 --seed 3 --fps 30"


def test_only_the_frame_and_its_descendants_change(film: Session) -> None:
    assert film.run
    slots = RunView(film.run).slots()
    quarter = FrameKey(0, Fraction(1, 4))
    assert again(slots, quarter) == [quarter]
    assert again(slots, MIDDLE) == [FrameKey(0, Fraction(i, 4)) for i in (1, 2, 3)]
    before = {path.name: path.read_bytes() for path in (film.run / "frames").glob("*.png")}
    panel = frame_panel(film, quarter)
    assert [candidate["number"] for candidate in panel["candidates"]] == [0, 1]
    other = next(candidate["number"] for candidate in panel["candidates"] if not candidate["chosen"])
    remake_frame(film, "1/4", {"candidate": other})
    ended(film)
    after = {path.name: path.read_bytes() for path in (film.run / "frames").glob("*.png")}
    assert {name for name in after if after[name] != before[name]} == {f"{quarter.name}.png"}
    assert [c["number"] for c in frame_panel(film, quarter)["candidates"]] == [0, 1]
    step(film, back=True)
    ended(film)
    assert before == {path.name: path.read_bytes() for path in (film.run / "frames").glob("*.png")}


def test_a_pose_of_its_own(film: Session) -> None:
    people = pose_editor.as_points(pose_editor.standing((64, 64)))
    remake_frame(film, "1/2", {"pose": people})
    ended(film)
    assert film.job
    assert film.job.state == "done"
    assert "nobody in the keyframe at 0" in film.job.message
    step(film, back=True)
    ended(film)
    remake_frame(film, "1/4", {"pose": people})
    ended(film)
    assert not film.job.message  # the frame has its pose, and no frame is made from it
    panel = frame_panel(film, FrameKey(0, Fraction(1, 4)))
    assert (panel["pose_of"], panel["pose"]) == ("own", people)
    words = shlex.split(command_lines(film)[-1])
    assert Path(words[words.index("--pose") + 1]).is_file()
    step(film, back=True)
    ended(film)
    assert frame_panel(film, FrameKey(0, Fraction(1, 4)))["pose_of"] == "none"
    with pytest.raises(SegueError, match="a pose is people"):
        remake_frame(film, "1/4", {"pose": [[[1, 2, 3]]]})


def test_everything_is_there_again_in_a_new_server(film: Session) -> None:
    fresh = tiny_studio(film.studio.root).session(film.name)
    assert table(fresh)["keyframes"] == table(film)["keyframes"]
    assert table(fresh)["run"] == table(film)["run"]
    assert fresh.data["controls"]["num_frames"] == 5


def test_downloads(film: Session) -> None:
    import zipfile

    import av

    ticks = round(24 * (0.5 + 4 / 3 + 0.5))
    for kind in ("mp4", "mov", "webm"):
        with av.open(str(download_film(film, kind))) as container:
            assert len(list(container.decode(video=0))) == ticks
    for kind in ("gif", "webp"):
        with Image.open(download_film(film, kind)) as image:
            assert image.n_frames == 5  # type: ignore[attr-defined]
    with zipfile.ZipFile(download_film(film, "png")) as archive:
        assert sorted(archive.namelist()) == [f"{i:04d}.png" for i in range(ticks)]
    with pytest.raises(SegueError, match="no download"):
        download_film(film, "exe")


def test_the_film_before_the_last_change_is_kept(film: Session) -> None:
    assert film.run
    now = film_of(film.run).read_bytes()
    remake_frame(film, "1/4", {"seed": "5"})
    ended(film)
    assert film_of(film.run).read_bytes() != now
    assert film_before(film, film.run).read_bytes() == now
    step(film, back=True)
    ended(film)
    assert film_of(film.run).read_bytes() == now


def test_other_settings_begin_another_film(film: Session) -> None:
    assert film.data["run"] == "film-1"
    made(film, seed=1)
    assert list(film.runs()) == ["film-1", "film-2"]
    film.open("film-1")
    assert film.data["controls"].get("seed", 0) == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pose", "/etc/passwd,/etc/hosts"),
        ("control_image", "/root/a.png"),
        ("captioner", "/models/blip"),
        ("ranker", "someone/clip"),
        ("spacing", "perceptual:lpips:/root/weights.safetensors"),
    ],
)
def test_a_shared_page_names_no_files_and_no_models(tmp_path: Path, name: str, value: str) -> None:
    session = begun(tiny_studio(tmp_path / "root", public=True), tmp_path)
    with pytest.raises(SegueError, match=f"^{name}: a shared studio"):
        make_film(session, {**FAST, name: value})
    assert not session.runs()
    assert session.settings({**FAST, "pose": "off", "spacing": "perceptual:pocket"}, "balanced").pose == "off"


def test_a_preset_goes_as_far_as_a_scheme_knows_it(tmp_path: Path) -> None:
    session = begun(tiny_studio(tmp_path / "root"), tmp_path)
    assert session.settings({"scheme": "interpolate"}, "paper").candidates == 1


def test_stop_and_continue(tmp_path: Path) -> None:
    session = begun(tiny_studio(tmp_path / "root"), tmp_path)
    seen: list[Progress] = []
    make_film(session, FAST)
    assert session.job
    report = session.studio.queue._report

    def stopping(job: Job, progress: Progress) -> None:
        seen.append(progress)
        if progress.frames == 1:
            job.stop()
        report(job, progress)

    session.studio.queue._report = stopping  # type: ignore[method-assign]
    ended(session)
    session.studio.queue._report = report  # type: ignore[method-assign]
    if session.job.state == "stopped":  # the film may have been done before the patch
        assert not RunView(session.run or Path()).is_finished
        resume_film(session)
        ended(session)
    assert session.job.state == "done"
    assert RunView(session.run or Path()).is_finished


def test_a_lost_model_leaves_a_message_and_a_run_to_go_on_with(tmp_path: Path) -> None:
    studio = tiny_studio(tmp_path / "root")
    good = studio.load

    def lost() -> Interpolator:
        raise SegueError("the checkpoint nobody/nothing is not there")

    studio.load = lost
    session = begun(studio, tmp_path)
    make_film(session, FAST)
    ended(session)
    assert session.job
    assert (session.job.state, session.job.message) == ("failed", "the checkpoint nobody/nothing is not there")
    studio.load = good
    resume_film(session)
    ended(session)
    assert session.job.state == "done"


@pytest.mark.parametrize("content", [b"", b"no picture at all", b"\x89PNG\r\n\x1a\n broken"])
def test_what_is_no_picture_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    session = tiny_studio(tmp_path / "root").session("b" * 32)
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(SegueError, match=r"holiday\.png"):
        session.keyframes.add(tmp_path / "x", "holiday.png")
    assert session.data["keyframes"] == []


def test_crop_and_order_and_prompts(tmp_path: Path) -> None:
    session = begun(tiny_studio(tmp_path / "root"), tmp_path)
    first, second = (keyframe["id"] for keyframe in session.data["keyframes"])
    session.keyframes.crop(first, (0.25, 0.25, 0.75, 0.75))
    before = session.keyframes.path(session.keyframes[first])
    with Image.open(before) as cropped:
        assert cropped.size == (32, 32)
        assert cropped.getpixel((16, 16)) == (255, 0, 0)
    earlier = before.read_bytes()
    session.keyframes.crop(first, (0, 0, 0.75, 0.75))  # a film that was made with the first crop keeps its picture
    assert session.keyframes.path(session.keyframes[first]) != before
    assert before.read_bytes() == earlier
    session.keyframes.move(first, 1)
    assert [keyframe["id"] for keyframe in session.data["keyframes"]] == [second, first]
    assert session.describe(first) == "a red dot"
    with pytest.raises(SegueError, match="keyframe 1 has no prompt"):
        make_film(session, FAST)
    session.keyframes.word(second, "a blue dot")
    assert session.settings(FAST, "draft").prompt == ("a blue dot", "a red dot")
    with pytest.raises(SegueError, match="crop"):
        session.keyframes.crop(first, (0.5, 0, 0.5, 1))


def test_an_example_begins_anew_with_the_quickest_settings(tmp_path: Path) -> None:
    pictures = tuple(picture(tmp_path / f"{name}.png", name) for name in ("red", "blue"))
    session = begun(tiny_studio(tmp_path / "root", examples={"dots": pictures}), tmp_path)
    session.example("dots")
    assert [keyframe["name"] for keyframe in session.data["keyframes"]] == ["red.png", "blue.png"]
    assert (session.data["preset"], session.data["controls"]["num_frames"]) == ("draft", 9)
    assert session.data["controls"]["num_inference_steps"] == 16
    with pytest.raises(SegueError, match="no example none"):
        session.example("none")


def test_the_opened_run_names_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from segue.cli.studio import loader_of

    loaded: list[tuple[Any, ...]] = []
    monkeypatch.setattr(
        "segue.engine.interpolator.Interpolator.from_pretrained",
        lambda *names, **options: loaded.append((names, options)),
    )
    begun = {"controlnet": "a/control", "dtype": "bfloat16", "revision": "v2", "image_adapter": "/an/ip.safetensors"}
    model = {"name": "a/model", "fingerprint": "f", **begun}
    run = {"settings": {}, "size": [8, 8], "keyframes": [], "model": model, "batch_size": 1}
    (tmp_path / "run.json").write_text(json.dumps(run))
    loader_of(tmp_path, ModelSettings(device="cpu"))()
    loader_of(tmp_path, ModelSettings(model="another", low_memory=True))()
    loader_of(None, ModelSettings())()
    usual = {name: value for name, value in dict(ModelSettings()).items() if name != "model"}
    assert loaded == [
        (("a/model",), {**usual, **begun, "device": "cpu"}),
        (("another",), {**usual, "low_memory": True}),
        ((None,), usual),
    ]


def test_the_page_is_told_of_a_model_that_loads(tmp_path: Path) -> None:
    studio, gate = tiny_studio(tmp_path / "root"), threading.Event()
    studio.load = lambda: (gate.wait(20), tiny_model())[1]
    session = begun(studio, tmp_path)
    make_film(session, FAST)
    _until(lambda: bool(session.job and session.job.progress))
    begin = time.monotonic()
    assert "loading the model" in table(studio.session("a" * 32))["job"]["text"]
    assert studio.session("b" * 32).data["run"] is None
    assert time.monotonic() - begin < 10
    gate.set()
    assert ended(session).job.state == "done"  # type: ignore[union-attr]


def test_a_refined_film_has_all_its_places_from_the_beginning(tmp_path: Path) -> None:
    session = begun(tiny_studio(tmp_path / "root"), tmp_path)
    made(session, refine=2)
    assert session.run
    view = RunView(session.run)
    finished = {slot.key: (slot.level, slot.parents) for slot in view.slots()}
    (session.run / "state.json").unlink()
    planned = {slot.key: (slot.level, slot.parents) for slot in RunView(session.run).slots()}
    assert len(planned) == 9
    assert planned == finished


def test_a_film_is_begun_in_the_empty_folder_that_was_named(tmp_path: Path) -> None:
    (tmp_path / "film").mkdir()
    session = tiny_studio(tmp_path / "root", opened=tmp_path / "film").session("c" * 32)
    for name in ("red", "blue"):
        session.keyframes.add(picture(tmp_path / f"{name}.png", name), f"{name}.png")
    made(session)
    assert session.run == tmp_path / "film"
    assert (tmp_path / "film" / "run.json").exists()


@pytest.mark.parametrize("place", ["1e300000000", "0.5", "1/0", "-1", "", "9" * 5000, "1/2/3", "\u0661"])
def test_a_place_is_a_short_fraction(place: str) -> None:
    assert frame_at("5/4") == FrameKey(1, Fraction(1, 4))
    with pytest.raises(SegueError, match="there is no frame at"):
        frame_at(place)


def test_a_run_of_the_command_line_is_opened_and_changed(tmp_path: Path) -> None:
    sources = [picture(tmp_path / f"{name}.png", name) for name in ("red", "blue")]
    tiny_model()(*sources, output=tmp_path / "morph", **FAST)
    session = tiny_studio(tmp_path / "root", opened=tmp_path / "morph").session("c" * 32)
    assert session.run == tmp_path / "morph"
    assert [keyframe["name"] for keyframe in session.data["keyframes"]] == ["red.png", "blue.png"]
    remake_frame(session, "1/2", {"seed": "7"})
    ended(session)
    assert RunView(tmp_path / "morph").history.edit(MIDDLE).seed == 7
    assert "--frame 1/2 --seed 7" in command_lines(session)[1]


def test_a_film_keeps_the_settings_that_it_was_written_with(tmp_path: Path) -> None:
    sources = [picture(tmp_path / f"{name}.png", name) for name in ("red", "blue")]
    morph = tiny_model()(*sources, output=tmp_path / "morph", **FAST)
    slow = FilmSettings(fps=3, hold=0.7)
    morph.save(tmp_path / "morph.mp4", slow)
    morph.remember(tmp_path / "morph.mp4", slow)
    session = tiny_studio(tmp_path / "root", opened=tmp_path / "morph").session("c" * 32)
    assert "--fps 3 --hold 0.7" in command_lines(session)[0]
    remake_frame(session, "1/2", {"seed": "7"})
    ended(session)
    assert films_of(tmp_path / "morph") == {tmp_path / "morph.mp4": slow}

    session.keyframes.replace(())
    for source in reversed(sources):
        session.keyframes.add(source, source.name)
    made(session)
    rewrite_film(session, {"fps": "8"})
    ended(session)
    assert "--fps 8" in command_lines(session)[0]
    session.open("morph")
    assert "--fps 3 --hold 0.7" in command_lines(session)[0]
    assert session.data["film"]["fps"] == 3


def test_a_frame_keeps_its_words_beside_a_pose_and_gives_them_up_when_they_are_emptied(film: Session) -> None:
    people = pose_editor.as_points(pose_editor.standing((64, 64)))
    quarter = FrameKey(0, Fraction(1, 4))

    def edited(change: dict[str, Any]) -> Edit:
        remake_frame(film, "1/4", change)
        ended(film)
        return film.view().history.edit(quarter)

    empty = {"prompt": "", "negative_prompt": "", "seed": "", "noise": ""}
    edited({**empty, "prompt": "a fox", "seed": "7"})
    posed = edited({"pose": people})
    assert (posed.prompt, posed.seed, bool(posed.pose)) == ("a fox", 7, True)
    assert edited({}).prompt == "a fox"  # other noise alone
    assert edited(empty) == Edit(pose=posed.pose)
    assert edited({"pose": []}) == Edit()  # nothing of its own is left
    assert command_lines(film)[-1].endswith("--frame 1/4 --reset")
    for _ in range(5):
        step(film, back=True)
        ended(film)


def test_a_frame_of_a_film_that_is_not_on_the_table_is_refused(film: Session) -> None:
    film.check("film-1")
    with pytest.raises(SegueError, match="film-1 is on the table now, not film-7"):
        film.check("film-7")


def test_what_is_not_made_yet_waits_on_its_table(tmp_path: Path) -> None:
    studio = tiny_studio(tmp_path / "root")
    session = made(begun(studio, tmp_path))
    pictures = [keyframe["id"] for keyframe in session.data["keyframes"]]

    def on_table() -> list[str]:
        return [keyframe["name"] for keyframe in session.keyframes.entries]

    # Changes of a film, and a new one, are there again when they are shown again.
    session.keyframes.crop(pictures[0], (0.25, 0.25, 0.75, 0.75))
    session.tables.keep("controls", {"seed": "not a number"}, preset="draft")
    session.tables.keep("film_controls", {"fps": 3})
    session.new()
    assert (on_table(), session.data["run"]) == ([], None)
    session.keyframes.add(picture(tmp_path / "green.png", "green"), "green.png")
    session.tables.keep("controls", {"seed": 4})
    session.open("film-1")
    assert session.keyframes.entries[0]["crop"] == [0.25, 0.25, 0.75, 0.75]
    assert (session.data["preset"], session.data["controls"]["seed"]) == ("draft", "not a number")
    assert session.data["film_controls"] == {"fps": 3}
    session = tiny_studio(tmp_path / "root").session("a" * 32)  # and by a new server
    session.new()
    assert (on_table(), session.data["controls"]["seed"]) == (["green.png"], 4)

    # An emptied table of a new film is brought back.
    session.clear()
    session.keyframes.add(picture(tmp_path / "black.png", "black"), "black.png")
    session.clear()
    session.bring_back()
    assert on_table() == ["black.png"]
    session.keyframes.remove(session.keyframes.entries[0]["id"])
    session.bring_back()
    assert on_table() == ["green.png"]
    with pytest.raises(SegueError, match="nothing to bring back"):
        session.bring_back()

    # What was changed belongs to the film that is made of it; the one before is as it was made.
    session.open("film-1")
    with pytest.raises(SegueError, match="film-1 is on the table now, not a new film"):
        session.clear()
    made(session, seed=5)
    assert session.data["run"] == "film-2"
    session.open("film-1")
    assert [keyframe["crop"] for keyframe in session.keyframes.entries] == [None, None]
    assert session.data["controls"]["seed"] == 0


def test_a_film_of_which_nothing_is_made_can_be_shown_again(tmp_path: Path) -> None:
    def lost() -> Interpolator:
        raise SegueError("no model")

    studio = tiny_studio(tmp_path / "root")
    studio.load = lost
    session = begun(studio, tmp_path)
    make_film(session, FAST)
    ended(session)
    assert not session.runs()
    session.new()
    assert session.films() == {"film-1": None}
    assert table(session)["job"] is None  # how it ended is not told beside another film
    session.open("film-1")
    assert table(session)["job"]["message"] == "no model"
    assert [keyframe["name"] for keyframe in session.keyframes.entries] == ["red.png", "blue.png"]


def test_a_damaged_run_leaves_a_way_out(tmp_path: Path) -> None:
    from segue.cli.studio import check_run

    session = made(begun(tiny_studio(tmp_path / "root"), tmp_path))
    assert session.run
    (session.run / "run.json").write_text("{")
    assert "run.json" in table(session)["fault"]
    session.new()
    session.open("film-1")  # its pictures are still there
    assert "run.json" in table(session)["fault"]
    assert len(session.keyframes) == 2
    with pytest.raises(SegueError, match=r"run\.json"):
        check_run(session.run)
    made(session)
    assert (session.data["run"], table(session)["fault"]) == ("film-2", "")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("run.json", b'{"settings": [], "size": [64, 64], "keyframes": [], "model": {}}'),
        ("state.json", b'{"frames": [{}]}'),
        ("state.json", b"["),
        ("films.json", b"{"),
        ("journal.jsonl", b"\xff\xfe\n"),
    ],
)
def test_other_damaged_files_leave_the_page(tmp_path: Path, name: str, content: bytes) -> None:
    session = made(begun(tiny_studio(tmp_path / "root"), tmp_path))
    assert session.run
    (session.run / name).write_bytes(content)
    for fresh in (session, tiny_studio(tmp_path / "root", opened=session.run).session("c" * 32)):
        fault = table(fresh)["fault"]
        assert "damaged" in fault if name != "journal.jsonl" else not fault  # whose whole lines count
        fresh.new()
        fresh.open("film-1")
        assert len(fresh.keyframes) == 2 or fresh is not session


def test_a_damaged_table_is_put_aside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    session = made(begun(tiny_studio(tmp_path / "root"), tmp_path))
    (session.folder / "studio.json").write_text("{")
    fresh = tiny_studio(tmp_path / "root").session(session.name)
    assert (list(fresh.films()), len(fresh.keyframes)) == (["film-1"], 0)
    assert (session.folder / "studio.damaged.json").read_text() == "{"
    assert "studio.damaged.json" in capsys.readouterr().err


def test_what_belongs_to_another_table_goes_there(tmp_path: Path) -> None:
    session = made(begun(tiny_studio(tmp_path / "root"), tmp_path))
    red = session.keyframes.entries[0]["id"]
    session.new()
    # Arriving late, or from a tab that shows the film: a picture, a prompt, a setting.
    session.tables.keyframes_of("film-1").add(picture(tmp_path / "green.png", "green"), "green.png")
    session.tables.keyframes_of("film-1").word(red, "a red dot")
    session.tables.keep("controls", {"seed": 9, "noise": float("nan")}, name="film-1")
    assert len(session.keyframes) == 0
    with pytest.raises(SegueError, match="there is no film nothing"):
        session.tables.keep("controls", {"seed": 9}, name="nothing")

    def describe(_picture: Image.Image, _captioner: str | None) -> str:  # while another film is shown
        session.open("film-1")
        session.new()
        return "a blue dot"

    session.studio.describe = describe
    session.describe(session.data["tables"]["film-1"]["keyframes"][1]["id"], "film-1")
    session.open("film-1")
    assert session.keyframes.entries[1]["prompt"] == "a blue dot"
    assert [keyframe["name"] for keyframe in session.keyframes.entries] == ["red.png", "blue.png", "green.png"]
    assert session.keyframes[red]["prompt"] == "a red dot"
    assert (session.data["controls"]["seed"], session.data["controls"]["num_frames"]) == (9, 5)


def test_a_film_is_written_with_the_film_settings_of_when_it_was_asked_for(tmp_path: Path) -> None:
    session = made(begun(tiny_studio(tmp_path / "root"), tmp_path))
    rewrite_film(session, {"fps": "12"})
    ended(session)
    gate = threading.Event()
    session.studio.queue.add(Job("b" * 32, "Work", lambda _report: _wait(gate)))
    make_film(session, {**FAST, "seed": 1})
    session.open("film-1")
    with pytest.raises(SegueError, match="still being made"):
        rewrite_film(session, {"fps": "3"})
    assert "--fps 12" in command_lines(session)[0]
    session.open("film-2")
    session.data["film"] = as_json(FilmSettings(fps=5))  # as another film that is laid does
    gate.set()
    ended(session)
    assert session.run
    assert [film.fps for film in films_of(session.run).values()] == [12]
    session.tables.keep("film_controls", {"hold": "0.25"})
    made(session, seed=2)  # what is typed goes with the film that is made of it
    assert session.run
    assert [(film.fps, film.hold) for film in films_of(session.run).values()] == [(5, 0.25)]


def test_the_film_that_is_named_is_shown(tmp_path: Path) -> None:
    sources = [picture(tmp_path / f"{name}.png", name) for name in ("red", "blue")]
    tiny_model()(*sources, output=tmp_path / "morph", **FAST)
    session = tiny_studio(tmp_path / "root", opened=tmp_path / "morph").session("c" * 32)
    session.new()
    session.keyframes.add(sources[0], "red.png")
    again = tiny_studio(tmp_path / "root", opened=tmp_path / "morph").session("c" * 32)
    assert again.run == tmp_path / "morph"
    again.new()
    assert [keyframe["name"] for keyframe in again.keyframes.entries] == ["red.png"]


def test_a_captioner_that_is_only_typed_describes(tmp_path: Path) -> None:
    asked: list[str | None] = []
    for is_public in (False, True):
        studio = tiny_studio(tmp_path / f"root-{is_public}", public=is_public)

        def describe(_picture: Image.Image, captioner: str | None) -> str:
            asked.append(captioner)
            return "a dot"

        studio.describe = describe
        session = begun(studio, tmp_path)
        session.tables.keep("controls", {"captioner": "a/model"})
        if is_public:
            with pytest.raises(SegueError, match="captioner: a shared studio"):
                session.describe(session.keyframes.entries[0]["id"])
        else:
            session.describe(session.keyframes.entries[0]["id"])
    assert asked == ["a/model"]


def test_a_make_that_changes_nothing_leaves_the_film_before(tmp_path: Path) -> None:
    session = made(begun(tiny_studio(tmp_path / "root"), tmp_path))
    assert session.run
    first = film_of(session.run).read_bytes()
    remake_frame(session, "1/2", {"seed": "7"})
    ended(session)
    made(session)
    assert film_of(session.run).read_bytes() != first
    assert film_before(session, session.run).read_bytes() == first


def test_a_film_whose_writing_was_cut_off_is_continued(tmp_path: Path) -> None:
    session = made(begun(tiny_studio(tmp_path / "root"), tmp_path))
    assert table(session)["run"]["written"]
    assert session.run
    output = film_of(session.run)
    for is_begun in (False, True):
        if is_begun:  # a remake was made, and the film shows what was there before
            os.utime(output, (0, 0))
        else:
            (session.run / "films.json").unlink()
        assert not table(session)["run"]["written"]
        assert download_film(session, "mp4") != output  # which may show what the run was before
        resume_film(session)
        ended(session)
        assert table(session)["run"]["written"]


# The queue.


def _job(owner: str, work: Callable[[Callable[[Progress], None]], None]) -> Job:
    return Job(owner, "Work", work)


def test_only_so_many_wait(tmp_path: Path) -> None:
    queue, gate = Queue(most=1), threading.Event()
    first, second = _job("a", lambda _report: _wait(gate)), _job("b", lambda _report: None)
    queue.add(first)
    queue.add(second)
    with pytest.raises(SegueError, match="2 films are waiting"):
        queue.add(_job("c", lambda _report: None))
    with pytest.raises(SegueError, match="still being made"):
        queue.add(_job("a", lambda _report: None))
    gate.set()
    _until(lambda: second.state == "done")
    assert first.state == "done"


def test_pause_holds_and_gives_way() -> None:
    queue, count = Queue(), 0
    started = threading.Event()

    def counting(report: Callable[[Progress], None]) -> None:
        nonlocal count
        while count < 10_000:
            started.set()
            report(Progress("frames"))
            count += 1
            time.sleep(0.001)

    job = _job("a", counting)
    queue.add(job)
    started.wait(10)
    _until(lambda: count > 3)
    job.pause()
    time.sleep(0.1)
    held = count
    time.sleep(0.1)
    assert count == held
    job.resume()
    _until(lambda: count > held)
    job.pause()
    other = _job("b", lambda _report: None)
    queue.add(other)
    _until(lambda: other.state == "done")
    assert job.state == "stopped"
    assert "Other films were waiting" in job.message


def _wait(gate: threading.Event) -> None:
    gate.wait(20)


def _until(true: Callable[[], bool]) -> None:
    for _ in range(400):
        if true():
            return
        time.sleep(0.025)
    raise AssertionError("it never came true")
