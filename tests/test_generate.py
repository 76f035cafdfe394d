"""The driver of schemes: batches, costs, progress."""

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shapes import QUICK, latents, picture, tiny_interpolator
from torch import Tensor

from segue.engine.cost import cost_of
from segue.engine.dialogue import Candidates, Cost, Pick, Progress
from segue.engine.make import blend
from segue.errors import Notice
from segue.method.detail import Detail
from segue.method.schemes import Task
from segue.method.tree import FrameKey, UniformTree, noise_levels
from segue.models.stable_diffusion import StableDiffusion
from segue.run.folder import RunFolder
from segue.settings.kinds import SCHEMES, MorphSettings, parse_settings


def film(path: Path, scheme: str, **settings: Any) -> tuple[dict[FrameKey, Tensor], Any]:
    fitting = {"fit_model": 2, "guidance_scale": 1.0} if scheme == "diffmorpher" else {}
    values = {**QUICK, "scheme": scheme, "num_inference_steps": 5, **fitting, **settings}
    morph = tiny_interpolator()(picture(0), picture(1), output=path, **values)
    return latents(path), morph


def assert_same(a: tuple[dict[FrameKey, Tensor], Any], b: tuple[dict[FrameKey, Tensor], Any]) -> None:
    """Equal latents to 1e-4, equal frames to one step of eight bits."""
    assert a[0].keys() == b[0].keys()
    for key in a[0]:
        assert float((a[0][key] - b[0][key]).abs().max()) < 1e-4
    for mine, other in zip(a[1].frames, b[1].frames, strict=True):
        assert abs(np.asarray(mine, dtype=int) - np.asarray(other, dtype=int)).max() <= 1


PUBLISHED: dict[str, Any] = {"align": False, "detail": 0.0}  # the paper's schemes


