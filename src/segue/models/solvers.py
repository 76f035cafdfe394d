"""Denoising legs: from one noise point to a cleaner one, by a scheduler of diffusers.

A leg starts exactly at its noise point's timestep t and ends at its stop's (-1 for clean). Its grid divides the way
into n equal parts, in integers,

    t_i = t - floor((t - t_stop) i / n),   n = max(1, ceil(num_inference_steps (t - t_stop) / T)),

and the scheduler makes the steps. A scheduler ends at clean by itself; to end at a noise point it is given that
point as one more step, which is left out. Variance-exploding schedulers (Euler, Heun) hold x = z / alpha.

A leg from pure noise, t = T - 1 to clean, has the timesteps that diffusers calls trailing, those on which Turbo,
Lightning and Hyper are trained; a leg that begins lower divides its own way in the same manner. A leg has at least one
call, at its own noise point: 4 steps are 2 calls from f = 0.30, 3 from 0.55.

LCM and TCD are consistency solvers. A step jumps from t to a point s, cleaner than the next one, and is diffused from
there to the next, t':

    z_s = jump(z_t, output),   z_t' = a z_s + b eps,   s = clean (LCM), s = floor((1 - gamma) t') (TCD)

The jump is the scheduler's. It would also draw eps, from a generator that no noise can be handed to, so each step is
made as its last, which draws nothing, and ``diffuse`` brings the named noise in. The last step towards clean has none.
"""

import hashlib
import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    TCDScheduler,
)
from torch import Tensor

from segue.errors import SegueError, warn
from segue.method.diffusion import CLEAN, NoisePoint, diffuse
from segue.models.backbone import Sampling

__all__ = ["SOLVERS", "Leg", "Schedule", "Solver", "grid", "warn_of_solver"]


@dataclass(frozen=True)
class Solver:
    """What a solver's name stands for."""

    meaning: str
    multistep: bool  # steps use earlier outputs of the network; each leg begins without any


SOLVERS: Mapping[str, Solver] = {
    "dpm++": Solver("DPM-Solver++ of second order, multistep (Lu et al. 2022, arXiv 2211.01095)", multistep=True),
    "ddim": Solver("DDIM, with eta as the share of fresh noise (Song et al. 2020, arXiv 2010.02502)", multistep=False),
    "euler": Solver("Euler's method over sigma / alpha (Karras et al. 2022, arXiv 2206.00364)", multistep=False),
    "lcm": Solver("Latent consistency, 1 to 8 steps (Luo et al. 2023, arXiv 2310.04378)", multistep=False),
    "tcd": Solver("Trajectory consistency, eta is its gamma (Zheng et al. 2024, arXiv 2402.19159)", multistep=False),
    "pipe": Solver("the scheduler that the pipe holds, with its own settings", multistep=True),
}


