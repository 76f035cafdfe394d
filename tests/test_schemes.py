"""The five schemes against a plain transcription of their equations, one frame at a time."""

import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from shapes import QUICK, latents, picture, pipe, tiny_interpolator
from torch import Tensor

from segue.engine.make import blend
from segue.errors import SegueError
from segue.method.catalogue import find_scheme
from segue.method.diffusion import NoisePoint
from segue.method.noise import Noise
from segue.method.schemes import Sample, Task, bias_weight
from segue.method.tree import FrameKey, GrownTree, Midpoint, UniformTree, noise_levels
from segue.settings.kinds import SCHEMES

Prediction = Literal["epsilon", "v_prediction"]
SHAPE = (4, 4, 4)
SEED, STEPS, GUIDANCE = 11, 6, 3.0
PROMPTS = ("a cat", "a dog", "an owl")
COMMON: dict[str, Any] = {
    **QUICK,
    "prompt": PROMPTS,
    "seed": SEED,
    "num_inference_steps": STEPS,
    "guidance_scale": GUIDANCE,
    "solver": "ddim",
    "align": False,
    "detail": 0.0,
}


def slerp(a: Tensor, b: Tensor, w: float) -> Tensor:
    """The formula in float64 on two single tensors."""
    u, v = a.double().flatten(), b.double().flatten()
    cosine = float(u @ v / (u.norm() * v.norm()))
    if cosine > 1 - 1e-13:
        return (1 - w) * a.double() + w * b.double()
    omega = math.acos(cosine)
    return (math.sin((1 - w) * omega) * a.double() + math.sin(w * omega) * b.double()) / math.sin(omega)


