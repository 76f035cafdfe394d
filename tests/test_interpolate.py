"""From images to a film, as a user of the library sees it."""

import contextlib
import errno
import gc
import json
import os
import random
import shutil
import tempfile
import warnings
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import LCMScheduler, TCDScheduler, UniPCMultistepScheduler
from notices import SegueWarning
from PIL import Image
from shapes import QUICK, contents, latents, picture, tiny_interpolator
from tiny import tiny_controlnet, tiny_pipe

from segue.engine.dialogue import Progress
from segue.engine.interpolator import Interpolator
from segue.errors import SegueError
from segue.method.tree import FrameKey
from segue.models.stable_diffusion import StableDiffusion
from segue.pictures.images import fit
from segue.run.folder import RunFolder
from segue.words import inversion

A, B, C = picture(0), picture(1), picture(2)


def film(path: Path | None, *images: Any, **settings: Any) -> Any:
    return tiny_interpolator()(*(images or (A, B)), output=path, **{**QUICK, **settings})


@pytest.mark.parametrize("how", ["cover", "contain", "stretch"])
def test_the_first_and_the_last_frame_are_the_fitted_images(how: Any, tmp_path: Path) -> None:
    wide, tall = picture(0, (70, 40)), picture(1, (33, 90))
    told = pytest.warns(SegueWarning, match=r"^the keyframe at 0 loses 14 %, the keyframe at 1 loses 76 % at the edges")
    with told if how == "cover" else contextlib.nullcontext():
        morph = film(tmp_path / "run", wide, tall, fit=how, network_size="48x32", background="navy")
    assert morph.frames[0].tobytes() == fit(wide, (48, 32), how, "navy").tobytes()
    assert morph.frames[-1].tobytes() == fit(tall, (48, 32), how, "navy").tobytes()
    assert {frame.size for frame in morph.frames} == {(48, 32)}


def test_keyframes_of_the_right_size_are_the_users_own_pixels(tmp_path: Path) -> None:
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path, image in zip(paths, (A, B), strict=True):
        image.save(path)
    kinds: list[tuple[Any, ...]] = [(A, B), tuple(paths), tuple(map(str, paths)), (np.array(A), np.array(B))]
    for i, images in enumerate(kinds):
        morph = film(tmp_path / f"run{i}", *images, num_frames=3)
        assert (morph.frames[0].tobytes(), morph.frames[-1].tobytes()) == (A.tobytes(), B.tobytes())
    assert len({json.dumps(contents(tmp_path / f"run{i}", "frames/")) for i in range(4)}) == 1


def test_three_keyframes_and_a_loop(tmp_path: Path) -> None:
    prompt = ("a cat", "a dog", "an owl")
    line = film(tmp_path / "line", A, B, C, num_frames=3, prompt=prompt)
    assert [str(key) for key in line.keys] == ["0", "0.5", "1", "1.5", "2"]
    assert line.keyframe_flags == [True, False, True, False, True]
    loop = film(tmp_path / "loop", A, B, C, num_frames=3, prompt=prompt, loop=True)
    assert [str(key) for key in loop.keys] == ["0", "0.5", "1", "1.5", "2", "2.5"]  # the first is not repeated
    for i, image in ((0, A), (2, B), (4, C)):
        assert loop.frames[i].tobytes() == image.tobytes()
    same = [frame.tobytes() for frame in loop.frames[:5]]
    assert same == [frame.tobytes() for frame in line.frames]


