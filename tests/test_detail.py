"""What a model loses of the keyframes is given back: along with their geometry, or beside them."""

import math
from collections.abc import Collection
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from shapes import QUICK, picture, tiny_interpolator
from torch import Tensor

from segue.engine.make import blend
from segue.method.align import Correspondence
from segue.method.bend import Bends
from segue.method.blend import slerp
from segue.method.camera import warp
from segue.method.catalogue import find_scheme
from segue.method.detail import POWER, REACH, Detail, carried_weight, enlarge, fading_weight
from segue.method.diffusion import CLEAN
from segue.method.motion import Motion
from segue.method.noise import Noise
from segue.method.schemes import Level, NamedNoise, Sample, Sight, Task, branching, interpolate
from segue.method.tree import FrameKey, UniformTree
from segue.models.backbone import Sampling
from segue.pictures.tensors import to_tensor


def alone_in(detail: Detail, level: Level, sample: Sample) -> list[Sample]:
    """The samples of one keyframe alone that a frame's picture needs."""
    return [part for part in detail.parts(level, sample) if part != sample]


def key(place: str) -> FrameKey:
    return FrameKey.at(Fraction(place))


def flat(value: float, shape: tuple[int, int] = (8, 8)) -> Tensor:
    return torch.full((3, *shape), value)


def still(confidence: float = 1.0, gaps: int = 1) -> Bends:
    """Fields of nothing."""
    return Bends({i: Correspondence(torch.zeros(2, 32, 32), torch.zeros(2, 32, 32), confidence) for i in range(gaps)})


def plain(losses: tuple[float, float], bends: Bends | None = None, amount: float = 1.0) -> Detail:
    """Plain keyframes of 0.5 of which the autoencoder loses so much."""
    keys = (FrameKey(0), FrameKey(1))
    latents = {k: torch.full((1, 1, 1), 0.5 - loss) for k, loss in zip(keys, losses, strict=True)}
    return Detail(dict.fromkeys(keys, flat(0.5)), latents, lambda z: z.expand(len(z), 3, 8, 8), amount, bends=bends)


def given_back(detail: Detail, place: str, value: float = 0.0) -> float:
    """What a plain frame becomes with no keyframe alone."""
    found = detail(key(place), flat(value), {})
    assert found.min().item() == pytest.approx(found.max().item())
    return float(found.max())


def noise_like(z: Tensor) -> NamedNoise:
    """Named noise of the shape of a latent."""

    def noise(purpose: str, key: FrameKey, candidate: int = 0, step: int = 0) -> Tensor:
        return Noise(0)(purpose, key, candidate=candidate, step=step, shape=tuple(z.shape))

    return noise


# Weights.


def left_share(s: float) -> float:
    """w_A(s) = 1 / (1 + (s / (1 - s))^p)."""
    return 1 / (1 + float((s / (1 - s)) ** POWER))


def test_the_weights_of_what_is_carried() -> None:
    assert 1 <= POWER <= 2
    for place, s in (("1/8", 0.125), ("1/4", 0.25), ("1/2", 0.5), ("3/4", 0.75), ("21/4", 0.25)):
        frame = key(place)
        ends = FrameKey(frame.pair), FrameKey(frame.pair + 1)
        assert carried_weight(frame, ends[0]) == pytest.approx(left_share(s))
        assert carried_weight(frame, ends[0]) + carried_weight(frame, ends[1]) == pytest.approx(1)
    assert carried_weight(key("1/2"), FrameKey(1)) == 0.5


def test_the_weights_of_what_fades() -> None:
    """w(u) = (1 + cos(pi u^2)) / 2 over the reach."""
    assert pytest.approx(0.2) == REACH
    assert fading_weight(key("1/64"), FrameKey(0)) == pytest.approx((1 + math.cos(math.pi * (5 / 64) ** 2)) / 2)
    assert fading_weight(key("1/10"), FrameKey(0)) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    assert fading_weight(key("19/10"), FrameKey(2)) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    assert fading_weight(key("1/5"), FrameKey(0)) == fading_weight(key("1/2"), FrameKey(0)) == 0


# The autoencoder's residual.


def test_it_fades_with_the_distance_where_nothing_corresponds() -> None:
    weight = (1 + math.cos(math.pi / 4)) / 2
    for bends in (None, still(0.0)):
        detail = plain((0.4, -0.2), bends)
        assert given_back(detail, "1/10") == pytest.approx(0.4 * weight)
        assert given_back(detail, "9/10") == pytest.approx(-0.2 * weight)
        assert given_back(detail, "1/2") == 0


def test_it_reaches_over_all_of_a_gap_where_keyframes_correspond() -> None:
    detail = plain((0.4, -0.2), still())
    assert given_back(detail, "1/2") == pytest.approx(0.1)
    assert given_back(detail, "1/4") == pytest.approx(left_share(0.25) * 0.4 - (1 - left_share(0.25)) * 0.2, rel=1e-5)


