"""Checkpoints of few steps: LCM and TCD against diffusers' own loops, legs of one to eight calls, the preset fast."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, LCMScheduler, TCDScheduler
from diffusers.utils import logging
from shapes import QUICK, contents, latents, picture, tiny_interpolator
from test_solvers import U, gaussian, marginal, run, sampling, schedule
from tiny import tiny_pipe
from torch import Tensor

from segue.batch.rows import read_rows
from segue.cli.request import film_request
from segue.engine.dialogue import Progress
from segue.engine.interpolator import Interpolator
from segue.errors import Notice, SegueError
from segue.method.diffusion import CLEAN, NoisePoint
from segue.models.backbone import Sampling
from segue.models.cache import marks_of
from segue.models.solvers import Leg, Schedule, grid
from segue.models.stable_diffusion import StableDiffusion
from segue.settings.kinds import SCHEMES, MorphSettings, parse_settings
from segue.settings.presets import with_preset
from segue.studio.session import Studio

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
OWN: dict[str, Any] = {"lcm": LCMScheduler, "tcd": TCDScheduler}
A, B = picture(0), picture(1)
Prediction = Literal["epsilon", "v_prediction"]


def generator(step: int) -> torch.Generator:
    return torch.Generator().manual_seed(100 + step)


def noises(step: int) -> Tensor:
    return torch.randn(U.shape, generator=generator(step))


def loop(scheduler: Any, times: list[int], calls: int, z: Tensor, s: Schedule, **options: Any) -> Tensor:
    """Diffusers' own loop, whose generator draws what ``noises`` are."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()  # it warns of all timesteps but those of its training
    scheduler.set_timesteps(timesteps=times)
    logging.set_verbosity(before)
    for step, t in enumerate(scheduler.timesteps[:calls]):
        output = gaussian(scheduler.config.prediction_type)(z, s.noise_point(int(t)))
        z = scheduler.step(output, t, z, generator=generator(step), return_dict=False, **options)[0]
    return z


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(("solver", "eta"), [("lcm", 0.0), ("tcd", 0.0), ("tcd", 0.3), ("tcd", 1.0)])
@pytest.mark.parametrize(
    ("f", "f_stop", "calls"), [(0.9999, None, 4), (0.55, None, 3), (0.9999, 0.3, 3), (0.55, 0.3, 1)]
)
def test_four_steps_are_the_schedulers_own_loop_with_the_same_noise(
    solver: str, eta: float, prediction_type: str, f: float, f_stop: float | None, calls: int
) -> None:
    s = schedule(prediction_type)
    start, stop = s.point(f), CLEAN if f_stop is None else s.point(f_stop)
    leg = Leg(s, start, stop, sampling(solver, 4, eta))
    assert len(leg) == calls
    got = run(leg, marginal(start), gaussian(prediction_type), s, noises)
    times = leg.timesteps + ([] if f_stop is None else [round(stop.timestep)])
    options = {"eta": eta} if solver == "tcd" else {}
    own = OWN[solver](**SD, prediction_type=prediction_type)
    assert torch.allclose(got, loop(own, times, calls, marginal(start), s, **options), atol=2e-6)
    if leg.is_random and (calls > 1 or f_stop):
        other = run(
            Leg(s, start, stop, sampling(solver, 4, eta)),
            marginal(start),
            gaussian(prediction_type),
            s,
            lambda step: noises(step + 1),
        )
        assert not torch.allclose(got, other, atol=0.01)


@pytest.mark.parametrize("solver", ["lcm", "tcd"])
def test_a_pipes_own_lcm_and_tcd_take_the_named_noise_as_it_is(solver: str) -> None:
    """With the settings of the pipe's scheduler, which other solvers do not ask for."""
    s, start = schedule(), schedule().point(0.8)
    own = OWN[solver](**SD, **({"timestep_scaling": 0.01} if solver == "lcm" else {}))
    leg = Leg(s, start, CLEAN, sampling("pipe", 4), own)
    got = run(leg, marginal(start), gaussian("epsilon"), s, noises)
    assert torch.allclose(got, loop(own, leg.timesteps, 4, marginal(start), s), atol=2e-6)
    usual = run(Leg(s, start, CLEAN, sampling(solver, 4)), marginal(start), gaussian("epsilon"), s, noises)
    assert not torch.allclose(got, usual, atol=0.01)


