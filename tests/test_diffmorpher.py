"""DiffMorpher: LoRAs that are fitted to the keyframes, and the noise that is blended, against plain transcriptions."""

from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from shapes import QUICK, contents, latents, picture, tiny_interpolator
from test_schemes import COMMON, PROMPTS, SEED, SHAPE, Film, Plain, Prediction, slerp
from tiny import tiny_xl_pipe
from tiny_flow import FAMILIES
from torch import Tensor
from torch.func import functional_call

from segue.engine.dialogue import Progress
from segue.engine.fitting import FittedLoras, read_lora
from segue.engine.interpolator import Interpolator
from segue.errors import SegueError
from segue.method.diffmorpher import blend_noise
from segue.method.noise import Noise
from segue.method.tree import FrameKey
from segue.models.lora import make_lora
from segue.pictures.tensors import to_tensor
from segue.words.inversion import denoising_loss

STEPS = 4
Change = dict[str, Tensor]  # of weights, by the layer's name


class Adapted(Plain):
    """The checkpoint whose UNet's weights are W + ``change``."""

    def __init__(self, prediction: Prediction) -> None:
        super().__init__(prediction)
        self.whole, self.change = self.pipe, dict[str, Tensor]()
        names = ("tokenizer", "text_encoder", "vae", "scheduler")
        self.pipe: Any = SimpleNamespace(**{name: getattr(self.whole, name) for name in names}, unet=self.unet)

    def unet(self, *given: Any, **options: Any) -> Any:
        unet = self.whole.unet
        weights = {f"{n}.weight": unet.get_parameter(f"{n}.weight") + change for n, change in self.change.items()}
        return functional_call(unet, weights, given, options)

    def fit(self, number: int) -> Change:
        """AdamW on U D of each attention projection, one draw of noise in each step."""
        layers = {
            name: layer
            for name, layer in self.whole.unet.named_modules()
            if name.split(".")[-1] in ("to_q", "to_k", "to_v") or name.endswith("to_out.0")
        }
        first = Noise(SEED).generator("lora", FrameKey(number))
        down = {n: torch.randn(16, m.in_features, generator=first) / 16 for n, m in layers.items()}
        up = {n: torch.zeros(m.out_features, 16) for n, m in layers.items()}
        masters = [*down.values(), *up.values()]
        for master in masters:
            master.requires_grad_()
        adam = torch.optim.AdamW(masters, lr=2e-4, weight_decay=1e-2)
        z, text = self.encode(number).float().detach(), self.text(PROMPTS[number]).detach()
        for step in range(1, STEPS + 1):
            generator = Noise(SEED).generator("lora", FrameKey(number), step=step)
            t = round(1000 * torch.rand((), generator=generator).item())
            eps = torch.randn((1, *SHAPE), generator=generator)[0]
            alpha, sigma = self.point(t)
            noisy = alpha * z + sigma * eps
            self.change = {n: up[n] @ down[n] for n in layers}
            output = self.unet(noisy[None], t, encoder_hidden_states=text).sample[0]
            eps_hat = output if self.prediction == "epsilon" else alpha * output + sigma * noisy
            gradients = torch.autograd.grad((eps_hat - eps).square().mean(), masters)
            for master, gradient in zip(masters, gradients, strict=True):
                master.grad = gradient
            adam.step()
        self.change = {}
        return {n: (up[n] @ down[n]).detach() for n in layers}


def adain(left: Tensor, right: Tensor, s: float) -> Tensor:
    y = slerp(left, right, s)
    rows = []
    for c in range(len(y)):
        std = (1 - s) * left[c].std(correction=0) + s * right[c].std(correction=0)
        mean = (1 - s) * left[c].mean() + s * right[c].mean()
        rows.append((y[c] - y[c].mean()) / y[c].std(correction=0) * std + mean)
    return torch.stack(rows)


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def adapted(request: pytest.FixtureRequest) -> tuple[Adapted, list[Change]]:
    plain = Adapted(request.param)
    with torch.enable_grad():
        return plain, [plain.fit(0), plain.fit(1)]


