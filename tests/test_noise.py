"""Every noise has a name, and the name is all that it depends on."""

import itertools
import random
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from segue.method.noise import Noise
from segue.method.tree import FrameKey, UniformTree, noise_levels

SHAPE = (4, 8, 8)
KEY = FrameKey(1, Fraction(1, 4))


def film(num_frames: int) -> dict[FrameKey, Tensor]:
    depth = UniformTree.depth(num_frames)
    tree = UniformTree(2, num_frames, noise_levels(depth, 0.3, 0.55))
    return {m.key: Noise(3)("midpoint", m.key, shape=SHAPE) for m in tree.midpoints()}


def test_a_name_always_means_the_same_noise() -> None:
    names = [(purpose, FrameKey(pair, Fraction(i, 8)), candidate, step)
             for purpose in ("midpoint", "eta") for pair in (0, 1) for i in (1, 5) for candidate in (0, 1)
             for step in (0, 3)]  # fmt: skip
    drawn = {name: Noise(7)(*name[:2], candidate=name[2], step=name[3], shape=SHAPE) for name in names}
    random.Random(0).shuffle(names)
    for name in names:
        torch.manual_seed(random.Random(str(name)).randrange(1000))
        assert torch.equal(drawn[name], Noise(7)(*name[:2], candidate=name[2], step=name[3], shape=SHAPE))


def test_each_part_of_the_name_makes_another_noise() -> None:
    base = Noise(7)
    drawn = [
        base("midpoint", KEY, shape=SHAPE),
        Noise(8)("midpoint", KEY, shape=SHAPE),
        base("eta", KEY, shape=SHAPE),
        base("midpoint", FrameKey(0, KEY.position), shape=SHAPE),
        base("midpoint", FrameKey(1, Fraction(3, 4)), shape=SHAPE),
        base("midpoint", KEY, candidate=1, shape=SHAPE),
        base("midpoint", KEY, step=1, shape=SHAPE),
    ]
    for a, b in itertools.combinations(drawn, 2):
        assert abs(float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])) < 0.3


def test_names_do_not_run_into_each_other() -> None:
    """1/11 and 11/1, or candidate 1 of step 11 and candidate 11 of step 1, are different names."""
    keys = [FrameKey(1, Fraction(1, 11)), FrameKey(11, Fraction(1, 1 + 1)), FrameKey(1, Fraction(1, 111))]
    names = [(key, candidate, step) for key in keys for candidate, step in ((1, 11), (11, 1), (111, 0), (0, 111))]
    drawn = [Noise(1)("x", key, candidate=c, step=s, shape=(8,)) for key, c, s in names]
    assert len({tuple(noise.tolist()) for noise in drawn}) == len(names)


def test_the_noises_of_a_short_film_are_among_those_of_a_longer_one() -> None:
    short, long = film(9), film(17)
    assert len(short) == 14
    for key, noise in short.items():
        assert torch.equal(noise, long[key])


def test_global_random_state_is_left_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    Noise(0)("midpoint", KEY, shape=SHAPE)
    assert torch.equal(torch.get_rng_state(), before)


def test_it_is_standard_normal_float32_on_the_cpu() -> None:
    noise = Noise(0)("midpoint", KEY, shape=(4, 128, 128))
    assert (noise.dtype, noise.device.type, tuple(noise.shape)) == (torch.float32, "cpu", (4, 128, 128))
    assert float(noise.mean()) == pytest.approx(0, abs=0.02)
    assert float(noise.std()) == pytest.approx(1, abs=0.02)


def test_torch_defaults_do_not_matter() -> None:
    expected = Noise(0)("midpoint", KEY, shape=SHAPE)
    torch.set_default_dtype(torch.float64)
    try:
        drawn = Noise(0)("midpoint", KEY, shape=SHAPE)
    finally:
        torch.set_default_dtype(torch.float32)
    assert drawn.dtype == torch.float32
    assert torch.equal(drawn, expected)
    with torch.device("meta"):
        drawn = Noise(0)("midpoint", KEY, shape=SHAPE)
    assert drawn.device.type == "cpu"
    assert torch.equal(drawn, expected)


def test_the_numbers_are_fixed_for_all_time() -> None:
    """A changed naming would silently make other films from the same seed."""
    noise = Noise(0)("midpoint", FrameKey(0, Fraction(1, 2)), shape=(4,))
    assert noise.tolist() == pytest.approx([0.46162242, 0.37438828, -1.01063931, 0.26298758], abs=1e-6)


def test_generators_of_one_name_give_the_same_numbers() -> None:
    a, b = (Noise(2).generator("inversion", KEY, step=4) for _ in range(2))
    assert torch.equal(torch.randint(1000, (9,), generator=a), torch.randint(1000, (9,), generator=b))
    other = torch.randint(1000, (9,), generator=Noise(2).generator("inversion", KEY, step=5))
    assert not torch.equal(torch.randint(1000, (9,), generator=Noise(2).generator("inversion", KEY, step=4)), other)
