"""Attention interpolation against a plain transcription of its formulas, its limits, and films by it."""

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import scipy.stats
import torch
from shapes import QUICK, contents, picture, tiny_interpolator
from test_image_prompts import adapted, adapters
from tiny import batch_sizes, tiny_pipe, tiny_xl_pipe
from tiny_flow import FAMILIES
from torch import Tensor

from segue.engine.interpolator import Interpolator
from segue.errors import SegueError
from segue.method.conditioning import Conditioning
from segue.method.tree import FrameKey
from segue.models.attention import beta_quantile
from segue.models.backbone import Parents, Sampling
from segue.models.families import backbone_of
from segue.run.journal import Edit
from segue.settings.kinds import MorphSettings
from segue.settings.presets import list_ineffective

__all__ = ["adapters"]  # a fixture

KINDS = ("inner", "outer")
PROMPTS = ["a red cat", "a tiger", "two dogs", "a house", "an owl", "the sea"]
FILM: Any = {**QUICK, "noise": (0.4, 0.5), "num_inference_steps": 10, "guidance_scale": 3.0, "seed": 3, "batch_size": 2}


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sampling(attention: str, share: float = 1.0, steps: int = 8, **options: Any) -> Sampling:
    values = {"solver": "ddim", "guidance_scale": 4.0, **options}
    return Sampling(num_inference_steps=steps, attention=attention, attention_share=share, **values)


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V of one sample, (L, D) each, head by head."""
    width = q.shape[-1] // heads
    parts = []
    for i in range(heads):
        a, b, c = (x[:, i * width : (i + 1) * width] for x in (q, k, v))
        parts.append(torch.softmax(a @ b.T / math.sqrt(width), -1) @ c)
    return torch.cat(parts, -1)


def formula(kind: str, c: float, q: Tensor, own_left_right: list[tuple[Tensor, Tensor]], heads: int) -> Tensor:
    """The attention of a frame, given its keys and values (K, V) and those of its parents."""
    (k, v), (k1, v1), (km, vm) = own_left_right
    if kind == "inner":
        keys, values = torch.cat([k, (1 - c) * k1 + c * km]), torch.cat([v, (1 - c) * v1 + c * vm])
        return attend(q, keys, values, heads)
    to_left = attend(q, torch.cat([k, k1]), torch.cat([v, v1]), heads)
    to_right = attend(q, torch.cat([k, km]), torch.cat([v, vm]), heads)
    return (1 - c) * to_left + c * to_right


class Plain:
    """A processor that follows the formulas sample by sample, for [left, right, frame] after as many negative ones."""

    def __init__(self, kind: str, c: float, own: Any = None) -> None:
        self.kind, self.c, self.own = kind, c, own

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Any = None, attention_mask: Any = None
    ) -> Tensor:
        images = None
        if isinstance(encoder_hidden_states, tuple):
            encoder_hidden_states, (images,) = encoder_hidden_states
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = attn.to_q(hidden_states), attn.to_k(source), attn.to_v(source)
        rows = []
        for i in range(len(q)):
            at = [(k[j], v[j]) for j in (i, i - 2, i - 1)]
            is_frame = i == len(q) - 1
            if is_frame and encoder_hidden_states is None:
                row = formula(self.kind, self.c, q[i], at, attn.heads)
            else:
                row = attend(q[i], k[i], v[i], attn.heads)
            if images is not None:
                seen = [(self.own.to_k_ip[0](x), self.own.to_v_ip[0](x)) for x in images.flatten(1, -2)]
                if is_frame:
                    at = [seen[j] for j in (i, i - 2, i - 1)]
                    row = row + self.own.scale[0] * formula(self.kind, self.c, q[i], at, attn.heads)
                else:
                    row = row + self.own.scale[0] * attend(q[i], *seen[i], attn.heads)
            rows.append(row)
        out: Tensor = attn.to_out[0](torch.stack(rows))
        return out


def conditioned(backbone: Any, count: int, **images: Any) -> Conditioning:
    words: Conditioning = backbone.embed(PROMPTS[:count], ["blurry"] * count, **images)
    return words


def denoise_beside(backbone: Any, z: Tensor, words: Conditioning, weights: list[float], options: Sampling) -> Tensor:
    """Frames, the last third of a batch, beside their parents."""
    count = len(weights)
    parents = Parents(z[:-count], words.take(range(2 * count)), weights)
    frames, own = z[-count:], words.take(range(2 * count, 3 * count))
    made: Tensor = backbone.denoise(frames, own, backbone.point(0.5), sampling=options, parents=parents)
    return made


@pytest.fixture(scope="module")
def backbone() -> Any:
    return backbone_of(tiny_pipe())


# The formulas.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["sd", "xl", "image prompts"])
@pytest.mark.parametrize("steps", [1, 3])
def test_it_follows_the_formulas(kind: str, name: str, steps: int, adapters: Path) -> None:
    pipe: Any = adapted(adapters) if name == "image prompts" else tiny_pipe() if name == "sd" else tiny_xl_pipe()
    backbone: Any = backbone_of(pipe)
    images = {"images": [picture(i) for i in range(3)]} if name == "image prompts" else {}
    words, z, t = conditioned(backbone, 3, **images), randn(3, 4, 8, 8), 0.3
    options = sampling(kind, steps=2 * steps - 1)  # of the whole schedule
    got = denoise_beside(backbone, z, words, [t], options)

    c = float(scipy.stats.beta.ppf(t, steps, steps))
    plain = {name: Plain(kind, c, own) for name, own in pipe.unet.attn_processors.items()}
    with backbone.swapping(attention=plain):
        expected = backbone.denoise(z, words, backbone.point(0.5), sampling=options)[2:]
    assert torch.allclose(got, expected, atol=1e-4)
    alone = backbone.denoise(z, words, backbone.point(0.5), sampling=options)[2:]
    assert (alone - expected).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("t", "parent"), [(0.0, 0), (1.0, 1)])
def test_at_the_ends_only_that_parent_is_attended_to(backbone: Any, kind: str, t: float, parent: int) -> None:
    words, z = conditioned(backbone, 3), randn(3, 4, 8, 8)
    got = denoise_beside(backbone, z, words, [t], sampling(kind))
    both = [parent, parent, 2]
    assert torch.allclose(got, denoise_beside(backbone, z[both], words.take(both), [0.4], sampling(kind)), atol=1e-5)
    other = [1 - parent, 1 - parent, 2]
    assert (got - denoise_beside(backbone, z[other], words.take(other), [0.4], sampling(kind))).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_that_equals_its_parents_is_denoised_as_they_are(backbone: Any, kind: str) -> None:
    words, z = conditioned(backbone, 1).take([0] * 3), randn(1, 4, 8, 8).expand(3, -1, -1, -1)
    alone = backbone.denoise(z[:1], words.take([0]), backbone.point(0.5), sampling=sampling("none"))
    assert torch.allclose(denoise_beside(backbone, z, words, [0.3], sampling(kind)), alone, atol=1e-5)


@pytest.mark.parametrize("t", [0.0, 1 / 16, 0.3, 0.5, 0.77, 15 / 16, 1.0])
@pytest.mark.parametrize("n", [1, 2, 5, 28, 110, 1000])
def test_the_quantile_of_beta(t: float, n: int) -> None:
    assert beta_quantile(t, n) == pytest.approx(scipy.stats.beta.ppf(t, n, n), abs=1e-9)


# Batches and steps.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("solver", ["dpm++", "ddim", "lcm"])
def test_a_batch_equals_singles(backbone: Any, kind: str, solver: str) -> None:
    words, z, weights = conditioned(backbone, 6), randn(6, 4, 8, 8), [0.2, 0.7]
    options = sampling(kind, 0.5, solver=solver)

    def noise(which: list[int]) -> Any:
        return lambda i: randn(2, 4, 8, 8, seed=i)[which]

    def make(rows: list[int], weights: list[float], which: list[int]) -> Tensor:
        count = len(weights)
        made: Tensor = backbone.denoise(
            z[rows[-count:]],
            words.take(rows[-count:]),
            backbone.point(0.5),
            sampling=options,
            noise=noise(which),
            parents=Parents(z[rows[:-count]], words.take(rows[:-count]), weights),
        )
        return made

    together = make([0, 1, 2, 3, 4, 5], weights, [0, 1])
    singles = [make([i, 2 + i, 4 + i], [weights[i]], [i]) for i in (0, 1)]
    assert torch.allclose(together, torch.cat(singles), atol=1e-4)


def test_parents_take_part_in_the_first_share_of_the_steps(backbone: Any) -> None:
    words, z = conditioned(backbone, 3), randn(3, 4, 8, 8)
    with batch_sizes(backbone.pipe.unet) as sizes:
        denoise_beside(backbone, z, words, [0.5], sampling("outer", 0.5, steps=9))
    assert sizes == [6, 6, 2, 2, 2]  # twice for guidance
    assert [sampling("outer", share).steps_beside(5) for share in (0.0, 0.19, 0.2, 0.5, 1.0)] == [0, 0, 1, 2, 5]
    assert sampling("none").steps_beside(5) == 0


# What is left behind, and what is refused.


def test_the_pipes_processors_are_left_as_they_were(adapters: Path) -> None:
    pipe = adapted(adapters)
    backbone: Any = backbone_of(pipe)
    before = dict(pipe.unet.attn_processors)
    words, z = conditioned(backbone, 3, images=[picture(i) for i in range(3)]), randn(3, 4, 8, 8)
    denoise_beside(backbone, z, words, [0.5], sampling("outer"))
    assert pipe.unet.attn_processors == before

    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    hook = pipe.unet.conv_out.register_forward_hook(fail)
    with pytest.raises(ZeroDivisionError):
        denoise_beside(backbone, z, words, [0.5], sampling("outer"))
    hook.remove()
    assert pipe.unet.attn_processors == before


def test_what_cannot_be_interpolated_is_refused() -> None:
    pipe = tiny_pipe()
    backbone = backbone_of(pipe)
    backbone.check(sampling("outer"))
    pipe.fuse_qkv_projections(vae=False)
    with pytest.raises(SegueError, match="unfuse_qkv_projections"):
        backbone.check(sampling("outer"))
    backbone.check(sampling("none"))
    flow = backbone_of(FAMILIES["sd3"].make(0))
    with pytest.raises(SegueError, match="needs a UNet, which the StableDiffusion3Pipeline has not"):
        flow.check(sampling("inner", solver="euler"))


def test_the_share_changes_nothing_without_attention() -> None:
    settings = MorphSettings(attention_share=0.2)
    assert list_ineffective(settings, ["attention_share"]) == [
        "attention_share changes nothing without --set attention=inner or outer"
    ]


# Films.


@pytest.fixture(scope="module")
def interpolator() -> Interpolator:
    return tiny_interpolator()


def frames(run: Path) -> dict[str, str]:
    return contents(run, "frames", "latents")


@pytest.mark.parametrize("align", [True, False])
@pytest.mark.parametrize("scheme", ["branching", "interpolate-denoise", "denoise-interpolate-denoise"])
def test_films_and_resuming_to_the_byte(interpolator: Interpolator, tmp_path: Path, scheme: str, align: bool) -> None:
    settings = {**FILM, "scheme": scheme, "align": align}
    pictures, seen = [picture(0), picture(1)], list[Any]()
    interpolator(*pictures, output=tmp_path / "none", **settings)
    interpolator(*pictures, output=tmp_path / "share", attention="outer", attention_share=0.0, **settings)
    assert frames(tmp_path / "share") == frames(tmp_path / "none")
    interpolator(*pictures, output=tmp_path / "outer", attention="outer", callback=seen.append, **settings)
    assert frames(tmp_path / "outer").keys() == frames(tmp_path / "none").keys()
    assert frames(tmp_path / "outer") != frames(tmp_path / "none")
    steps = [progress for progress in seen if getattr(progress, "steps", 0)]
    assert steps[-1].step == steps[-1].steps == steps[0].steps

    def stop(progress: Any) -> None:
        if progress.frames == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interpolator(*pictures, output=tmp_path / "again", attention="outer", callback=stop, **settings)
    interpolator(*pictures, output=tmp_path / "again", attention="outer", **settings)
    assert frames(tmp_path / "again") == frames(tmp_path / "outer")


def test_costs_count_the_parents(interpolator: Interpolator, tmp_path: Path) -> None:
    def steps(**settings: Any) -> int:
        seen = list[Any]()
        values = {**FILM, "noise": (0.4, 0.4), "align": False, "detail": 0.0, **settings}
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        interpolator(picture(0), picture(1), output=folder, callback=seen.append, **values)
        return int(next(progress.steps for progress in seen if getattr(progress, "steps", 0)))

    assert steps() == 3 * 5  # 3 frames, 5 of 10 steps
    assert steps(attention="inner") == 3 * (3 * 2 + 3)
    assert steps(attention="inner", attention_share=1.0) == 3 * 3 * 5


def test_a_remade_frame_is_a_parent_under_its_own_prompt(
    interpolator: Interpolator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = list[Tensor]()
    real = interpolator.backbone.denoise

    def denoise(*arguments: Any, parents: Any = None, **options: Any) -> Tensor:
        given.extend(parents.conditioning.text)
        made: Tensor = real(*arguments, parents=parents, **options)
        return made

    run = tmp_path / "run"
    interpolator(
        picture(0),
        picture(1),
        output=run,
        attention="outer",
        **{**FILM, "align": False, "detail": 0.0, "batch_size": 1},
    )
    monkeypatch.setattr(interpolator.backbone, "denoise", denoise)
    interpolator.remake(run, FrameKey(0, Fraction(1, 2)), Edit(prompt="an owl"))
    cat, dog, owl = (interpolator.backbone.embed([text], [""]).text[0] for text in ("a cat", "a dog", "an owl"))
    expected = [cat, dog, cat, owl, owl, dog]  # of the middle frame, and of the two beside it
    assert len(given) == len(expected)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(given, expected, strict=True))