def settings(**others: Any) -> dict[str, Any]:
    return {**COMMON, "num_frames": 5, "prompt": PROMPTS[:2], "fit_model": STEPS, **others}


@torch.no_grad()
def test_diffmorpher_is_its_equations(adapted: tuple[Adapted, list[Change]], tmp_path: Path) -> None:
    plain, changes = adapted
    tiny_interpolator(plain.prediction)(
        picture(0), picture(1), output=tmp_path / "run", **settings(scheme="diffmorpher")
    )
    found, film = latents(tmp_path / "run"), Film(plain, 0, 4)
    inverted: list[Tensor] = []
    for z, text, change in zip(film.ends.values(), film.texts, changes, strict=True):
        plain.change = change
        inverted.append(plain.invert(z, 980, text))
    for i in (1, 2, 3):
        plain.change = {n: (1 - i / 4) * changes[0][n] + i / 4 * changes[1][n] for n in changes[0]}
        expected = plain.denoise(adain(inverted[0], inverted[1], i / 4), 980, -1, film.words(i))
        assert float((found[FrameKey(0, Fraction(i, 4))] - expected).abs().max()) < 1e-4
    plain.change = {}
    without = plain.denoise(adain(inverted[0], inverted[1], 0.5), 980, -1, film.words(2))
    assert float((found[FrameKey(0, Fraction(1, 2))] - without).abs().max()) > 1e-3  # the LoRAs matter


@torch.no_grad()
def test_branching_with_fitted_loras_is_its_equations(adapted: tuple[Adapted, list[Change]], tmp_path: Path) -> None:
    plain, changes = adapted
    tiny_interpolator(plain.prediction)(picture(0), picture(1), output=tmp_path / "run", **settings(num_frames=3))
    film = Film(plain, 0, 2)
    eps = film.noise("midpoint", 1)
    a, b = (plain.diffuse(z, -1, 550, eps) for z in film.ends.values())
    plain.change = {n: 0.5 * changes[0][n] + 0.5 * changes[1][n] for n in changes[0]}
    expected = plain.denoise(slerp(a, b, 0.5), 550, -1, film.words(1))
    assert float((latents(tmp_path / "run")[FrameKey(0, Fraction(1, 2))] - expected).abs().max()) < 1e-4


def test_a_blend_at_its_ends_is_the_single_lora() -> None:
    """And of equal pictures, which share one, it is that one everywhere."""
    lora = make_lora(tiny_interpolator().backbone.network, torch.Generator())
    fitted = FittedLoras((lora, lora), (0, 1, 0))  # a loop of two pictures
    for place, weights in ((0, [1, 0]), (1, [0, 1]), (2, [1, 0]), ("1/4", [0.75, 0.25]), ("7/4", [0.75, 0.25])):
        assert fitted.weigh(Fraction(place)).tolist() == [weights]
    assert float(FittedLoras((lora,), (0, 0)).weigh(Fraction(1, 3))) == pytest.approx(1)


def test_noise_blended_at_its_ends_is_that_of_a_keyframe() -> None:
    x, y = (Noise(0)("midpoint", FrameKey(i), shape=SHAPE) for i in range(2))
    assert torch.allclose(blend_noise(x, y, 0.0), x, atol=1e-6)
    assert torch.allclose(blend_noise(x, y, 1.0), y, atol=1e-6)
    middle = blend_noise(x, 3 * y + 1, 0.5)
    assert torch.allclose(middle.mean((1, 2)), (x.mean((1, 2)) + (3 * y + 1).mean((1, 2))) / 2, atol=1e-5)