class Plain:
    """The checkpoint without segue: the networks called for one frame at a time, the formulas written out."""

    def __init__(self, prediction: Prediction) -> None:
        self.pipe, self.prediction = pipe(prediction), prediction
        self.alphas = self.pipe.scheduler.alphas_cumprod.double().sqrt()

    def point(self, t: int) -> tuple[float, float]:
        alpha = float(self.alphas[t]) if t >= 0 else 1.0
        return alpha, math.sqrt(1 - alpha**2)

    def text(self, prompt: str) -> Tensor:
        tokens = self.pipe.tokenizer(prompt, padding="max_length", max_length=77, return_tensors="pt")
        embedding: Tensor = self.pipe.text_encoder(tokens.input_ids)[0]
        return embedding

    def encode(self, number: int) -> Tensor:
        pixels = torch.from_numpy(np.array(picture(number))).permute(2, 0, 1).float() / 127.5 - 1
        mean: Tensor = self.pipe.vae.encode(pixels[None]).latent_dist.mean[0]
        return mean.double() * float(self.pipe.vae.config.scaling_factor)

    def decode(self, z: Tensor) -> np.ndarray[Any, Any]:
        image: Tensor = self.pipe.vae.decode(z.float()[None] / self.pipe.vae.config.scaling_factor).sample[0]
        pixels: np.ndarray[Any, Any] = ((image.clamp(-1, 1) + 1) * 127.5).round().permute(1, 2, 0).numpy()
        return pixels

    def network(self, z: Tensor, t: int, c: Tensor) -> Tensor:
        """The output with guidance, the two branches by themselves."""
        outputs: list[Tensor] = [
            self.pipe.unet(z.float()[None], t, encoder_hidden_states=text).sample[0].double()
            for text in (c.float(), self.text(""))
        ]
        with_text, without = outputs
        return without + GUIDANCE * (with_text - without)

    def invert(self, z: Tensor, t: int, c: Tensor) -> Tensor:
        """DDIM backwards from clean to t over the steps of ``denoise``, without guidance, each told where it leads."""
        count = max(1, math.ceil(STEPS * (t + 1) / 1000))
        grid = [t - (t + 1) * i // count for i in range(count + 1)][::-1]
        for now, after in zip(grid, grid[1:], strict=False):
            (alpha, sigma), (alpha_after, sigma_after) = self.point(now), self.point(after)
            output = self.pipe.unet(z.float()[None], after, encoder_hidden_states=c.float()).sample[0].double()
            eps = output if self.prediction == "epsilon" else alpha_after * output + sigma_after * z
            z = alpha_after * (z - sigma * eps) / alpha + sigma_after * eps
        return z

    def diffuse(self, z: Tensor, start: int, t: int, eps: Tensor) -> Tensor:
        """z_t' = a z_t + b eps."""
        (alpha, sigma), (alpha_to, sigma_to) = self.point(start), self.point(t)
        a = alpha_to / alpha
        return a * z + math.sqrt(max(sigma_to**2 - (a * sigma) ** 2, 0)) * eps.double()

    def denoise(self, z: Tensor, t: int, stop: int, c: Tensor) -> Tensor:
        """DDIM with eta 0 over equal steps."""
        count = max(1, math.ceil(STEPS * (t - stop) / 1000))
        grid = [t - (t - stop) * i // count for i in range(count + 1)]
        for now, after in zip(grid, grid[1:], strict=False):
            (alpha, sigma), (alpha_after, sigma_after) = self.point(now), self.point(after)
            output = self.network(z, now, c)
            eps = output if self.prediction == "epsilon" else alpha * output + sigma * z
            z = alpha_after * (z - sigma * eps) / alpha + sigma_after * eps
        return z


class Film:
    """One gap of the film between keyframes ``pair`` and ``pair + 1``, in N steps."""

    def __init__(self, plain: Plain, pair: int, steps: int) -> None:
        self.plain, self.pair, self.steps = plain, pair, steps
        self.ends = {0: plain.encode(pair), steps: plain.encode(pair + 1)}
        self.texts = plain.text(PROMPTS[pair]), plain.text(PROMPTS[pair + 1])

    def noise(self, purpose: str, i: int = 0, step: int = 0) -> Tensor:
        return Noise(SEED)(purpose, FrameKey(self.pair, Fraction(i, self.steps)), step=step, shape=SHAPE)

    def words(self, i: int) -> Tensor:
        return slerp(*self.texts, i / self.steps)

    def stack(self, end: int, ladder: list[int], rung: int, *, shared: bool) -> Tensor:
        """A keyframe at the rung-th noise point of the ladder t_1 < ... < t_K."""
        z = self.ends[end]
        for k, (start, t) in enumerate(zip([-1, *ladder], ladder[:rung], strict=False)):
            purpose = "stack" if shared else "stack-left" if end == 0 else "stack-right"
            z = self.plain.diffuse(z, start, t, self.noise(purpose, step=k))
        return z


def plain_branching(film: Film, low: float, high: float) -> dict[int, Tensor]:
    """Each frame from its two parents, halving the gap."""
    made, width, depth = dict(film.ends), film.steps, round(math.log2(film.steps))
    for level in range(depth):
        t = round(1000 * (high - (high - low) * level / (depth - 1)))
        for left in range(0, film.steps, width):
            i = left + width // 2
            eps = film.noise("midpoint", i)
            a, b = (film.plain.diffuse(made[parent], -1, t, eps) for parent in (left, left + width))
            made[i] = film.plain.denoise(slerp(a, b, 0.5), t, -1, film.words(i))
        width //= 2
    return made


def plain_interpolate(film: Film, low: float, high: float) -> dict[int, Tensor]:
    return {i: slerp(film.ends[0], film.ends[film.steps], i / film.steps) for i in range(1, film.steps)}


def plain_interpolate_denoise(film: Film, low: float, high: float) -> dict[int, Tensor]:
    """Frame i at the noise point of its distance to the nearer end."""
    count = film.steps // 2
    ladder = [round(1000 * (low + (high - low) * k / (count - 1))) for k in range(count)]
    made = {}
    for i in range(1, film.steps):
        rung = min(i, film.steps - i)
        a, b = (film.stack(end, ladder, rung, shared=True) for end in (0, film.steps))
        made[i] = film.plain.denoise(slerp(a, b, i / film.steps), ladder[rung - 1], -1, film.words(i))
    return made


def plain_legs(
    film: Film, low: float, high: float, *, shared: bool = True, retroactive: bool = False
) -> dict[int, Tensor]:
    """denoise-interpolate-denoise: halve the gap at each noise point, then denoise all frames to the next."""
    count = round(math.log2(film.steps))
    ladder = [round(1000 * (low + (high - low) * k / (count - 1))) for k in range(count)]
    made: dict[int, Tensor] = {}
    for level in range(count):
        rung, width = count - level, film.steps >> level
        ends = {end: film.stack(end, ladder, rung, shared=shared) for end in (0, film.steps)}
        there = {**made, **ends}
        fresh = {
            left + width // 2: slerp(there[left], there[left + width], 0.5) for left in range(0, film.steps, width)
        }
        if retroactive and level in (1, 2):
            both = {**ends, **fresh}
            fresh |= {i: slerp(both[i - width // 2], both[i + width // 2], 0.5) for i in made}
        made |= fresh
        stop = ladder[rung - 2] if rung > 1 else -1
        made = {i: film.plain.denoise(z, ladder[rung - 1], stop, film.words(i)) for i, z in made.items()}
    return made


def plain_unshared(film: Film, low: float, high: float) -> dict[int, Tensor]:
    return plain_legs(film, low, high, shared=False)


def plain_retroactive(film: Film, low: float, high: float) -> dict[int, Tensor]:
    return plain_legs(film, low, high, retroactive=True)


def plain_noise_diffusion(film: Film, low: float, high: float) -> dict[int, Tensor]:
    """NoiseDiffusion: both keyframes inverted to the upper end of the range, mixed and corrected."""
    t = round(1000 * high)
    alpha_t = film.plain.point(t)[0]
    inverted = [film.plain.invert(z, t, c).clip(-2, 2) for z, c in zip(film.ends.values(), film.texts, strict=True)]
    made = {}
    for i in range(1, film.steps):
        a, b = math.cos(math.radians(90 * i / film.steps)), math.sin(math.radians(90 * i / film.steps))
        mu, nu = 1.2 * a / (a + b), 1.2 * b / (a + b)
        x = a * inverted[0] + b * inverted[1]
        x = x + (mu - a) * alpha_t * film.ends[0] + (nu - b) * alpha_t * film.ends[film.steps]
        made[i] = film.plain.denoise(x.clip(-2, 2), t, -1, film.words(i))
    return made


TRANSCRIPTIONS: dict[str, Callable[[Film, float, float], dict[int, Tensor]]] = {
    "branching": plain_branching,
    "interpolate": plain_interpolate,
    "interpolate-denoise": plain_interpolate_denoise,
    "denoise-interpolate-denoise": plain_legs,
    "denoise-interpolate-denoise-unshared": plain_unshared,
    "retroactive": plain_retroactive,
    "noise-diffusion": plain_noise_diffusion,
}


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", TRANSCRIPTIONS)
@torch.no_grad()
def test_a_scheme_is_its_equations(name: str, prediction: Prediction, tmp_path: Path) -> None:
    num_frames = 9 if name == "retroactive" else 5
    scheme = "denoise-interpolate-denoise" if name == "retroactive" else name
    settings = {**COMMON, "num_frames": num_frames, "scheme": scheme, "retroactive": name == "retroactive"}
    count = 2 if name == "retroactive" else 3
    morph = tiny_interpolator(prediction)(
        *(picture(i) for i in range(count)), output=tmp_path / "run", **{**settings, "prompt": PROMPTS[:count]}
    )
    found = latents(tmp_path / "run")
    for pair in range(count - 1):
        film = Film(Plain(prediction), pair, num_frames - 1)
        expected = TRANSCRIPTIONS[name](film, 0.30, 0.55)
        for i in range(1, num_frames - 1):
            key = FrameKey(pair, Fraction(i, num_frames - 1))
            error = float((found[key] - expected[i]).abs().max())
            assert error < 1e-4, f"frame {key} differs by {error}"
            shown = np.asarray(morph.frames[pair * (num_frames - 1) + i], dtype=float)
            assert abs(shown - film.plain.decode(expected[i])).max() <= 1
    assert len(found) == (count - 1) * (num_frames - 2)


@torch.no_grad()
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_one_level_of_branching_is_diffusers_ddim_for_one_frame_at_a_time(
    prediction: Prediction, tmp_path: Path
) -> None:
    """At t = 499 the grid of a tenth of the schedule, 499, 399, ..., 99, -1, is one that DDIMScheduler can walk."""
    run = tmp_path / "run"
    one_level = {"branching": 4, "noise": (0.499, 0.499), "num_inference_steps": 10, "prompt": PROMPTS[:2]}
    tiny_interpolator(prediction)(picture(0), picture(1), output=run, **{**COMMON, **one_level})
    found = latents(run)
    plain = Plain(prediction)
    film = Film(plain, 0, 4)
    for i in (1, 2, 3):
        scheduler = DDIMScheduler.from_config(plain.pipe.scheduler.config, set_alpha_to_one=True)
        scheduler.set_timesteps(10)
        eps = film.noise("midpoint", i)[None]
        a, b = (scheduler.add_noise(z.float()[None], eps, torch.tensor([499])) for z in film.ends.values())
        z = slerp(a, b, i / 4).float()
        text = torch.cat([plain.text(""), film.words(i).float()])
        for t in (499, 399, 299, 199, 99):
            without, with_text = plain.pipe.unet(torch.cat([z, z]), t, encoder_hidden_states=text).sample.chunk(2)
            z = scheduler.step(without + GUIDANCE * (with_text - without), t, z).prev_sample
        assert torch.allclose(found[FrameKey(0, Fraction(i, 4))], z[0], rtol=0, atol=1e-5)


def test_the_noise_is_shared_by_the_parents() -> None:
    """With equal parents the blend is the parent, diffused: no noise is averaged away."""
    z = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    task = toy(3, {FrameKey(0): z, FrameKey(1): z})
    level = next(find_scheme("branching")(task))
    eps = task.noise("midpoint", FrameKey(0, Fraction(1, 2)))
    expected = level.start.alpha * z + level.start.sigma * eps
    assert torch.allclose(level.blend(Sample(FrameKey(0, Fraction(1, 2)))), expected, atol=1e-6)


def test_candidates_have_noise_of_their_own() -> None:
    level = next(find_scheme("branching")(toy(3)))
    key = FrameKey(0, Fraction(1, 2))
    assert not torch.allclose(level.blend(Sample(key, 0)), level.blend(Sample(key, 1)), atol=0.1)


def test_the_chosen_latent_is_the_next_levels_parent() -> None:
    key = FrameKey(0, Fraction(1, 2))
    blends = []
    for chosen in (torch.ones(SHAPE), -torch.ones(SHAPE)):
        scheme = find_scheme("branching")(toy(5))
        assert list(next(scheme).parents) == [key]
        second = scheme.send({key: chosen})
        assert second.parents == {
            FrameKey(0, Fraction(1, 4)): (FrameKey(0), key),
            FrameKey(0, Fraction(3, 4)): (key, FrameKey(1)),
        }
        blends.append(second.blend(Sample(FrameKey(0, Fraction(1, 4)))))
    assert not torch.allclose(blends[0], blends[1], atol=0.1)


def test_midpoints_of_other_noise_make_a_level_of_their_own() -> None:
    """A frame that is made again with its own noise level is denoised apart, from the same parents."""
    own = FrameKey(0, Fraction(3, 4))
    scheme = find_scheme("branching")(toy(5, noise_of=lambda m: 0.7 if m.key == own else m.noise))
    middle = next(scheme)
    first = scheme.send({key: torch.ones(SHAPE) for key in middle.parents})
    second = scheme.send({key: torch.ones(SHAPE) for key in first.parents})
    assert (list(first.parents), first.start.timestep) == ([own], 700)
    assert (list(second.parents), second.start.timestep) == ([FrameKey(0, Fraction(1, 4))], 300)


@pytest.mark.parametrize(
    ("left", "right", "weight"), [(0, Fraction(1, 2), 0.4), (Fraction(1, 2), 1, 0.6), (0, 1, 0.5), (1 / 4, 3 / 4, 0.5)]
)
def test_bias_of_a_tenth_makes_a_half_to_four_tenths(left: Any, right: Any, weight: float) -> None:
    """As released: towards the keyframe, where one parent is one."""
    keys = [FrameKey.at(Fraction(place)) for place in (left, right)]
    middle = FrameKey.at((keys[0].place + keys[1].place) / 2)
    midpoint = Midpoint(middle, keys[0], keys[1], Fraction(1, 2), 0, 0.5)
    assert bias_weight(midpoint, 0.1) == pytest.approx(weight)
    assert bias_weight(midpoint, 0.0) == 0.5


def test_bias_keeps_the_order_of_frames_next_to_one_keyframe() -> None:
    """A level that splits by four: three midpoints have the keyframe as a parent, none of them reaches it."""
    ends = FrameKey(0), FrameKey(0, Fraction(1, 4))
    weights = [Fraction(i, 4) for i in (1, 2, 3)]
    found = [bias_weight(Midpoint(FrameKey(0, w / 4), *ends, w, 1, 0.5), 0.4) for w in weights]
    assert found == pytest.approx([0.05, 0.1, 0.15])


def test_bias_reaches_the_latents() -> None:
    """The quarter is the blend at 0.4 of its diffused parents, the three quarters the one at 0.6."""
    middle = torch.randn(SHAPE, generator=torch.Generator().manual_seed(7))
    task = toy(5, bias=0.1)
    scheme = find_scheme("branching")(task)
    next(scheme)
    second = scheme.send({FrameKey(0, Fraction(1, 2)): middle})
    for place, ends, weight in (
        (1, (task.latents[FrameKey(0)], middle), 0.4),
        (3, (middle, task.latents[FrameKey(1)]), 0.6),
    ):
        key = FrameKey(0, Fraction(place, 4))
        eps = task.noise("midpoint", key)
        a, b = (second.start.alpha * z + second.start.sigma * eps for z in ends)
        assert torch.allclose(second.blend(Sample(key)), slerp(a, b, weight).float(), atol=1e-5)


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("num_frames", [3, 4, 6, 20])
def test_every_scheme_makes_every_frame_once(name: str, num_frames: int) -> None:
    task = toy(num_frames, {FrameKey(i): torch.full(SHAPE, 0.1 + i) for i in range(3)})
    scheme = find_scheme(name)(task)
    made: list[FrameKey] = []
    level = next(scheme, None)
    while level is not None:
        assert all(torch.isfinite(level.blend(Sample(key))).all() for key in level.parents)
        made += list(level.parents) if level.is_final else []
        try:
            level = scheme.send({key: level.blend(Sample(key)) for key in level.parents})
        except StopIteration:
            level = None
    assert sorted(made) == [key for key in task.tree.frames if not key.is_keyframe]  # type: ignore[attr-defined]


def test_unknown_schemes_and_trees_are_refused() -> None:
    with pytest.raises(SegueError, match="unknown scheme 'morph'; choose from branching, interpolate,"):
        find_scheme("morph")
    grown = GrownTree((UniformTree(1, 3, (0.5,)), UniformTree(1, 5, (0.5, 0.4))))
    with pytest.raises(SegueError, match="only the scheme branching"):
        next(find_scheme("interpolate")(Task({}, grown, point, named_noise, blend)))


def named_noise(purpose: str, key: FrameKey, candidate: int = 0, step: int = 0) -> Tensor:
    return Noise(SEED)(purpose, key, candidate=candidate, step=step, shape=SHAPE)


def point(f: float) -> NoisePoint:
    return NoisePoint(round(1000 * f), math.cos(f), math.sin(f))


def toy(num_frames: int, keyframes: dict[FrameKey, Tensor] | None = None, **others: Any) -> Task:
    """A task on made-up latents and a made-up schedule."""
    drawn = {FrameKey(i): named_noise("keyframe", FrameKey(i)) for i in range(2)}
    given = drawn if keyframes is None else keyframes
    levels = noise_levels(UniformTree.depth(num_frames), 0.3, 0.55)
    return Task(given, UniformTree(len(given) - 1, num_frames, levels), point, named_noise, blend, **others)