def test_confidence_mixes_both() -> None:
    detail = plain((0.4, -0.2), still(0.5))
    wave = (1 + math.cos(math.pi / 4)) / 2
    share = left_share(0.1)
    both = 0.5 * (share * 0.4 - (1 - share) * 0.2) + 0.5 * wave * 0.4
    assert given_back(detail, "1/10") == pytest.approx(both, rel=1e-5)
    assert given_back(detail, "1/2") == pytest.approx(0.5 * 0.1)


def test_a_frame_stays_in_range_and_an_amount_is_a_share() -> None:
    assert given_back(plain((0.8, 0.8), still()), "1/2", 0.5) == 1
    assert given_back(plain((-0.8, -0.8), still()), "1/2", -0.5) == -1
    assert given_back(plain((0.4, -0.2), still(), 0.25), "1/2") == pytest.approx(0.025)
    assert given_back(plain((0.4, -0.2), still(), 0.0), "1/2", 0.3) == pytest.approx(0.3)
    far = plain((0.4, -0.2), still(), 0.0)(key("1/2"), flat(1.7), {})
    assert far.max() == pytest.approx(1.7)  # without detail, an image is as it is


def test_it_moves_along_with_its_keyframe() -> None:
    """A column that is lost of the left keyframe; midway it has moved by half of the field."""
    keys, images = (FrameKey(0), FrameKey(1)), torch.zeros(3, 16, 16)
    images[:, :, 4] = 1
    bends = Bends({0: Correspondence(torch.zeros(2, 32, 32), torch.zeros(2, 32, 32))})
    bends.gaps[0].left[0] = 0.5  # of half a picture: 4 of 16 pixels
    latents = dict.fromkeys(keys, torch.zeros(1, 1, 1))
    detail = Detail(
        {keys[0]: images, keys[1]: torch.zeros(3, 16, 16)},
        latents,
        lambda z: torch.zeros(len(z), 3, 16, 16),
        bends=bends,
    )
    found = detail(key("1/2"), torch.zeros(3, 16, 16), {})
    expected = torch.zeros(16)
    expected[6] = 0.5
    assert found[0, 8].numpy() == pytest.approx(expected.numpy(), abs=2e-3)


def test_it_is_computed_once_for_a_keyframe() -> None:
    calls: list[int] = []

    def decode(z: Tensor) -> Tensor:
        calls.append(len(z))
        return torch.zeros(len(z), 3, 8, 8)

    keys = (FrameKey(0), FrameKey(1))
    detail = Detail(dict.fromkeys(keys, flat(0.5)), dict.fromkeys(keys, torch.zeros(1, 1, 1)), decode, bends=still())
    for place in ("1/4", "1/2", "3/4"):
        assert given_back(detail, place) == pytest.approx(0.5)
    assert calls == [1, 1]


# The residual of a keyframe alone.


@pytest.mark.parametrize("motion", [Motion(), Motion(zoom=(1.5,), pan=((0.2, 0.0),))])
def test_a_frame_of_nothing_but_its_keyframe_becomes_the_keyframe(motion: Motion) -> None:
    """Not aligned, beside its keyframe: but for the weight, the picture as the camera sees it."""
    backbone, given = tiny_interpolator().backbone, to_tensor([picture(0)])[0]
    keys, sampling = (FrameKey(0), FrameKey(1)), Sampling(num_inference_steps=6, guidance_scale=3.0)
    with backbone.evaluating():
        z, words = backbone.encode(given[None])[0], backbone.embed(["a cat"], [""])
    task = Task(dict.fromkeys(keys, z), UniformTree(1, 17, (0.5,) * 4), backbone.point, noise_like(z), blend)
    scheme, frame = branching(task), key("1/16")
    level = next(scheme)
    while frame not in level.parents:
        level = scheme.send(dict.fromkeys(level.parents, z))
    detail = Detail(dict.fromkeys(keys, given), dict.fromkeys(keys, z), backbone.decode, 1.0, motion)
    (own,) = alone_in(detail, level, Sample(frame))
    assert own == Sample(frame, 0, alone=keys[0])
    with backbone.evaluating():
        image, alone = (
            backbone.decode(backbone.denoise(level.blend(sample)[None], words, level.start, sampling=sampling))[0]
            for sample in (Sample(frame), own)
        )
        found = detail(frame, image, {own: alone})
        autoencoders = detail(frame, torch.zeros_like(image), {})
    matrix, weight = motion.between(frame.place, Fraction(0), 1.0), fading_weight(frame, keys[0])
    seen, inside = warp(given, matrix)
    wanted = ((1 - weight) * image + weight * seen).clamp(-1, 1)
    assert found[:, inside[0] == 1] == pytest.approx(wanted[:, inside[0] == 1], abs=1e-4)
    assert torch.allclose(found[:, inside[0] == 0], image[:, inside[0] == 0].clamp(-1, 1))
    with backbone.evaluating():
        lost = given - backbone.decode(z[None])[0]
    expected = (weight * warp(lost, matrix)[0] * inside).clamp(-1, 1)
    assert torch.allclose(autoencoders, expected, atol=1e-5)


