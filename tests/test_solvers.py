"""Legs against closed forms and against the plain formulas, on denoisers that are known exactly."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor

from segue.errors import Notice, SegueError, hearing
from segue.method.diffusion import CLEAN, NoisePoint
from segue.models.backbone import Sampling
from segue.models.solvers import SOLVERS, Leg, Schedule, grid, warn_of_solver
from segue.settings.kinds import SOLVERS as NAMES

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
MEAN, SPREAD = 0.7, 0.4
U = torch.linspace(-2, 2, 24).reshape(2, 3, 2, 2)

Network = Callable[[Tensor, NoisePoint], Tensor]


def schedule(prediction_type: str = "epsilon") -> Schedule:
    return Schedule.of(DDIMScheduler(**SD, prediction_type=prediction_type))


def sampling(solver: str, steps: int, eta: float = 0.0) -> Sampling:
    return Sampling(solver=solver, num_inference_steps=steps, guidance_scale=1.0, eta=eta)


def spread(p: NoisePoint) -> float:
    """The standard deviation at a noise point of data distributed as N(MEAN, SPREAD^2)."""
    return math.hypot(p.alpha * SPREAD, p.sigma)


def marginal(p: NoisePoint) -> Tensor:
    """The exact solution of the probability flow through U: (z - alpha m) / spread is constant."""
    return p.alpha * MEAN + spread(p) * U


def gaussian(prediction_type: str) -> Network:
    """The exact denoiser of data distributed as N(MEAN, SPREAD^2)."""

    def network(z: Tensor, p: NoisePoint) -> Tensor:
        eps = p.sigma * (z - p.alpha * MEAN) / spread(p) ** 2
        x0 = (z - p.sigma * eps) / p.alpha
        return {"epsilon": eps, "v_prediction": p.alpha * eps - p.sigma * x0, "sample": x0}[prediction_type]

    return network


def run(leg: Leg, z: Tensor, network: Network, of: Schedule, noise: Callable[[int], Tensor] | None = None) -> Tensor:
    x = leg.enter(z)
    for i, t in enumerate(leg.timesteps):
        x = leg.step(network(leg.network_input(x), of.noise_point(t)), x, noise(i) if noise else None)
    return leg.leave(x)


def test_every_solver_of_the_settings_is_there() -> None:
    assert set(SOLVERS) == set(NAMES)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("solver", ["ddim", "dpm++", "euler"])
@pytest.mark.parametrize("f_stop", [None, 0.25])
def test_a_gaussian_is_denoised_as_its_exact_solution(solver: str, prediction_type: str, f_stop: float | None) -> None:
    s = schedule(prediction_type)
    start, stop = s.point(0.55), CLEAN if f_stop is None else s.point(f_stop)
    z = run(Leg(s, start, stop, sampling(solver, 300)), marginal(start), gaussian(prediction_type), s)
    assert (z - marginal(stop)).abs().max() < (0.02 if stop == CLEAN else 0.001)


def test_dpm_is_of_second_order_where_ddim_is_of_first() -> None:
    s = schedule()
    start, stop = s.point(0.6), s.point(0.2)

    def error(solver: str, steps: int) -> float:
        z = run(Leg(s, start, stop, sampling(solver, steps)), marginal(start), gaussian("epsilon"), s)
        return float((z - marginal(stop)).abs().max())

    for solver, order in (("ddim", 1), ("euler", 1), ("dpm++", 2)):
        ratio = error(solver, 40) / error(solver, 80)
        assert 0.8 * 2**order < ratio < 1.35 * 2**order, solver


@pytest.mark.parametrize("solver", ["ddim", "euler"])
def test_single_step_solvers_may_stop_anywhere(solver: str) -> None:
    """Two legs with the same grid as one leg give the same latents."""
    s = schedule()
    start, way = s.noise_point(599), s.noise_point(299)
    network = gaussian("epsilon")
    once = run(Leg(s, start, CLEAN, sampling(solver, 20)), marginal(start), network, s)
    half = run(Leg(s, start, way, sampling(solver, 20)), marginal(start), network, s)
    assert torch.allclose(run(Leg(s, way, CLEAN, sampling(solver, 20)), half, network, s), once, atol=1e-5)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("t_stop", [-1, 125])
def test_ddim_equals_its_formula_on_an_irregular_grid(prediction_type: str, eta: float, t_stop: int) -> None:
    """DDIM's equations (12) and (16) in float64; Song et al. 2020, arXiv 2010.02502."""
    s = schedule(prediction_type)
    start, stop = s.noise_point(561), CLEAN if t_stop < 0 else s.noise_point(t_stop)
    points = grid(start, stop, 13, 1000)
    gaps = {t - after for t, after in zip(points, points[1:], strict=False)}
    assert len(gaps) > 1
    noises = [torch.randn(U.shape, generator=torch.Generator().manual_seed(i)) for i in range(len(points))]
    network = gaussian(prediction_type)
    leg = Leg(s, start, stop, sampling("ddim", 13, eta))
    got = run(leg, marginal(start), network, s, noises.__getitem__)

    z = marginal(start).double()
    for i, (t, after) in enumerate(zip(points, points[1:], strict=False)):
        a, b = s.alphas_cumprod[t].double(), s.alphas_cumprod[after].double() if after >= 0 else torch.tensor(1.0)
        eps = gaussian("epsilon")(z, s.noise_point(t)).double()
        x0 = (z - (1 - a).sqrt() * eps) / a.sqrt()
        deviation = eta * ((1 - b) / (1 - a) * (1 - a / b)).sqrt()
        z = b.sqrt() * x0 + (1 - b - deviation**2).sqrt() * eps + deviation * noises[i]
    assert torch.allclose(got.double(), z, atol=1e-5)