def test_fitting_lowers_the_loss(tmp_path: Path) -> None:
    """Both are of the same subject, so each helps; which is whose is in the equations above."""
    model = tiny_interpolator()
    model(picture(0), picture(1), output=tmp_path / "run", **settings(num_frames=3, fit_model=60))
    backbone = model.backbone
    loras = [lora for path in (tmp_path / "run" / "words").glob("lora-*") if (lora := read_lora(path))]
    assert len(loras) == 2
    z, words = backbone.encode(to_tensor([picture(0)])), backbone.embed([PROMPTS[0]], [""])
    losses = []
    for lora in (None, *loras):
        total = 0.0
        with backbone.evaluating(), backbone.adapting([lora] if lora else []):
            for i in range(40):
                eps = Noise(5)("test", FrameKey(0), shape=(1, *SHAPE), step=i)
                c = words.with_lora(torch.ones(1, 1)) if lora else words
                total += float(denoising_loss(backbone, z, c, backbone.point((i + 0.5) / 40), eps))
        losses.append(total)
    assert min(losses[1:]) < 0.996 * losses[0]


def test_loras_are_fitted_once_and_found_again(tmp_path: Path) -> None:
    told: list[Any] = []
    images, run = (picture(0), picture(1), picture(0)), tmp_path / "run"
    one = settings(scheme="diffmorpher", prompt="a cat", num_frames=3)
    tiny_interpolator()(*images, output=run, callback=told.append, **one)
    steps = [progress for progress in told if isinstance(progress, Progress) and progress.stage == "lora"]
    assert [p.step for p in steps] == list(range(1, 2 * STEPS + 1))  # the third picture is the first
    assert {p.steps for p in steps} == {2 * STEPS}
    whole = contents(run, "frames/", "latents/", "words/")
    for path in [*(run / "frames").glob("000.5*"), *(run / "latents").iterdir()]:
        path.unlink()
    told.clear()
    tiny_interpolator()(*images, output=run, callback=told.append, **one)
    assert not [p for p in told if isinstance(p, Progress) and p.stage == "lora"]
    assert contents(run, "frames/", "latents/", "words/") == whole


def test_the_network_is_left_as_it_was(tmp_path: Path) -> None:
    unet: Any = tiny_interpolator().backbone.network
    before = {name: weight.clone() for name, weight in unet.state_dict().items()}
    tiny_interpolator()(picture(0), picture(1), output=tmp_path / "run", **settings(num_frames=3))
    assert all(torch.equal(weight, before[name]) for name, weight in unet.state_dict().items())
    assert not any(module._forward_hooks for module in unet.modules())
    assert not any(weight.grad is not None for weight in unet.parameters())


def test_perceptual_spacing_reschedules(tmp_path: Path) -> None:
    options = settings(scheme="diffmorpher", spacing="perceptual:pixels", num_frames=6)
    morph = tiny_interpolator()(picture(0), picture(1), output=tmp_path / "run", **options)
    assert len(morph.frames) == 6


def test_a_loop_closes_and_guidance_is_one_call(tmp_path: Path) -> None:
    options = settings(scheme="diffmorpher", loop=True, num_frames=3, guidance_scale=4.0)
    tiny_interpolator()(picture(0), picture(1), output=tmp_path / "run", **options)
    there, back = latents(tmp_path / "run").values()
    assert torch.allclose(there, back, atol=1e-4)


def test_models_without_a_unet_are_refused() -> None:
    flow = Interpolator(FAMILIES["sd3"].make(0), name="flow")
    for options in ({"scheme": "diffmorpher"}, {"fit_model": 5}):
        with pytest.raises(SegueError, match="fit_model needs a model with a UNet, which flow has not"):
            flow(picture(0), picture(1), **{**QUICK, **options})


def test_a_film_of_stable_diffusion_xl_in_bfloat16(tmp_path: Path) -> None:
    """The LoRAs are float32 over a network of any precision."""
    pipe = tiny_xl_pipe().to(dtype=torch.bfloat16)
    options = {**QUICK, "network_size": "64x64", "num_frames": 3, "fit_model": 2}
    Interpolator(pipe)(picture(0), picture(1), output=tmp_path / "run", **options)
    (lora, _) = (read_lora(path) for path in (tmp_path / "run" / "words").glob("lora-*"))
    assert lora
    assert all(tensor.dtype == torch.float32 for tensor in lora.up.values())
    assert any(bool(tensor.any()) for tensor in lora.up.values())