def test_alone_keyframes_of_a_gap_are_what_is_carried() -> None:
    """r_k = x_k - up(alone), enlarged to the film's size, whatever else is known."""
    big = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0)) - 0.5
    small = [torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(i)) - 0.5 for i in (1, 2)]
    keys = (FrameKey(0), FrameKey(1))
    detail = Detail(
        dict.fromkeys(keys, big), dict.fromkeys(keys, torch.zeros(1, 1, 1)), lambda _z: big[None], bends=still()
    )
    alone = {Sample(keys[0], 0, alone=k): image for k, image in zip(keys, small, strict=True)}
    found = detail(key("1/4"), torch.zeros(3, 32, 32), alone)
    lost, share = [big - enlarge(image, (32, 32)) for image in small], left_share(0.25)
    expected = share * lost[0] + (1 - share) * lost[1]
    assert torch.allclose(found, expected.clamp(-1, 1), atol=1e-4)
    swapped = dict(zip(alone, reversed(alone.values()), strict=True))  # of another level or candidate
    other = share * lost[1] + (1 - share) * lost[0]
    assert torch.allclose(detail(key("1/4"), torch.zeros(3, 32, 32), swapped), other.clamp(-1, 1), atol=1e-4)
    assert torch.equal(enlarge(big, (32, 32)), big)
    planes = [Image.fromarray(plane).resize((32, 32), Image.Resampling.BICUBIC) for plane in small[0].numpy()]
    reference = torch.stack([torch.from_numpy(np.array(plane)) for plane in planes])
    assert torch.allclose(enlarge(small[0], (32, 32)), reference, atol=1e-5)


# Which keyframes go alone.


def levels(aligned: Collection[int], scheme: str = "branching") -> dict[str, Level]:
    """The level of each frame of a film of nine."""
    z = torch.randn(4, 4, 4, generator=torch.Generator().manual_seed(0))
    latents = {FrameKey(i): z.roll(i, 0) for i in range(3)}
    gaps = frozenset(aligned)
    tree = UniformTree(2, 9, (0.5, 0.4, 0.3), by_place=gaps)
    going = find_scheme(scheme)(
        Task(latents, tree, tiny_interpolator().backbone.point, noise_like(z), blend, Sight(aligned=gaps))
    )
    found: dict[str, Level] = {}
    level = next(going, None)
    while level is not None:
        found |= {str(k.place): level for k in level.parents}
        try:
            level = going.send(dict.fromkeys(level.parents, z))
        except StopIteration:
            level = None
    return found


def test_keyframes_within_reach_go_the_way_of_the_frames_that_are_blended_from_them() -> None:
    detail, by_place = plain((0, 0)), levels(aligned=())
    named = {place: alone_in(detail, level, Sample(key(place))) for place, level in by_place.items()}
    assert {place for place, samples in named.items() if samples} == {"1/8", "7/8", "9/8", "15/8"}
    assert named["9/8"] == [Sample(key("9/8"), 0, alone=FrameKey(1))]
    assert named["15/8"] == [Sample(key("15/8"), 0, alone=FrameKey(2))]
    # By the same noise: the blend of both parents is the blend of what each is alone.
    level = by_place["9/8"]
    left, right = level.parents[key("9/8")]
    one, other = (level.blend(Sample(key("9/8"), alone=parent))[None] for parent in (left, right))
    assert torch.allclose(level.blend(Sample(key("9/8"))), slerp(one, other, 0.5)[0])
    assert alone_in(plain((0, 0), amount=0), level, Sample(key("9/8"))) == []
    others = levels(aligned=(), scheme="interpolate-denoise")
    assert not any(alone_in(detail, level, Sample(key(place))) for place, level in others.items())