def test_grid_starts_and_stops_exactly() -> None:
    s = schedule()
    assert grid(s.point(0.3), CLEAN, 1000, 1000) == list(range(300, -2, -1))
    assert grid(s.point(0.55), CLEAN, 24, 1000) == [
        550, 511, 472, 432, 393, 354, 314, 275, 236, 196, 157, 118, 78, 39, -1,
    ]  # fmt: skip
    assert grid(s.point(0.55), s.point(0.3), 4, 1000) == [550, 300]
    assert grid(s.noise_point(2), CLEAN, 1000, 100) == [2, 1, 0, -1]
    with pytest.raises(ValueError, match="from a noisier point to a cleaner one"):
        grid(s.point(0.3), s.point(0.3), 10, 1000)


@pytest.mark.parametrize("solver", ["ddim", "dpm++", "euler"])
def test_network_calls_are_the_grid_without_its_end(solver: str) -> None:
    s = schedule()
    for stop in (CLEAN, s.point(0.2)):
        points = grid(s.point(0.47), stop, 17, 1000)
        leg = Leg(s, s.point(0.47), stop, sampling(solver, 17))
        assert leg.timesteps == points[:-1]
        assert len(leg) == len(points) - 1


def test_noise_points_are_of_the_training_schedule() -> None:
    s = schedule()
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alpha = torch.cumprod(1 - betas, 0).sqrt()
    p = s.point(0.3)
    assert p.timestep == 300
    assert p.alpha == pytest.approx(float(alpha[300]), abs=1e-5)
    assert p.sigma == pytest.approx(0.64, abs=1e-3)  # DESIGN: f = 0.30 is sigma 0.64
    assert p.alpha**2 + p.sigma**2 == pytest.approx(1, abs=1e-7)
    assert s.point(0.9999).timestep == 999
    for f in (0, 1, -0.1, float("nan")):
        with pytest.raises(SegueError, match="noise"):
            s.point(f)


@pytest.mark.parametrize("own", [DPMSolverMultistepScheduler, EulerDiscreteScheduler, HeunDiscreteScheduler])
@pytest.mark.parametrize("f_stop", [None, 0.3])
def test_a_pipes_own_scheduler_solves_too(own: type, f_stop: float | None) -> None:
    scheduler = own(**SD)
    before = dict(vars(scheduler))
    s = Schedule.of(scheduler)
    start, stop = s.point(0.55), CLEAN if f_stop is None else s.point(f_stop)
    leg = Leg(s, start, stop, sampling("pipe", 300), scheduler)
    z = run(leg, marginal(start), gaussian("epsilon"), s)
    assert (z - marginal(stop)).abs().max() < (0.02 if stop == CLEAN else 0.001)
    assert all(vars(scheduler)[name] is value for name, value in before.items())