@cache
def backbone(prediction_type: Prediction = "epsilon") -> StableDiffusion:
    return StableDiffusion(tiny_pipe(prediction_type))


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("solver", ["lcm", "tcd"])
def test_four_steps_from_pure_noise_are_diffusers_pipeline(solver: str, prediction_type: Prediction) -> None:
    pipe = tiny_pipe(prediction_type)
    pipe.scheduler = OWN[solver].from_config(pipe.scheduler.config)
    z = torch.randn(1, 4, 8, 8, generator=generator(0))
    options: dict[str, Any] = {"latents": z, "timesteps": [999, 749, 499, 249], "guidance_scale": 1.0}
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    expected = pipe("a cat", generator=generator(1), output_type="latent", eta=0.3, **options).images
    logging.set_verbosity(before)
    one = generator(1)
    drawn = [torch.randn(z.shape, generator=one) for _ in range(3)] + [z]
    got = backbone(prediction_type).denoise(
        z,
        backbone(prediction_type).embed(["a cat"], [""]),
        backbone(prediction_type).point(0.9999),
        sampling=Sampling(
            solver=solver, num_inference_steps=4, guidance_scale=1.0, eta=0.3 if solver == "tcd" else 0.0
        ),
        noise=drawn.__getitem__,
    )
    assert torch.allclose(got, expected, atol=1e-4)


@pytest.mark.parametrize(("solver", "eta"), [("lcm", 0.0), ("tcd", 0.3)])
def test_a_batch_of_three_is_three_singles(solver: str, eta: float) -> None:
    model = backbone()
    start, stop = model.point(0.55), model.point(0.3)
    words = model.embed(["a cat", "two dogs", ""], [""] * 3)
    z = torch.randn(3, 4, 8, 8, generator=generator(0))
    drawn = [torch.randn(z.shape, generator=generator(step)) for step in range(5)]
    options = Sampling(solver=solver, num_inference_steps=8, guidance_scale=2.0, eta=eta)
    for end in (CLEAN, stop):
        together = model.denoise(z, words, start, end, sampling=options, noise=drawn.__getitem__)
        for i in range(3):
            alone = model.denoise(
                z[i : i + 1],
                words.sample(i),
                start,
                end,
                sampling=options,
                noise=lambda step, i=i: drawn[step][i : i + 1],  # type: ignore[misc]
            )
            assert torch.allclose(together[i : i + 1], alone, atol=1e-4)
    with pytest.raises(ValueError, match="need noise"):
        model.denoise(z, words, start, sampling=options)