@pytest.mark.parametrize("scheme", ["branching", "interpolate-denoise"])
def test_frames_of_a_gap_share_their_alone_in(scheme: str) -> None:
    """Two for each gap, noise point and candidate, of the gap's own noise."""
    detail, by_place = plain((0, 0), still(gaps=2)), levels(aligned=(0, 1), scheme=scheme)
    for place, level in by_place.items():
        gap = key(place).pair
        samples = [Sample(FrameKey(gap), 2, alone=FrameKey(k)) for k in (gap, gap + 1)]
        assert alone_in(detail, level, Sample(key(place), 2)) == samples
        assert all(sample.is_shared for sample in samples)
    for level in by_place.values():
        places = [place for place in by_place if by_place[place] is level]
        named = {
            sample for place in places for n in (0, 1) for sample in alone_in(detail, level, Sample(key(place), n))
        }
        assert len(named) == 2 * 2 * len({key(place).pair for place in places})
    half = plain((0, 0), still(0.5, gaps=2))
    also_own = alone_in(half, by_place["1/8"], Sample(key("1/8")))
    shared = [Sample(FrameKey(0), 0, alone=FrameKey(k)) for k in (0, 1)]
    own = [Sample(key("1/8"), 0, alone=FrameKey(0))]
    assert also_own == shared + (own if scheme == "branching" else [])


def test_a_gap_that_does_not_correspond_goes_its_own_way() -> None:
    """The first of two gaps has no field: its frames have noise and parents as without alignment."""
    bends = Bends({**still(0.0).gaps, 1: still().gaps[0]})
    assert bends.aligned == {1}
    detail, by_place, without = plain((0, 0), bends), levels(aligned=bends.aligned), levels(aligned=())
    for place in ("1/8", "1/4", "3/8", "1/2", "7/8"):
        frame = key(place)
        assert by_place[place].parents[frame] == without[place].parents[frame]
        assert torch.equal(by_place[place].blend(Sample(frame)), without[place].blend(Sample(frame)))
        assert alone_in(detail, by_place[place], Sample(frame)) == alone_in(
            plain((0, 0)), without[place], Sample(frame)
        )
    for place in ("9/8", "5/4", "3/2"):
        frame = key(place)
        assert by_place[place].parents[frame] == (FrameKey(1), FrameKey(2))
        shared = [Sample(FrameKey(1), 0, alone=FrameKey(k)) for k in (1, 2)]
        assert alone_in(detail, by_place[place], Sample(frame)) == shared


@pytest.mark.parametrize("scheme", ["interpolate", "denoise-interpolate-denoise"])
def test_other_schemes_get_what_the_autoencoder_loses(scheme: str) -> None:
    detail, by_place = plain((0, 0), still(gaps=2)), levels(aligned=(0, 1), scheme=scheme)
    assert len(by_place) == 14
    assert not any(alone_in(detail, level, Sample(key(place))) for place, level in by_place.items())


def test_a_keyframe_alone_is_its_latent_under_the_noise_of_its_gap() -> None:
    z = torch.randn(4, 4, 4, generator=torch.Generator().manual_seed(0))
    for scheme in ("branching", "interpolate-denoise"):
        level = levels(aligned=(0, 1), scheme=scheme)["5/4"]
        assert level.start != CLEAN
        eps = []
        for keyframe in (1, 2):
            noisy = level.blend(Sample(FrameKey(1), 0, alone=FrameKey(keyframe)))
            eps.append((noisy - level.start.alpha * z.roll(keyframe, 0)) / level.start.sigma)
        assert 0.5 < eps[0].std() < 1.5
        assert torch.allclose(eps[0], eps[1], atol=1e-4)  # the same for both


def test_the_interpolated_scheme_gives_both_ends_their_detail() -> None:
    """Of a film that is only decoded, aligned with fields of nothing: D(z_s) + w_A r_A + w_B r_B."""
    interpolator, pictures = tiny_interpolator().backbone, [to_tensor([picture(i)])[0] for i in (0, 1)]
    keys = (FrameKey(0), FrameKey(1))
    with interpolator.evaluating():
        latents = {k: interpolator.encode(image[None])[0] for k, image in zip(keys, pictures, strict=True)}
        level = next(
            interpolate(
                Task(latents, UniformTree(1, 5, (0.5,) * 2), interpolator.point, noise_like(latents[keys[0]]), blend)
            )
        )
        decode = partial(interpolator.decode, screened=False)
        detail = Detail(dict(zip(keys, pictures, strict=True)), latents, decode, bends=still())
        image = decode(level.blend(Sample(key("1/4")))[None])[0]
        found = detail(key("1/4"), image, {})
        lost = [given - decode(latents[k][None])[0] for k, given in zip(keys, pictures, strict=True)]
    expected = (image + left_share(0.25) * lost[0] + left_share(0.75) * lost[1]).clamp(-1, 1)
    assert torch.allclose(found, expected, atol=1e-4)


def test_the_frames_beside_a_keyframe_come_near_it() -> None:
    jumps = {}
    for detail in (0.0, 1.0):
        film = tiny_interpolator()(picture(0), picture(1), **{**QUICK, "num_frames": 17}, align=False, detail=detail)
        first, second = (np.asarray(film.frames[i], float) for i in (0, 1))
        jumps[detail] = np.abs(first - second).mean()
    assert jumps[1.0] < 0.5 * jumps[0.0]