def test_nine_frames_grown_to_seventeen_are_seventeen_made_at_once(tmp_path: Path) -> None:
    levels = (0.6, 0.5, 0.4, 0.3)
    settings = {"noise": levels, "num_inference_steps": 4, "batch_size": 4}
    with pytest.warns(SegueWarning, match=r"noise: the tree has 3 levels; not used: 0\.3"):
        film(tmp_path / "grown", num_frames=9, **settings)
    nine = contents(tmp_path / "grown", "frames/")
    calls: list[Progress] = []
    grown = film(tmp_path / "grown", num_frames=17, callback=calls.append, **settings)
    at_once = film(tmp_path / "at-once", num_frames=17, **settings)
    assert contents(tmp_path / "grown", "frames/") == contents(tmp_path / "at-once", "frames/")
    assert nine.items() <= contents(tmp_path / "grown", "frames/").items()
    assert len(grown) == len(at_once) == 17
    a, b = latents(tmp_path / "grown"), latents(tmp_path / "at-once")
    assert all(torch.equal(a[key], b[key]) for key in b)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"num_frames": 5, "refine": 2}, {"num_frames": 17}),
        ({"num_frames": 9}, {"num_frames": 5, "refine": 4}),
        ({"num_frames": 5, "refine": 2}, {"num_frames": 9, "refine": 2}),
    ],
)
def test_a_refined_film_that_grows_keeps_its_frames(
    before: dict[str, int], after: dict[str, int], tmp_path: Path
) -> None:
    film(tmp_path / "run", **before)
    frames = contents(tmp_path / "run", "frames/")
    grown = film(tmp_path / "run", **after)
    assert len(grown) == 17
    assert frames.items() <= contents(tmp_path / "run", "frames/").items()


def test_words_of_an_impossible_film_are_not_fitted(tmp_path: Path) -> None:
    settings = {**QUICK, "num_frames": 9, "noise": (0.5, 0.4, 0.3), "inversion": 1}
    interpolator = Interpolator(tiny_pipe())
    interpolator(A, B, output=tmp_path / "run", **settings)
    before = contents(tmp_path / "run")
    with pytest.raises(SegueError, match="noise levels"):
        interpolator.invert(A, B, output=tmp_path / "run", **{**settings, "num_frames": 17})
    assert contents(tmp_path / "run") == before


def test_a_part_of_a_temporary_film_keeps_its_files() -> None:
    inner = Interpolator(tiny_pipe())(A, B, **QUICK).frames[1:-1][:1]
    gc.collect()
    assert inner[0].size == A.size


def test_growth_with_a_range_of_noise_keeps_the_frames(tmp_path: Path) -> None:
    film(tmp_path / "run", num_frames=3)
    before = contents(tmp_path / "run", "frames/")
    film(tmp_path / "run", num_frames=9)
    after = contents(tmp_path / "run", "frames/")
    assert len(after) == 9
    assert before.items() <= after.items()
    with pytest.raises(SegueError, match="num_frames: 9, now 5"):
        film(tmp_path / "run", num_frames=5)


def test_a_finished_run_calls_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = film(tmp_path / "run")
    before = contents(tmp_path / "run")
    pipe: Any = tiny_interpolator().backbone.pipe  # type: ignore[attr-defined]

    def never(*_arguments: Any, **_options: Any) -> Any:
        raise AssertionError("a network was called")

    for network in (pipe.unet, pipe.vae.encoder, pipe.vae.decoder):
        monkeypatch.setattr(network, "forward", never)
    second = film(tmp_path / "run")
    assert contents(tmp_path / "run") == before
    assert [frame.tobytes() for frame in second.frames] == [frame.tobytes() for frame in first.frames]


@pytest.mark.filterwarnings("ignore:the keyframe at 0 loses")  # a crop is told before another size is refused
@pytest.mark.parametrize(
    ("changed", "shown"),
    [
        ({"seed": 1}, "seed: 0, now 1"),
        ({"guidance_scale": 2.0}, "guidance_scale: 5.0, now 2.0"),
        ({"noise": (0.3, 0.6)}, r"noise: \[0.3, 0.55\], now \[0.3, 0.6\]"),
        ({"num_frames": 6, "seed": 1}, "num_frames: 5, now 6; seed: 0, now 1"),
        ({"prompt": ("a cat", "a fox")}, r"prompt: \['a cat', 'a dog'\], now \['a cat', 'a fox'\]"),
        ({"network_size": "48x32"}, "network_size: '32x32', now '48x32'; size: 32 x 32, now 48 x 32"),
        ({"zoom": (1.5,)}, r"zoom: \[1.0\], now \[1.5\]"),  # the keyframes' pixels change with it
        ({"seed": 1, "eta": 0.1, "solver": "ddim"}, "eta: 0.0, now 0.1; seed: 0, now 1; solver: 'dpm.*', now 'ddim'"),
    ],
)
def test_other_settings_are_refused_and_nothing_changes(changed: dict[str, Any], shown: str, finished: Path) -> None:
    before = contents(finished)
    with pytest.raises(SegueError, match=rf"holds a run with other settings \({shown}\); choose another output"):
        film(finished, **changed)
    assert contents(finished) == before


