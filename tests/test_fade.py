"""What a model loses of the keyframes fades out beside them."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from shapes import QUICK, interpolator, picture

from segue.backbone import Sampling
from segue.blend import slerp
from segue.fade import Fade, Losses
from segue.motion import Motion, warp
from segue.noise import Noise
from segue.pictures import to_tensor
from segue.schemes import NamedNoise, Sample, Task, branching, scheme_named
from segue.tree import FrameKey, UniformTree


def faded(losses: dict[FrameKey, float], reach: float, key: FrameKey, value: float = 0.0) -> float:
    """A plain frame with plain losses."""
    fade = Fade(reach, lambda _key, keyframe, _alone: torch.full((3, 2, 2), losses[keyframe]))
    found = fade(key, torch.full((3, 2, 2), value), {})
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
    level = next(branching(Task(dict.fromkeys(keys, z), UniformTree(1, 3, (0.5,)), backbone.point, noise_like(z))))
    key = FrameKey(0, Fraction(1, 2))
    losses = Losses(dict.fromkeys(keys, given), dict.fromkeys(keys, z), backbone.decode, motion)
    with backbone.evaluating():
        image, alone = (
            backbone.decode(backbone.denoise(level.blend(sample)[None], words, level.start, sampling=sampling))[0]
            for sample in (Sample(key), Sample(key, alone=keys[0]))
        )
        loss, autoencoders = losses(key, keys[0], alone), losses(key, keys[0])
    seen, inside = warp(given, motion.between(key.place, Fraction(0), 1.0))
    assert (image + loss)[:, inside[0] == 1] == pytest.approx(seen[:, inside[0] == 1], abs=1e-4)
    assert torch.all(loss[:, inside[0] == 0] == 0)
    lost = given - backbone.decode(z[None])[0]
    assert torch.allclose(autoencoders, warp(lost, motion.between(key.place, Fraction(0), 1.0))[0] * inside, atol=1e-5)


def noise_like(z: torch.Tensor) -> NamedNoise:
    """Named noise of the shape of a latent."""

    def noise(purpose: str, key: FrameKey, candidate: int = 0, step: int = 0) -> torch.Tensor:
        return Noise(0)(purpose, key, candidate=candidate, step=step, shape=tuple(z.shape))

    return noise


def test_keyframes_within_reach_go_the_way_of_the_frames_that_are_blended_from_them() -> None:
    fade, z = Fade(0.6, lambda *_: torch.zeros(1)), torch.randn(4, 4, 4, generator=torch.Generator().manual_seed(0))
    latents = {FrameKey(0): z, FrameKey(1): z.flip(0)}
    point = interpolator().backbone.point
    scheme = branching(Task(latents, UniformTree(1, 5, (0.5, 0.3)), point, noise_like(z)))
    first = next(scheme)
    middle = FrameKey(0, Fraction(1, 2))
    assert fade.alone(first, middle) == [FrameKey(0), FrameKey(1)]
    # By the same noise: the blend of both is the blend of what each is alone.
    left, right = (first.blend(Sample(middle, alone=keyframe)) for keyframe in latents)
    assert torch.allclose(first.blend(Sample(middle)), slerp(left[None], right[None], 0.5)[0])
    second = scheme.send({middle: z})
    quarters = {key.position: fade.alone(second, key) for key in second.parents}
    assert quarters == {Fraction(1, 4): [FrameKey(0)], Fraction(3, 4): [FrameKey(1)]}
    assert Fade(0.2, fade.loss).alone(second, FrameKey(0, Fraction(1, 4))) == []
    others = next(
        scheme_named("interpolate-denoise")(Task(latents, UniformTree(1, 5, (0.5, 0.3)), point, noise_like(z)))
    )
    assert not any(fade.alone(others, key) for key in others.parents)


def test_the_frames_beside_a_keyframe_come_near_it() -> None:
    jumps = {}
    for fade in (0.0, 0.5):
        film = interpolator()(picture(0), picture(1), **{**QUICK, "num_frames": 9}, fade=fade)
        first, second = (np.asarray(film.frames[i], float) for i in (0, 1))
        jumps[fade] = np.abs(first - second).mean()
    assert jumps[0.5] < 0.5 * jumps[0.0]