@pytest.mark.parametrize("own", [DDPMScheduler, LCMScheduler])
def test_a_pipes_scheduler_draws_the_named_noise_of_each_sample(own: type) -> None:
    scheduler, s, network = own(**SD, clip_sample=False), schedule(), gaussian("epsilon")
    start = s.point(0.55)
    noises = [torch.randn(U.shape, generator=torch.Generator().manual_seed(i)) for i in range(20)]

    def make(i: slice, seed: int) -> Tensor:
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        leg = Leg(s, start, CLEAN, sampling("pipe", 10), scheduler)
        z = run(leg, marginal(start)[i], network, s, lambda step: noises[step][i])
        assert torch.equal(torch.get_rng_state(), state)
        return z

    both = make(slice(0, 2), 0)
    assert torch.equal(both, torch.cat([make(slice(0, 1), 1), make(slice(1, 2), 2)]))
    noises.reverse()
    assert not torch.allclose(make(slice(0, 2), 0), both, atol=0.01)


def test_a_scheduler_that_cannot_start_at_a_noise_point_is_named() -> None:
    s = schedule()
    for scheduler in (
        UniPCMultistepScheduler(**SD),
        EulerAncestralDiscreteScheduler(**SD),
        EulerDiscreteScheduler(**SD, interpolation_type="log_linear"),
    ):
        with pytest.raises(SegueError, match=rf"{type(scheduler).__name__}.* noise point") as caught:
            Leg(s, s.point(0.5), CLEAN, sampling("pipe", 10), scheduler)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("own", "solver"),
    [
        (DDIMScheduler(**SD), "ddim"),
        (PNDMScheduler(**SD, skip_prk_steps=True), "dpm++"),
        (EulerDiscreteScheduler(**SD, use_karras_sigmas=True), "euler"),
        (DPMSolverMultistepScheduler(**SD, use_karras_sigmas=True), "dpm++"),
        (DPMSolverMultistepScheduler(**SD, use_lu_lambdas=True, final_sigmas_type="zero"), "dpm++"),
    ],
)
@pytest.mark.parametrize("f_stop", [None, 0.2])
def test_a_pipes_scheduler_is_driven_from_a_noise_point_and_what_is_not_its_own_is_told(
    own: Any, solver: str, f_stop: float | None
) -> None:
    """One that takes no timesteps by the solver that stands in for it; another's own spacing is left out."""
    s, network = schedule(), gaussian("epsilon")
    start, stop = s.point(0.55), CLEAN if f_stop is None else s.point(f_stop)
    ours = run(Leg(s, start, stop, sampling(solver, 12)), marginal(start), network, s)
    driven = run(Leg(s, start, stop, sampling("pipe", 12), own), marginal(start), network, s)
    assert torch.allclose(driven, ours, atol=1e-5)
    told: list[Notice] = []
    with hearing(told.append):
        warn_of_solver(sampling("pipe", 12), own)
        warn_of_solver(sampling(solver, 12), own)
    assert len(told) == 1
    assert told[0].text.startswith(f"the pipe's {type(own).__name__} ")


def test_wrong_solver_eta_and_schedule_are_named() -> None:
    s = schedule()
    with pytest.raises(SegueError, match=r"unknown solver 'unipc'; choose from dpm\+\+"):
        Leg(s, s.point(0.5), CLEAN, sampling("unipc", 10))
    with pytest.raises(SegueError, match="eta needs the solver ddim"):
        Leg(s, s.point(0.5), CLEAN, sampling("euler", 10, eta=0.2))
    with pytest.raises(SegueError, match="FlowMatchEulerDiscreteScheduler"):
        Schedule.of(FlowMatchEulerDiscreteScheduler())
    with pytest.raises(ValueError, match="needs noise"):
        run(Leg(s, s.point(0.5), CLEAN, sampling("ddim", 10, eta=0.2)), marginal(s.point(0.5)), gaussian("epsilon"), s)