def test_other_images_and_models_are_refused(finished: Path) -> None:
    before = contents(finished)
    with pytest.raises(SegueError, match="keyframes: Image/Image, now Image/Image with other pixels"):
        film(finished, A, C)
    with pytest.raises(SegueError, match="model: tiny, now other with other weights"):
        Interpolator(tiny_pipe(seed=1), name="other")(A, B, output=finished, **QUICK)
    assert contents(finished) == before


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("finished") / "run"
    film(path)
    return path


def test_computing_settings_do_not_make_another_run(finished: Path) -> None:
    before = contents(finished, "frames/", "latents/", "state.json")
    film(finished, batch_size=3, keep_candidates=True)
    assert contents(finished, "frames/", "latents/", "state.json") == before


def test_frames_that_do_not_nest_are_told(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(SegueError, match=r"now 6\); 5 frames grow to 9, 17, 33 and so on; choose another output"):
        film(finished, num_frames=6)
    perceptual = {"spacing": "perceptual:pixels"}
    film(tmp_path / "run", **perceptual)
    with pytest.raises(SegueError, match=r"now 9\); only films of the scheme branching with uniform spacing grow; "):
        film(tmp_path / "run", num_frames=9, **perceptual)


@pytest.mark.parametrize("part", ["run.json", "journal.jsonl"])
def test_a_damaged_run_can_be_overwritten(part: str, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / part).write_text("x\n")
    with pytest.raises(SegueError, match=part):
        film(tmp_path / "run")
    film(tmp_path / "run", overwrite=True)
    assert contents(tmp_path / "run", "frames/") == contents(finished, "frames/")
    assert not (tmp_path / "run" / ".new").exists()


def test_a_run_that_is_being_overwritten_is_there_as_it_was(tmp_path: Path) -> None:
    film(tmp_path / "run")
    before = contents(tmp_path / "run")
    begun_anew(tmp_path / "run")
    waiting = contents(tmp_path / "run", ".new/")
    assert waiting
    assert contents(tmp_path / "run") == before | waiting
    film(tmp_path / "run")
    assert contents(tmp_path / "run") == before | waiting
    film(tmp_path / "run", overwrite=True)
    assert contents(tmp_path / "run") == before


def test_overwrite_begins_anew(tmp_path: Path) -> None:
    film(tmp_path / "run", candidates=2)
    tiny_interpolator().remake(tmp_path / "run", FrameKey(0, Fraction(1, 2)))
    film(tmp_path / "run", seed=3, overwrite=True)
    film(tmp_path / "fresh", seed=3)
    assert contents(tmp_path / "run") == contents(tmp_path / "fresh")


def test_overwrite_of_the_same_settings_is_the_same_run(tmp_path: Path) -> None:
    film(tmp_path / "run")
    before = contents(tmp_path / "run")
    film(tmp_path / "run", overwrite=True)
    assert contents(tmp_path / "run") == before


def test_a_run_killed_while_it_was_begun_anew_is_not_mixed_with_its_remains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run file is gone, latents and pictures of the old settings are there."""
    film(tmp_path / "run")
    (tmp_path / "run" / "run.json").unlink()
    film(tmp_path / "run", seed=3)
    film(tmp_path / "fresh", seed=3)
    assert contents(tmp_path / "run") == contents(tmp_path / "fresh")


def test_a_run_killed_before_its_run_file_shows_the_new_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_arguments: Any, **_options: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            film(tmp_path / "run", C, B)
    morph = film(tmp_path / "run", A, B)
    assert morph.frames[0].tobytes() == A.tobytes()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_frames": 17, "noise": (0.5, 0.4, 0.3)}, "17 frames need 4 noise levels"),
        ({"prompt": ("a", "b", "c")}, "3 prompts for 2 keyframes"),
        ({"prompt_at": {1.5: "x"}}, "prompt_at 1.5 lies outside the film"),
        ({"prompt_at": {0.5: " "}}, "prompt_at 0.5: an empty text"),
        ({"num_frames": 2}, "num_frames"),
        ({"frames": 9}, "unknown setting 'frames'"),
        ({"preset": "best"}, "unknown preset 'best'"),
        ({"background": "not a colour"}, "background"),
        ({"zoom": (1.5, 2.0)}, "zoom: 2 values for 1 gap between keyframes"),
        ({"pan": "0.3"}, "pan takes two numbers for a gap, as 0.5,0, not '0.3'"),
        ({"max_distance": 3.0}, "max_distance needs perceptual spacing"),
        ({"spacing": "perceptual:foo"}, "unknown feature network 'foo'"),
        ({"spacing": "perceptual:clip"}, "unknown feature network 'clip'; choose from pixels, pocket, clip:NAME"),
        ({"control_convention": "foo"}, "control_convention: input should be"),
        ({"pose": "nofile.json", "control_image": "a.png"}, "pose files and control_image do not go together"),
    ],
)
def test_impossible_settings_leave_nothing_behind(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(SegueError, match=message):
        film(tmp_path / "run", **settings)
    assert list(tmp_path.iterdir()) == []


def test_impossible_settings_do_not_overwrite_a_run(finished: Path) -> None:
    before = contents(finished)
    with pytest.raises(SegueError, match="17 frames need 4 noise levels"):
        film(finished, num_frames=17, noise=(0.5, 0.4, 0.3), overwrite=True)
    assert contents(finished) == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"captioner": "/no/such/captioner", "prompt": ()}, "/no/such/captioner"),
        ({"solver": "pipe"}, "cannot start at a noise point"),
        ({"ranker": "/no/such/clip", "candidates": 2, "rank_for": "x"}, "/no/such/clip"),
    ],
)
def test_what_cannot_be_loaded_does_not_overwrite_a_run(finished: Path, settings: dict[str, Any], message: str) -> None:
    """The run that was there comes back, whatever of the new one proves impossible."""
    before = contents(finished)
    pipe = tiny_pipe()
    pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)
    interpolator = Interpolator(pipe, name="tiny")
    with pytest.raises(SegueError, match=message):
        interpolator(A, B, output=finished, overwrite=True, **{**QUICK, **settings})
    assert contents(finished) == before


def test_a_model_that_overflows_does_not_overwrite_a_run(finished: Path) -> None:
    """What only shows when the first frame is made."""
    before = contents(finished)
    pipe = tiny_pipe()
    torch.nn.init.constant_(pipe.unet.conv_out.bias, float("inf"))
    with pytest.raises(SegueError, match="overflows in float32; its weights are damaged"):
        Interpolator(pipe, name="tiny")(A, B, output=finished, overwrite=True, **QUICK)
    assert contents(finished) == before


def fail_with(error: Exception) -> Any:
    def fail(*_arguments: Any, **_options: Any) -> None:
        raise error

    return fail


def test_a_damaged_run_comes_back_as_it_was_if_the_new_one_fails(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = Path(shutil.copytree(finished, tmp_path / "run"))
    (damaged / "journal.jsonl").write_text("nonsense\n")
    before = contents(damaged)
    monkeypatch.setattr(StableDiffusion, "denoise", fail_with(SegueError("it overflows")))
    with pytest.raises(SegueError, match=r"^it overflows$"):
        film(damaged, seed=9, overwrite=True)
    assert contents(damaged) == before


def test_what_overwrites_a_run_that_overwrites_another_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one comes back: of the second one, as of the third, there is no frame."""
    film(tmp_path / "run")
    before = contents(tmp_path / "run")
    begun_anew(tmp_path / "run")
    monkeypatch.setattr(StableDiffusion, "denoise", fail_with(SegueError("it overflows")))
    with pytest.raises(SegueError, match=r"^it overflows$"):
        film(tmp_path / "run", seed=10, overwrite=True)
    assert contents(tmp_path / "run") == before


def test_fitted_words_are_kept_where_the_first_frame_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film(tmp_path / "run")
    before = contents(tmp_path / "run")
    with monkeypatch.context() as patched:
        patched.setattr(StableDiffusion, "denoise", fail_with(SegueError("it overflows")))
        with pytest.raises(SegueError, match=r"^it overflows; the previous film stays until this one has a "):
            film(tmp_path / "run", seed=9, inversion=1, overwrite=True)
    assert any("words" in name for name in contents(tmp_path / "run", ".new/"))
    film(tmp_path / "run", overwrite=True)
    assert contents(tmp_path / "run") == before


def test_what_is_wrong_with_a_solver_shows_before_the_words_are_fitted(tmp_path: Path) -> None:
    pipe = tiny_pipe()
    pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)
    with pytest.raises(SegueError, match="cannot start at a noise point"):
        Interpolator(pipe)(A, B, output=tmp_path / "run", **{**QUICK, "solver": "pipe", "inversion": 3})
    assert list(tmp_path.iterdir()) == []