@pytest.mark.parametrize("solver", ["lcm", "tcd"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_films_by_all_schemes_continue_to_the_byte_and_do_not_depend_on_the_batch(
    scheme: str, solver: str, tmp_path: Path
) -> None:
    eta: dict[str, Any] = {"eta": 0.3} if solver == "tcd" else {}
    eta |= {"fit_model": 2} if scheme == "diffmorpher" else {}
    settings: dict[str, Any] = {**QUICK, "scheme": scheme, "solver": solver, "num_inference_steps": 4, **eta}

    def film(name: str, batch: int, callback: Callable[[Progress | Notice], None] | None = None) -> Any:
        return tiny_interpolator()(A, B, output=tmp_path / name, batch_size=batch, callback=callback, **settings)

    def killed(progress: Progress | Notice) -> None:
        if isinstance(progress, Progress) and progress.frames >= 1:
            raise KeyboardInterrupt

    whole = film("whole", 2)
    with pytest.raises(KeyboardInterrupt):
        film("killed", 2, killed)
    film("killed", 2)
    parts = ("frames/", "latents/", "pictures/")
    assert contents(tmp_path / "killed", *parts) == contents(tmp_path / "whole", *parts)
    alone = film("alone", 1)
    found, others = latents(tmp_path / "whole"), latents(tmp_path / "alone")
    assert found.keys() == others.keys()
    assert all(torch.allclose(found[key], others[key], atol=1e-4) for key in found)
    for mine, other in zip(whole.frames, alone.frames, strict=True):
        assert np.abs(np.asarray(mine, dtype=int) - np.asarray(other, dtype=int)).max() <= 1


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
@pytest.mark.parametrize("solver", ["lcm", "tcd", "ddim", "dpm++"])
def test_a_leg_has_a_call_at_its_own_noise_point(solver: str, steps: int) -> None:
    s = schedule()
    points = [CLEAN, *(s.point(f) for f in (0.01, 0.2, 0.3, 0.55, 0.9999))]
    for i, stop in enumerate(points):
        for start in points[i + 1 :]:
            leg = Leg(s, start, stop, sampling(solver, steps))
            assert leg.timesteps[0] == start.timestep
            assert 1 <= len(leg) <= steps


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_a_leg_from_pure_noise_has_the_timesteps_of_trailing_spacing(steps: int) -> None:
    trailing = EulerDiscreteScheduler(**SD, timestep_spacing="trailing")
    trailing.set_timesteps(steps)
    assert grid(NoisePoint(999, 0, 1), CLEAN, steps, 1000)[:-1] == trailing.timesteps.tolist()


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_four_steps_of_ddim_are_those_of_euler(prediction_type: str) -> None:
    """Checkpoints of Turbo and Lightning name Euler; it is DDIM over sigma / alpha."""
    s = schedule(prediction_type)
    for start in (s.point(0.9999), s.point(0.55)):
        one, other = (
            run(Leg(s, start, CLEAN, sampling(solver, 4)), marginal(start), gaussian(prediction_type), s)
            for solver in ("ddim", "euler")
        )
        assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "marks", "solver", "steps"),
    [
        ("somebody/dreamshaper_8LCM", (), "lcm", 4),
        ("stabilityai/sd-turbo", (), "ddim", 4),
        ("/models/dreamshaperXL_v21TurboDPMSDE.safetensors", (), "ddim", 4),
        ("juggernautXL_v9Rdphoto2Lightning", (), "ddim", 4),
        ("Tongyi-MAI/Z-Image-Turbo", ("FlowMatchEulerDiscreteScheduler",), "ddim", 8),
        ("some/checkpoint", ("PNDMScheduler", "Hyper-SD15-8steps-lora"), "ddim", 8),
        ("some/checkpoint", ("DDIMScheduler", "sdxl_lightning_2step_lora"), "ddim", 2),
        ("some/checkpoint", ("TCDScheduler", "Hyper-SD15-1step-lora"), "tcd", 1),
        ("some/checkpoint", ("LCMScheduler",), "lcm", 4),
        ("some/checkpoint", ("PNDMScheduler", "lcm-lora-sdv1-5"), "lcm", 4),
        ("some/checkpoint", ("PNDMScheduler", "TCD-SD15-LoRA"), "tcd", 4),
    ],
)
def test_the_fast_preset_knows_a_model_by_its_names(model: str, marks: Any, solver: str, steps: int) -> None:
    settings = parse_settings(MorphSettings, with_preset("fast", {}, model, marks))
    assert (settings.solver, settings.num_inference_steps, settings.guidance_scale) == (solver, steps, 1.0)
    assert settings.eta == (0.3 if solver == "tcd" else 0.0)
    own = {"solver": "euler", "num_inference_steps": 6}
    assert parse_settings(MorphSettings, with_preset("fast", own, model, marks)).num_inference_steps == 6


