"""What a model loses of the keyframes fades out beside them."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from shapes import QUICK, interpolator, picture

from segue.backbone import CLEAN, Sampling
from segue.fade import Fade, Losses
from segue.motion import Motion, warp
from segue.noise import Noise
from segue.pictures import to_tensor
from segue.schemes import Level, Sample, Task, branching
from segue.tree import FrameKey, UniformTree

NOWHERE = Level(0, {}, CLEAN, CLEAN, lambda _sample: torch.zeros(1))


def faded(losses: dict[FrameKey, float], reach: float, key: FrameKey, value: float = 0.0) -> float:
    """A plain frame with plain losses."""
    fade = Fade(reach, lambda _level, _sample, keyframe: torch.full((3, 2, 2), losses[keyframe]))
    found = fade(NOWHERE, Sample(key), torch.full((3, 2, 2), value))
    assert found.shape == (3, 2, 2)
    assert found.min() == found.max()
    return float(found.max())


def test_a_loss_fades_with_the_distance_from_its_keyframe() -> None:
    losses = {FrameKey(0): 0.4, FrameKey(1): -0.2}
    at = {p: faded(losses, 0.25, FrameKey(0, Fraction(p))) for p in ("1/64", "1/8", "1/4", "1/2", "15/16")}
    assert at["1/64"] == pytest.approx(0.4 * (1 + math.cos(math.pi / 256)) / 2)
    assert at["1/8"] == pytest.approx(0.4 * (1 + math.cos(math.pi / 4)) / 2)
    assert at["1/4"] == at["1/2"] == 0
    assert at["15/16"] == pytest.approx(-0.2 * (1 + math.cos(math.pi / 16)) / 2)


def test_a_frame_in_the_reach_of_both_gets_both_and_stays_in_range() -> None:
    both, middle = {FrameKey(i): 0.8 for i in (2, 3)}, FrameKey(2, Fraction(1, 2))
    weight = (1 + math.cos(math.pi / 4)) / 2
    assert faded(both, 1.0, middle, -0.9) == pytest.approx(-0.9 + 2 * weight * 0.8)
    assert faded(both, 1.0, middle, 0.5) == 1


def test_no_reach_leaves_the_image() -> None:
    assert faded({}, 0.0, FrameKey(0, Fraction(1, 4)), 0.3) == pytest.approx(0.3)


@pytest.mark.parametrize("motion", [Motion(), Motion(zoom=(1.5,), pan=((0.2, 0.0),))])
def test_a_frame_of_nothing_but_its_keyframe_becomes_the_keyframe(motion: Motion) -> None:
    backbone, given = interpolator().backbone, to_tensor([picture(0)])[0]
    keys, sampling = (FrameKey(0), FrameKey(1)), Sampling(num_inference_steps=6, guidance_scale=3.0)
    with backbone.evaluating():
        z, words = backbone.encode(given[None])[0], backbone.embed(["a cat"], [""])
    noise = lambda purpose, key, candidate=0, step=0: Noise(0)(  # noqa: E731
        purpose, key, candidate=candidate, step=step, shape=tuple(z.shape)
    )
    level = next(branching(Task(dict.fromkeys(keys, z), UniformTree(1, 3, (0.5,)), backbone.point, noise)))
    sample = Sample(FrameKey(0, Fraction(1, 2)))
    losses = Losses(
        backbone, sampling, dict.fromkeys(keys, given), dict.fromkeys(keys, z), lambda _sample: words, noise, motion
    )
    with backbone.evaluating():
        made = backbone.denoise(level.blend(sample)[None], words, level.start, sampling=sampling)
        image = backbone.decode(made)[0]
        loss = losses(level, sample, FrameKey(0))
        autoencoders = losses(NOWHERE, sample, FrameKey(0))  # not blended from it
    seen, inside = warp(given, motion.between(sample.key.place, Fraction(0), 1.0))
    assert (image + loss)[:, inside[0] == 1] == pytest.approx(seen[:, inside[0] == 1], abs=1e-4)
    assert torch.all(loss[:, inside[0] == 0] == 0)
    lost = given - backbone.decode(z[None])[0]
    assert torch.allclose(
        autoencoders, warp(lost, motion.between(sample.key.place, Fraction(0), 1.0))[0] * inside, atol=1e-5
    )


def test_the_frames_beside_a_keyframe_come_near_it() -> None:
    jumps = {}
    for fade in (0.0, 0.5):
        film = interpolator()(picture(0), picture(1), **{**QUICK, "num_frames": 9}, fade=fade)
        first, second = (np.asarray(film.frames[i], float) for i in (0, 1))
        jumps[fade] = np.abs(first - second).mean()
    assert jumps[0.5] < 0.5 * jumps[0.0]