def test_a_change_of_the_model_that_matters_is_named(tmp_path: Path) -> None:
    """When a run is continued, when a frame of it is made again."""
    film(tmp_path / "run")
    before = contents(tmp_path / "run")
    pipe = tiny_pipe()
    pipe.vae.register_to_config(scaling_factor=0.13025)
    interpolator = Interpolator(pipe, name="tiny")
    text = r"the VAE scaling factor was 0\.18215, is 0\.13025"
    with pytest.raises(
        SegueError, match=rf"holds a run with other settings \(model: tiny, now tiny with other .*: {text}\); ch"
    ):
        interpolator(A, B, output=tmp_path / "run", **QUICK)
    with pytest.raises(SegueError, match=rf"made with tiny \(weights .*\), not with tiny \(weights .*\): {text}$"):
        interpolator.remake(tmp_path / "run", FrameKey.at("1/2"))
    assert contents(tmp_path / "run") == before


@pytest.mark.parametrize("own", [LCMScheduler, TCDScheduler])
def test_a_few_step_scheduler_is_not_silently_left_out(own: Any, tmp_path: Path) -> None:
    """One line where another solver takes its place; none where it is used, and then its own frames."""
    pipe = tiny_pipe()
    pipe.scheduler = own.from_config(pipe.scheduler.config)
    interpolator = Interpolator(pipe)
    told = rf"the pipe's {own.__name__} is replaced by the solver dpm\+\+; .* wrong with it; preset fast"
    with pytest.warns(SegueWarning, match=told) as heard:
        other = interpolator(A, B, output=tmp_path / "other", **{**QUICK, "num_frames": 3})
    assert [issubclass(warning.category, SegueWarning) for warning in heard].count(True) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", SegueWarning)
        film = interpolator(A, B, output=tmp_path / "own", **{**QUICK, "num_frames": 3, "solver": "pipe"})
    assert film.frames[1].tobytes() != other.frames[1].tobytes()


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({"candidates": 4}, 1),
        ({"candidates": 4, "keep_candidates": True}, 0),
        ({"candidates": 4, "choose": lambda shown: None}, 0),
        ({"candidates": 4, "rank_against": "blur"}, 0),
        ({}, 0),
    ],
)
def test_candidates_that_nothing_ranks_are_told_before_anything_is_computed(
    settings: dict[str, Any], count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_given: Any, **_named: Any) -> None:
        raise KeyboardInterrupt

    interpolator = Interpolator(tiny_pipe())
    monkeypatch.setattr(interpolator.backbone, "encode", stop)
    warnings.simplefilter("always")
    with warnings.catch_warnings(record=True) as heard, pytest.raises(KeyboardInterrupt):
        interpolator(A, B, output=tmp_path / "run", **{**QUICK, **settings})
    told = [str(warning.message) for warning in heard if issubclass(warning.category, SegueWarning)]
    line = (
        "candidates 4: nothing ranks them, so the first of each frame stays; "
        "give rank_for or rank_against, pick by hand, or keep_candidates"
    )
    assert told == [line] * count