class Leg:
    """One denoising leg: ``x = leg.enter(z)``, then a step for each of ``leg.timesteps``, then ``leg.leave(x)``.

    A leg is used once: multistep solvers keep their history in it.

    Args:
        schedule: the training schedule of the checkpoint.
        start: the noise point of the latents.
        stop: the noise point to reach, cleaner than start.
        sampling: the solver, the number of steps and eta.
        scheduler: the pipe's own scheduler, for the solver "pipe"; it is copied, never changed.

    Raises:
        SegueError: the solver is unknown, takes no eta, or the pipe's scheduler cannot start at a noise point.
        ValueError: stop is not cleaner than start.
    """

    def __init__(
        self, schedule: "Schedule", start: NoisePoint, stop: NoisePoint, sampling: Sampling, scheduler: Any = None
    ) -> None:
        points = grid(start, stop, sampling.num_inference_steps, schedule.num_train_timesteps)
        self._scheduler, self._options = _scheduler(schedule, points, sampling, scheduler)
        if isinstance(self._scheduler, DDIMScheduler):
            times = torch.tensor(points[:-1])
        else:
            times = self._scheduler.timesteps
            times = times if stop == CLEAN else times[:-1]
        self._times = times
        self._gaps = [t - after for t, after in pairwise(points)]
        self._schedule = schedule
        eta = self._options.get("eta", sampling.solver in ("lcm", "pipe"))
        self.is_random = bool(eta)  # steps may use noise
        exploding = _is_variance_exploding(self._scheduler, self._scheduler.timesteps[0])
        self._enter, self._leave = (start.alpha, stop.alpha) if exploding else (1.0, 1.0)
        self._done = 0

    @property
    def timesteps(self) -> list[int]:
        """The timestep of each network call."""
        return [round(float(t)) for t in self._times]

    def __len__(self) -> int:
        return len(self._times)

    def enter(self, z: Tensor) -> Tensor:
        """Latents at the leg's start to the scheduler's own variable."""
        return z / self._enter

    def network_input(self, x: Tensor) -> Tensor:
        """What the network is given in the next step: a latent of unit variance."""
        scaled: Tensor = self._scheduler.scale_model_input(x, self._times[self._done])
        return scaled

    def step(self, output: Tensor, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Make the next step.

        Args:
            output: the network's output, (B, C, h, w) float32, in the schedule's prediction type.
            x: the scheduler's variable before the step, (B, C, h, w) float32.
            noise: standard normal noise of x's shape; the step's randomness, where the solver has any.
        """
        t: Tensor | int = self._times[self._done]
        options = dict(self._options)
        if isinstance(self._scheduler, LCMScheduler | TCDScheduler):
            return self._jump(output, x, noise)
        if isinstance(self._scheduler, DDIMScheduler):
            # The step takes its previous timestep as t - T // num_inference_steps: this makes it exact on any grid.
            self._scheduler.num_inference_steps = Fraction(
                self._scheduler.config.num_train_timesteps, self._gaps[self._done]
            )
            if noise is None:
                raise ValueError("ddim with eta above 0 needs noise in each step")
            options["variance_noise"] = noise.to(x)
            t = int(t)  # which this scheduler takes as an index
        elif self.is_random and "generator" in inspect.signature(self._scheduler.step).parameters:
            options["generator"] = _generators(noise, self._done)
        self._done += 1
        after: Tensor = self._scheduler.step(output, t, x, return_dict=False, **options)[0]
        return after

    def _jump(self, output: Tensor, x: Tensor, noise: Tensor | None) -> Tensor:
        """A step of LCM or TCD: the scheduler's jump to z_s, then its noise up to the next noise point."""
        scheduler, times, t = self._scheduler, self._scheduler.timesteps, self._times[self._done]
        self._done += 1
        scheduler.num_inference_steps = self._done  # its last step, as far as it knows
        ahead: Tensor = scheduler.step(output, t, x, return_dict=False, **self._options)[0]
        if self._done == len(times) or not self.is_random:
            return ahead
        if noise is None:
            raise ValueError("lcm, and tcd with eta above 0, need noise in each step")
        after, reached = times[self._done], CLEAN
        if isinstance(scheduler, TCDScheduler):
            reached = self._schedule.noise_point(int(torch.floor((1 - self._options["eta"]) * after)))
        return diffuse(ahead, noise.to(x), self._schedule.noise_point(int(after)), reached)

    def leave(self, x: Tensor) -> Tensor:
        """The scheduler's variable after the last step to latents at the leg's stop."""
        return x * self._leave


def grid(start: NoisePoint, stop: NoisePoint, num_inference_steps: int, num_train_timesteps: int) -> list[int]:
    """The timesteps t_0 > ... > t_n of a leg, both ends included; equal parts up to rounding."""
    t, end = round(start.timestep), round(stop.timestep)
    span = t - end
    if span <= 0:
        raise ValueError(f"a leg goes from a noisier point to a cleaner one, not from timestep {t} to {end}")
    n = max(1, -(-num_inference_steps * span // num_train_timesteps))
    n = min(n, span)
    return [t - span * i // n for i in range(n + 1)]


@dataclass(frozen=True)
class Schedule:
    """The training schedule of a checkpoint: alpha_t^2 = alphas_cumprod[t], sigma_t^2 = 1 - alpha_t^2."""

    options: Mapping[str, Any]  # the fields of a scheduler's configuration that fix the schedule
    alphas_cumprod: Tensor  # (T,) float32

    @classmethod
    def of(cls, scheduler: Any) -> "Schedule":
        """The schedule that a scheduler is configured for; raises SegueError if it has none of this kind."""
        config = scheduler.config
        options = {name: config[name] for name in SCHEDULE_FIELDS if name in config}
        if "beta_schedule" not in options or options.get("prediction_type", "epsilon") not in PREDICTION_TYPES:
            raise SegueError(
                f"the pipe's scheduler {type(scheduler).__name__} has no noise schedule of the Stable Diffusion family"
            )
        try:
            return cls(options, DPMSolverMultistepScheduler(**options).alphas_cumprod)
        except NotImplementedError as error:
            raise SegueError(f"the noise schedule '{options['beta_schedule']}' is unknown to segue") from error

    @property
    def num_train_timesteps(self) -> int:
        """T, the number of timesteps that the network was trained for."""
        return len(self.alphas_cumprod)

    @property
    def prediction_type(self) -> str:
        """What the network predicts: epsilon, v_prediction or sample."""
        return str(self.options.get("prediction_type", "epsilon"))

    def point(self, f: float, shift: float = 1.0) -> NoisePoint:
        """The noise point of a noise level 0 < f < 1: t = round(f T), with ``shift`` times its sigma / alpha."""
        if not 0 < f < 1:
            raise SegueError(f"a noise level lies between 0 and 1, not at {f:g} (noise)")
        t = min(round(f * self.num_train_timesteps), self.num_train_timesteps - 1)
        if shift != 1:
            ratios = (1 / self.alphas_cumprod.double() - 1).sqrt().log()  # of sigma to alpha
            t = int((ratios - ratios[t] - math.log(shift)).abs().argmin())
        return self.noise_point(t)

    def noise_point(self, t: int) -> NoisePoint:
        """The noise point of a timestep 0 <= t < T."""
        if not 0 <= t < self.num_train_timesteps:
            raise ValueError(f"timesteps lie between 0 and {self.num_train_timesteps - 1}, not at {t}")
        alpha_squared = float(self.alphas_cumprod[t])
        return NoisePoint(t, alpha_squared**0.5, (1 - alpha_squared) ** 0.5)

    def epsilon(self, output: Tensor, z: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The network's output on z as eps_hat; for v, eps_hat = alpha v + sigma z (Salimans and Ho 2022)."""
        match self.prediction_type:
            case "v_prediction":
                return alpha * output + sigma * z
            case "sample":
                return (z - alpha * output) / sigma
            case _:
                return output


SCHEDULE_FIELDS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "rescale_betas_zero_snr",
)
ELSE = "name a solver instead: dpm++, ddim or euler"
# Solvers that stand in for schedulers which take no timesteps: DDIM's own, and for PNDM, also a multistep method.
STAND_INS: Mapping[type[Any], str] = {DDIMScheduler: "ddim", PNDMScheduler: "dpm++"}
# Options that space a whole schedule in another way; the steps of a leg are spaced by ``grid``.
SPACINGS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")
GAMMA = 0.3  # of the pipe's own TCD: the value that it is published with
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


def _scheduler(schedule: Schedule, points: list[int], sampling: Sampling, own: Any) -> tuple[Any, dict[str, Any]]:
    """A fresh scheduler with the leg's grid set, and the options of its steps."""
    if sampling.solver not in SOLVERS:
        raise SegueError(f"unknown solver '{sampling.solver}'; choose from {', '.join(SOLVERS)}")
    if sampling.eta and sampling.solver not in ("ddim", "tcd"):
        raise SegueError(f"eta needs the solver ddim or tcd, not {sampling.solver}")
    # Towards a noise point, the stop is one more step, which the leg leaves out; clean is the scheduler's own end.
    times = points if points[-1] >= 0 else points[:-1]
    solver = _stand_in(own) or "pipe" if sampling.solver == "pipe" else sampling.solver
    options: dict[str, Any] = {}
    match solver:
        case "ddim" if sampling.eta:
            fixed = {"clip_sample": False, "set_alpha_to_one": True}
            return DDIMScheduler(**schedule.options, **fixed), {"eta": sampling.eta}
        case "ddim" | "dpm++":
            order = 1 if solver == "ddim" else 2
            scheduler: Any = DPMSolverMultistepScheduler(
                **schedule.options, solver_order=order, algorithm_type="dpmsolver++", final_sigmas_type="zero"
            )
        case "euler":
            scheduler = EulerDiscreteScheduler(**schedule.options, final_sigmas_type="zero")
        case "lcm":
            scheduler = LCMScheduler(**schedule.options)
        case "tcd":
            scheduler, options = TCDScheduler(**schedule.options), {"eta": sampling.eta}
        case _:
            scheduler = _copy_scheduler(own)
            options = {"eta": GAMMA} if isinstance(scheduler, TCDScheduler) else {}
    if isinstance(scheduler, LCMScheduler | TCDScheduler):
        # What set_timesteps(timesteps=) does, without its lines about every grid but that of the training.
        scheduler.timesteps, scheduler.num_inference_steps = torch.tensor(times), len(times)
        return scheduler, options
    try:
        scheduler.set_timesteps(timesteps=times)
    except ValueError as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise SegueError(f"{type(scheduler).__name__} cannot start at a noise point: {reason}") from error
    if round(float(scheduler.timesteps[0])) != times[0] or not _has_start(scheduler, schedule.noise_point(times[0])):
        raise SegueError(f"{type(scheduler).__name__} does not start at the noise point that it is given; {ELSE}")
    return scheduler, options


def warn_of_solver(sampling: Sampling, own: Any) -> None:
    """Tell where the pipe's scheduler is not used, or not as it is.

    Warns:
        Notice: it is one of few-step checkpoints, and another solver is used; a solver stands in for it; its spacing
            of steps is left out.
    """
    name = f"the pipe's {type(own).__name__}"
    if sampling.solver != "pipe":
        if isinstance(own, LCMScheduler | TCDScheduler) and sampling.solver not in ("lcm", "tcd"):
            text = f"{name} is replaced by the solver {sampling.solver}"
            warn(f"{text}; checkpoints made for few steps look wrong with it; preset fast suits them")
    elif solver := _stand_in(own):
        warn(f"{name} cannot start at a noise point; the solver {solver} stands in for it")
    elif spacings := [option for option in SPACINGS if own.config.get(option)]:
        warn(f"{name} is used without {spacings[0]}; the steps of a film are spaced evenly from its noise levels")


def _stand_in(own: Any) -> str | None:
    """The solver that stands in for a scheduler; None for most."""
    return STAND_INS.get(type(own))


def _copy_scheduler(own: Any) -> Any:
    """The pipe's scheduler anew, by its class and configuration, without clipping of latents or its own spacing."""
    name = type(own).__name__
    if "timesteps" not in inspect.signature(own.set_timesteps).parameters:
        raise SegueError(f"the pipe's {name} cannot start at a noise point; {ELSE}")
    without = {option: False for option in ("thresholding", "clip_sample", *SPACINGS) if own.config.get(option)}
    return type(own).from_config(own.config, **without)


def _has_start(scheduler: Any, start: NoisePoint) -> bool:
    """Whether a scheduler that keeps sigmas (sigma / alpha here) has the start's as its first."""
    sigmas = getattr(scheduler, "sigmas", None)
    return sigmas is None or abs(float(sigmas[0]) * start.alpha / start.sigma - 1) < 1e-3


def _is_variance_exploding(scheduler: Any, t: Tensor) -> bool:
    """Whether the scheduler scales what it gives to the network: its variable is then z / alpha."""
    return float(scheduler.scale_model_input(torch.ones(()), t)) != 1.0


def _generators(noise: Tensor | None, step: int) -> list[torch.Generator] | torch.Generator:
    """Generators for a scheduler that draws by itself, one a sample, each seeded by the sample's named noise."""
    if noise is None:
        return torch.Generator().manual_seed(step)
    digests = [hashlib.sha256(sample.float().cpu().contiguous().numpy().tobytes()).digest() for sample in noise]
    return [torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1) for digest in digests]