@pytest.mark.parametrize("settings", [PUBLISHED, {"align": False}, {}])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_batch_does_not_matter(scheme: str, settings: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert_same(*(film(tmp_path / str(batch), scheme, batch_size=batch, **settings) for batch in (1, 5)))
    assert torch.equal(torch.get_rng_state(), state)


def test_the_batch_does_not_matter_to_candidates_and_eta(tmp_path: Path) -> None:
    settings = {"candidates": 3, "solver": "ddim", "eta": 0.5}
    films = [film(tmp_path / str(batch), "branching", batch_size=batch, **settings) for batch in (1, 2, 5)]
    for other in films[1:]:
        assert_same(films[0], other)
    without = film(tmp_path / "without", "branching", candidates=3, solver="ddim")
    assert not torch.allclose(
        without[0][FrameKey(0, Fraction(1, 2))], films[0][0][FrameKey(0, Fraction(1, 2))], atol=1e-3
    )


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The size of each batch that the UNet is given, as they come."""
    sizes: list[int] = []
    unet: Any = tiny_interpolator().backbone.pipe.unet  # type: ignore[attr-defined]
    forward = unet.forward

    def count(sample: Tensor, *arguments: Any, **options: Any) -> Any:
        sizes.append(len(sample))
        return forward(sample, *arguments, **options)

    monkeypatch.setattr(unet, "forward", count)
    return sizes


def test_a_level_is_one_batch_and_guidance_one_call(tmp_path: Path, sizes: list[int]) -> None:
    film(tmp_path / "run", "branching", candidates=2, batch_size=16, **PUBLISHED)
    # 5 steps of the whole schedule: 3 for the level at 0.55, 2 for that at 0.30; twice for guidance.
    assert sizes == [2 * 2] * 3 + [2 * 2 * 2] * 2


def test_keyframes_that_go_a_frames_way_are_in_its_batch(tmp_path: Path, sizes: list[int]) -> None:
    settings = {"num_frames": 9, "align": False, "batch_size": 16}
    film(tmp_path / "run", "branching", **settings)
    # Only the first and the last frame, in the third level, are in reach of the keyframe that each is blended from.
    assert sizes == [2] * 3 + [2 * 2] * 3 + [2 * 6] * 2
    # What was made of them is kept: without a picture and without its batch, that batch alone is made again.
    whole = {path.name: path.read_bytes() for path in (tmp_path / "run" / "frames").iterdir()}
    for folder in ("frames", "pictures"):
        for path in (tmp_path / "run" / folder).glob("000.[18]*"):
            path.unlink()
    film(tmp_path / "run", "branching", **settings)
    assert len(sizes) == 8
    for path in (tmp_path / "run" / "pictures").glob("000.12*"):
        path.unlink()
    newest = max((tmp_path / "run" / "latents").iterdir(), key=lambda path: path.stat().st_size)
    newest.unlink()
    film(tmp_path / "run", "branching", **settings)
    assert sizes[8:] == [2 * 6] * 2
    assert {path.name: path.read_bytes() for path in (tmp_path / "run" / "frames").iterdir()} == whole


def test_keyframes_that_frames_share_are_in_the_batch_of_the_first(tmp_path: Path, sizes: list[int]) -> None:
    film(tmp_path / "run", "branching", batch_size=16, noise=(0.3, 0.3))
    # Two draws of noise for the features of each keyframe. Then, of one noise level, the two keyframes alone go with
    # the middle frame, and serve the quarters too.
    assert sizes == [2] * 2 + [2 * 3] * 2 + [2 * 2] * 2
    sizes.clear()
    film(tmp_path / "levels", "branching", batch_size=16, noise=(0.3, 0.55))
    # Two levels of noise: the middle half of the gap has the larger, the quarters the smaller one.
    assert sizes[2:] == [2 * 3] * 3 + [2 * 4] * 2


PRICED = [(scheme, own) for scheme in SCHEMES for own in (PUBLISHED, {"align": False}, {}, {"noise": (0.3, 0.3)})]


@pytest.mark.parametrize(
    ("scheme", "settings"),
    [*PRICED, ("branching", {"candidates": 2}), ("branching", {"candidates": 2, "align": False})],
)
def test_the_price_is_what_is_paid(scheme: str, settings: dict[str, Any], tmp_path: Path) -> None:
    told: list[Progress | Notice] = []
    film(tmp_path / scheme, scheme, callback=told.append, **settings)
    seen = [progress for progress in told if isinstance(progress, Progress) and progress.stage != "lora"]
    first, last = seen[0], seen[-1]
    assert (first.stage, first.frames, first.step) == ("frames", 0, 0)
    assert (last.frames, last.total) == (3, 3)
    assert last.step == last.steps == first.steps
    assert last.level == last.levels
    steps = [progress.step for progress in seen]
    assert steps == sorted(steps)
    assert [p.frame for p in seen if p.frame] == [p.frame for p in seen if p.picture]
    with RunFolder(tmp_path / scheme) as run:
        assert all(p.picture == run.shown_image(p.frame) for p in seen if p.frame)
    assert sorted(p.frame for p in seen if p.frame) == [FrameKey(0, Fraction(i, 4)) for i in (1, 2, 3)]


def test_a_finished_run_reports_every_frame_without_work(tmp_path: Path) -> None:
    film(tmp_path / "run", "branching")
    seen: list[Progress] = []
    film(tmp_path / "run", "branching", callback=seen.append)
    assert seen[-1].step == seen[-1].steps
    assert seen[-1].frames == 3
    assert all(progress.left is None for progress in seen)


def test_the_price_by_hand() -> None:
    backbone = StableDiffusion(tiny_interpolator().backbone.pipe)  # type: ignore[attr-defined]
    zero = torch.zeros(1, 1, 1)
    detail = Detail({}, {}, lambda z: z, amount=0.0)

    def cost(name: str, candidates: int = 1) -> Cost:
        tree = UniformTree(1, 5, noise_levels(2, 0.3, 0.55))
        task = Task({FrameKey(0): zero, FrameKey(1): zero}, tree, backbone.point, lambda *_, **__: zero, blend)
        values = {"scheme": name, "candidates": candidates, "num_inference_steps": 10, "num_frames": 5}
        return cost_of(task, tree, parse_settings(MorphSettings, values), backbone, detail)

    high, low = math.ceil(10 * 551 / 1000), math.ceil(10 * 301 / 1000)
    assert cost("branching") == Cost(2, 3, 3, high + 2 * low)
    assert cost("branching", 4) == Cost(2, 3, 4 + 2 * 3, 4 * high + 2 * 3 * low)  # one less in the second level
    assert cost("interpolate") == Cost(1, 3, 3, 0)
    assert cost("interpolate-denoise") == Cost(2, 3, 3, high + 2 * low)
    assert cost("noise-diffusion") == Cost(1 + 2, 3, 2 + 3, (2 + 3) * high)  # two keyframes are inverted
    last = math.ceil(10 * 981 / 1000)
    assert cost("diffmorpher") == Cost(1 + 2, 3, 2 + 3, (2 + 3) * last)  # from its own noise level
    assert cost("denoise-interpolate-denoise") == Cost(2, 3, 4, math.ceil(10 * 250 / 1000) + 3 * low)


def test_what_a_chooser_is_suggested() -> None:
    pictures = {i: picture(i) for i in (0, 1, 4, 5)}
    key = FrameKey(0, Fraction(1, 2))
    parents = (FrameKey(0), FrameKey(1))
    assert Candidates(key, 0, parents, pictures, {0: 0.1, 1: 0.3, 4: 0.3, 5: float("nan")}, 4).best == 1
    assert Candidates(key, 0, parents, pictures, {}, 4).best == 4


def test_ranking_keeps_the_best_and_writes_the_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The brightest is the best here; the ranking sees all candidates and the choice is in the journal."""

    def brightness(pictures: Any) -> list[float]:
        return [float(np.asarray(shown).mean()) for shown in pictures]

    monkeypatch.setattr("segue.engine.interpolator.judge_of", lambda _settings: brightness)
    chosen: dict[FrameKey, dict[int, float]] = {}

    def note(candidates: Candidates) -> Pick:
        chosen[candidates.key] = dict(candidates.scores)
        assert candidates.best == max(candidates.scores, key=lambda number: (candidates.scores[number], -number))
        return Pick(candidates.best)

    values = {**QUICK, "candidates": 3}
    morph = tiny_interpolator()(picture(0), picture(1), output=tmp_path / "asked", choose=note, **values)
    alone = tiny_interpolator()(picture(0), picture(1), output=tmp_path / "alone", **values)
    assert [frame.tobytes() for frame in morph.frames] == [frame.tobytes() for frame in alone.frames]
    for key, frame in zip(morph.keys, morph.frames, strict=True):
        if key in chosen:
            assert brightness([frame]) == [max(chosen[key].values())]
    lines = (tmp_path / "alone" / "journal.jsonl").read_text().splitlines()
    assert len(lines) == 3
    assert all('"by": "rank"' in line for line in lines)