def test_several_controlnets_are_refused_where_they_would_act(tmp_path: Path) -> None:
    pipe = tiny_pipe()
    interpolator = Interpolator(pipe, controlnet=[tiny_controlnet(pipe), tiny_controlnet(pipe)])
    with pytest.raises(SegueError, match="one ControlNet can be used, not 2; with pose off they are left out"):
        interpolator(A, B, output=tmp_path / "run", **{**QUICK, "pose": "auto"})
    assert list(tmp_path.iterdir()) == []
    plain = film(tmp_path / "plain", pose="off")
    assert contents(
        interpolator(A, B, output=tmp_path / "off", **{**QUICK, "pose": "off"}).path, "frames/"
    ) == contents(plain.path, "frames/")


def begun_anew(run: Path, **settings: Any) -> None:
    """Begin to overwrite a run, and interrupt it while its words are fitted."""

    def stop(progress: Progress) -> None:
        if progress.stage == "words" and progress.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        film(run, seed=9, inversion=3, overwrite=True, callback=stop, **settings)


def test_a_run_that_was_to_be_overwritten_can_be_had_again(tmp_path: Path) -> None:
    """With its remakes, and one that it got meanwhile: no frame of the other run was made."""
    film(tmp_path / "run", candidates=2)
    tiny_interpolator().remake(tmp_path / "run", FrameKey(0, Fraction(1, 2)))
    before = contents(tmp_path / "run", "frames/")
    begun_anew(tmp_path / "run")
    assert contents(tmp_path / "run", "frames/") == before
    tiny_interpolator().remake(tmp_path / "run", FrameKey(0, Fraction(1, 2)))
    tiny_interpolator().undo(tmp_path / "run")
    film(tmp_path / "run", candidates=2, overwrite=True)
    assert contents(tmp_path / "run", "frames/") == before