@pytest.mark.parametrize("model", [None, "some/checkpoint", "lcm/checkpoint", "calcium", "turbot", "Hyperion"])
def test_the_fast_preset_is_refused_where_nothing_tells_of_few_steps(model: str | None) -> None:
    with pytest.raises(
        SegueError, match=r"^preset fast: .*give solver, num_inference_steps and guidance_scale"
    ) as told:
        with_preset("fast", {}, model, ["PNDMScheduler", "ink"])
    assert "\n" not in str(told.value)


def test_the_fast_preset_of_a_pipe_and_of_a_folder(tmp_path: Path) -> None:
    """By the scheduler that it holds; the folder before anything is loaded."""
    pipe = tiny_pipe()
    with pytest.raises(SegueError, match="preset fast"):
        Interpolator(pipe)(A, B, output=tmp_path / "run", preset="fast", **QUICK)
    pipe.scheduler = TCDScheduler.from_config(pipe.scheduler.config)
    settings = {name: value for name, value in QUICK.items() if name != "num_inference_steps"}
    Interpolator(pipe)(A, B, output=tmp_path / "run", preset="fast", **settings)  # without a notice
    tiny_interpolator()(
        A, B, output=tmp_path / "same", solver="tcd", eta=0.3, num_inference_steps=4, guidance_scale=1, **settings
    )
    assert contents(tmp_path / "run", "latents/") == contents(tmp_path / "same", "latents/")
    pipe.save_pretrained(tmp_path / "model")
    assert marks_of(tmp_path / "model") == ["TCDScheduler"]
    assert marks_of(None) == ["DDIMScheduler"]
    assert marks_of("nobody/nothing") == marks_of("no such/name/at all") == []


def test_the_commands_and_the_studio_know_the_model_before_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = tiny_pipe()
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    pipe.save_pretrained(tmp_path / "model")
    for name, image in (("a.png", A), ("b.png", B)):
        image.save(tmp_path / name)
    (tmp_path / "pairs.csv").write_text("a,b\na.png,b.png\n")
    monkeypatch.chdir(tmp_path)
    asked = film_request(["a.png", "b.png"], "film.mp4", {"model": "model"}, preset="fast")
    (row,) = read_rows(Path("pairs.csv"), Path("out"), {}, preset="fast", ending=".mp4", model="model")
    assert (asked.settings.solver, row.values["solver"]) == ("lcm", "lcm")
    studio = Studio(tmp_path / "studio", tiny_interpolator, lambda _picture, _captioner: "", model_name="model")
    assert studio.presets == ("fast", "draft", "balanced", "paper")
    assert studio.session("a" * 32).settings({}, "fast").solver == "lcm"
    assert "fast" not in Studio(tmp_path / "studio", tiny_interpolator, lambda _picture, _captioner: "").presets
    with pytest.raises(SegueError, match=r"pairs\.csv(.|\n)*preset fast: "):
        read_rows(Path("pairs.csv"), Path("out"), {}, preset="fast", ending=".mp4")


def test_adapters_are_among_the_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tiny_pipe()
    assert StableDiffusion(pipe).marks == ["DDIMScheduler"]
    monkeypatch.setattr(pipe, "get_active_adapters", lambda: ["lcm-lora", "ink"])
    assert StableDiffusion(pipe).marks == ["DDIMScheduler", "ink", "lcm-lora"]


def test_a_ddim_scheduler_of_the_pipe_makes_the_film_of_ddim(tmp_path: Path) -> None:
    told: list[Any] = []
    tiny_interpolator()(A, B, output=tmp_path / "own", solver="pipe", callback=told.append, **QUICK)
    tiny_interpolator()(A, B, output=tmp_path / "ddim", solver="ddim", **QUICK)
    assert isinstance(backbone().pipe.scheduler, DDIMScheduler)
    text = "the pipe's DDIMScheduler cannot start at a noise point; the solver ddim stands in for it"
    assert [notice.text for notice in told if isinstance(notice, Notice)] == [text]
    assert contents(tmp_path / "own", "latents/") == contents(tmp_path / "ddim", "latents/")