def test_an_error_of_another_command_changes_nothing_of_a_run_that_overwrites(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inversion, "KEPT_SECONDS", 0.0)
    film(tmp_path / "run")
    begun_anew(tmp_path / "run")
    before = contents(tmp_path / "run")
    assert any(name.endswith(".unfinished") for name in before)
    with pytest.raises(SegueError, match="no frame at"):
        tiny_interpolator().remake(tmp_path / "run", FrameKey(0, Fraction(1, 3)))
    with pytest.raises(SegueError, match="other settings"):
        film(tmp_path / "run", seed=8)
    assert contents(tmp_path / "run") == before

    def full(*_arguments: Any, **_options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(StableDiffusion, "predict", full)
        with pytest.raises(SegueError, match="the same command continues the film"):
            film(tmp_path / "run", seed=9, inversion=3)
    assert contents(tmp_path / "run") == before
    film(tmp_path / "run", seed=9, inversion=3)
    film(tmp_path / "fresh", seed=9, inversion=3)
    assert contents(tmp_path / "run") == contents(tmp_path / "fresh")


def test_a_run_with_settings_that_are_refused_now_is_named_and_can_be_overwritten(
    finished: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    file = tmp_path / "run" / "run.json"
    data = json.loads(file.read_text())
    data["settings"]["max_distance"] = 0.5
    file.write_text(json.dumps(data))
    with pytest.raises(SegueError, match=r"run/run\.json: max_distance needs perceptual spacing"):
        film(tmp_path / "run")
    film(tmp_path / "run", overwrite=True)
    assert contents(tmp_path / "run", "frames/") == contents(finished, "frames/")


def test_one_image_is_no_film(tmp_path: Path) -> None:
    for images in ((A,), ()):
        with pytest.raises(SegueError, match="a film needs at least two images"):
            tiny_interpolator()(*images, output=tmp_path / "run", **QUICK)
    assert list(tmp_path.iterdir()) == []


def test_nothing_global_is_left_changed(tmp_path: Path) -> None:
    pipe = tiny_pipe()
    pipe.unet.train()
    torch.manual_seed(4)
    random.seed(4)
    np.random.seed(4)
    processors = dict(pipe.unet.attn_processors)
    scheduler = dict(pipe.scheduler.config)
    flags = [(parameter.requires_grad, parameter.dtype) for parameter in pipe.unet.parameters()]
    state = torch.get_rng_state(), random.getstate(), str(np.random.get_state())
    threads, grad, dtype = torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype()
    Interpolator(pipe, name="tiny")(A, B, output=tmp_path / "run", **{**QUICK, "candidates": 2})
    assert torch.equal(torch.get_rng_state(), state[0])
    assert (random.getstate(), str(np.random.get_state())) == state[1:]
    assert (torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype()) == (threads, grad, dtype)
    assert pipe.unet.training
    assert not pipe.vae.training
    assert dict(pipe.unet.attn_processors) == processors
    assert dict(pipe.scheduler.config) == scheduler
    assert [(parameter.requires_grad, parameter.dtype) for parameter in pipe.unet.parameters()] == flags
    assert all(parameter.grad is None for parameter in pipe.unet.parameters())


def test_random_state_does_not_matter(tmp_path: Path) -> None:
    for i in range(2):
        torch.manual_seed(i)
        film(tmp_path / str(i), solver="ddim", eta=0.3)
    assert contents(tmp_path / "0", "frames/") == contents(tmp_path / "1", "frames/")


def test_the_seed_does_matter(tmp_path: Path) -> None:
    morphs = [film(tmp_path / str(seed), seed=seed) for seed in (0, 1)]
    assert morphs[0].frames[2].tobytes() != morphs[1].frames[2].tobytes()


def test_prompts_matter_where_they_are(tmp_path: Path) -> None:
    """A prompt at the middle leaves the keyframes' words alone but changes every frame between."""
    plain = film(tmp_path / "plain")
    placed = film(tmp_path / "placed", prompt_at={0.5: "a lynx"})
    a, b = latents(plain.path), latents(placed.path)
    assert all(not torch.allclose(a[key], b[key], atol=1e-4) for key in a)


def test_a_temporary_run_lives_as_long_as_its_frames(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    morph = film(None, num_frames=3)
    path, frames = morph.path, morph.frames
    del morph
    gc.collect()
    assert len([frame.size for frame in frames]) == 3
    del frames
    gc.collect()
    assert not path.exists()
    with pytest.raises(SegueError):
        film(None, num_frames=17, noise=(0.5, 0.4, 0.3))
    assert list(tmp_path.iterdir()) == []


def test_frames_are_read_when_they_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    morph = film(tmp_path / "run")
    opened: list[str] = []
    original = Image.open

    def count(file: Any, *arguments: Any, **options: Any) -> Any:
        opened.append(Path(file).name)
        return original(file, *arguments, **options)

    monkeypatch.setattr(Image, "open", count)
    assert (len(morph), len(morph.frames[1:3]), opened) == (5, 2, [])
    first = morph.frames[1]
    assert opened == ["000.2500000.png"]
    assert first is not morph.frames[1]  # nothing is kept
    iterator = iter(morph.frames)
    assert len(opened) == 2
    next(iterator)
    assert len(opened) == 3
    with pytest.raises(IndexError):
        morph.frames[5]
    assert morph.frames[-1].tobytes() == B.tobytes()


def test_the_run_file_says_what_determines_the_images(tmp_path: Path) -> None:
    film(tmp_path / "run")
    data = json.loads((tmp_path / "run" / "run.json").read_text())
    assert data["settings"]["prompt"] == ["a cat", "a dog"]
    assert data["size"] == [32, 32]
    assert data["model"]["name"] == "tiny"
    assert set(data["versions"]) == {"segue", "torch", "diffusers", "transformers"}
    assert str(tmp_path) not in json.dumps(data)
    state = json.loads((tmp_path / "run" / "state.json").read_text())["frames"]
    assert [frame["place"] for frame in state] == ["0", "1/4", "1/2", "3/4", "1"]
    assert state[1]["parents"] == ["0", "1"]  # straight from the keyframes, which are aligned
    assert [frame["level"] for frame in state] == [-1, 1, 0, 1, -1]


def test_a_run_folder_can_be_moved(tmp_path: Path) -> None:
    film(tmp_path / "run")
    before = contents(tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "copied")
    shutil.rmtree(tmp_path / "run")
    film(tmp_path / "copied")
    assert contents(tmp_path / "copied") == before
    tiny_interpolator().remake(tmp_path / "copied", FrameKey(0, Fraction(1, 4)))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(SegueError, match="cannot be written"):
        film(tmp_path / "run")
