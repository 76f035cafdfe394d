"""The benchmark of speed measures what it says: the transcription is the method, the meter counts, the rule chooses."""

import itertools
from fractions import Fraction
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from shapes import interpolator
from tiny import tiny_pipe
from torch import nn

from benchmarks.speed import against, solvers
from benchmarks.speed.meter import median_ratio, metered, operations, peak_memory, turns
from benchmarks.speed.pair import Films, counted, distance
from benchmarks.speed.shares import networks_of, together
from benchmarks.speed.transcription import Procedure, frame_steps, slerp, transcribed
from segue import blend
from segue.backbone import Sampling
from segue.conditioning import ConditioningPath
from segue.noise import Noise
from segue.tensors import to_tensor
from segue.tree import FrameKey

CPU = torch.device("cpu")
FILMS = Films(Procedure(num_frames=5, num_inference_steps=20, guidance_scale=3.0), size=32)
MATCHING = {"solver": "ddim", "num_inference_steps": 20}


def test_the_transcription_and_the_engine_make_the_same_film() -> None:
    """Up to the grids: the transcription's steps are diffusers' own, the engine's begin exactly at the noise level."""
    pipe: Any = interpolator().backbone.pipe  # type: ignore[attr-defined]
    with counted(pipe.unet) as plain:
        paper = FILMS.by_the_paper(pipe)
    with counted(pipe.unet) as ours:
        engine = FILMS.by_the_engine(interpolator(), **MATCHING)
    assert plain.calls == plain.samples == ours.samples == 2 * (12 + 2 * 7)
    assert ours.calls == 12 + 7  # a level is one batch, and guidance one call
    other = Films(FILMS.procedure, size=32, seed=1).by_the_engine(interpolator(), **MATCHING)
    assert distance(paper, engine) < 0.1 * distance(engine, other)


def test_candidates_are_counted_and_the_best_stays() -> None:
    pipe: Any = tiny_pipe()
    procedure = Procedure(num_frames=3, num_inference_steps=10, candidates=2)
    pictures = [to_tensor([picture]) for picture in FILMS.pictures]

    def noise(frame: int, candidate: int) -> torch.Tensor:
        return Noise(0)("midpoint", FrameKey(0, Fraction(frame, 2)), candidate=candidate, shape=(4, 4, 4))[None]

    def score(image: torch.Tensor) -> float:
        return float(image.mean())

    def film(best: Any, **changed: Any) -> torch.Tensor:
        words = ("a cat", "a tiger")
        return transcribed(pipe, (pictures[0], pictures[1]), words, "", Procedure(**changed), noise, best)[1]

    settings = vars(procedure)
    with counted(pipe.unet) as calls:
        bright = film(score, **settings)
    steps = list(frame_steps(procedure, DDIMScheduler.from_config(pipe.scheduler.config)))
    assert calls.calls == 2 * sum(steps) == 2 * 2 * 6
    assert score(bright) > score(film(lambda image: -score(image), **settings))
    # The released code's slip makes two steps more, from another noise level than the parents have.
    with counted(pipe.unet) as calls:
        film(None, **{**settings, "candidates": 1, "slip": 2})
    assert calls.calls == 2 * (6 + 2)


def test_the_transcriptions_blend_is_the_engines() -> None:
    a, b = (torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(2))
    assert torch.allclose(slerp(a, b, 0.3), blend.slerp(a, b, 0.3), atol=1e-6)
    assert torch.allclose(slerp(a, a, 0.3), a)


def test_the_steps_of_a_film_are_counted_without_making_it() -> None:
    pipe: Any = interpolator().backbone.pipe  # type: ignore[attr-defined]
    with counted(pipe.unet) as calls:
        FILMS.by_the_engine(interpolator(), **MATCHING)
    assert 2 * against.engine_steps(pipe, FILMS.procedure, "ddim", 20) == calls.samples


def test_the_meter_knows_inside_and_outside() -> None:
    clock = itertools.count().__next__
    network, vae = nn.Linear(2, 2), tiny_pipe().vae
    with metered({"unet": network, "vae": vae}, CPU, lambda: float(clock())) as meter:
        network(torch.zeros(3, 2))
        clock()
        vae.decode(torch.zeros(1, 4, 2, 2))
        network(torch.zeros(5, 2))
    unet = meter.networks["unet"]
    assert (unet.calls, unet.samples, unet.seconds) == (2, 8, 2.0)
    assert meter.networks["vae"].calls == 1
    assert meter.seconds == 8.0  # six readings around the calls, one between them, one at the end
    assert meter.outside == pytest.approx(5 / 8)
    assert "forward" not in vars(network)
    assert "decode" not in vars(vae)


def test_operations_and_memory() -> None:
    a, b = torch.zeros(8, 4), torch.zeros(4, 16)
    assert operations(lambda: a @ b) == 2 * 8 * 4 * 16
    with peak_memory(CPU) as memory:
        torch.ones(16 * 2**20)
    if memory:  # Linux
        assert 0.05 < memory["resident"] - memory["before"] < 0.2


def test_works_take_turns() -> None:
    order: list[str] = []
    found = turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2, CPU)
    assert order == ["a", "b"] * 3  # once to warm up
    assert {name: len(times) for name, times in found.items()} == {"a": 2, "b": 2}
    assert median_ratio([2.0, 9.0, 8.0], [1.0, 3.0, 2.0]) == 3.0


def test_networks_are_found_by_name() -> None:
    assert set(networks_of(tiny_pipe())) == {"unet", "vae", "text_encoder", "pose"}


def row(solver: str, steps: int, pixels: float) -> dict[str, Any]:
    value = {"value": pixels}
    return {
        "solver": solver,
        "num_inference_steps": 2 * steps,
        "steps_by_level": [steps, steps],
        "evaluations": 100 * steps,
        "pixels": value,
        "features": value,
    }


def test_the_cheapest_near_enough_is_chosen_and_of_two_the_nearer() -> None:
    rows = {"reference": row("ddim", 500, 0.0), "other seed": row("ddim", 500, 0.4)}
    rows |= {"ddim 4": row("ddim", 4, 0.11), "dpm++ 6": row("dpm++", 6, 0.05), "ddim 6": row("ddim", 6, 0.09)}
    rows |= {"dpm++ 8": row("dpm++", 8, 0.01)}
    chosen = solvers.choice(rows)
    assert chosen is not None
    assert (chosen["solver"], chosen["num_inference_steps"]) == ("dpm++", 12)
    assert chosen["pixels_over_seeds"] == pytest.approx(0.125)
    assert solvers.choice({name: rows[name] for name in ("reference", "other seed", "ddim 4")}) is None
    assert solvers.choice({"reference": rows["reference"]}) is None


def test_films_in_one_batch_are_the_engines() -> None:
    """All pairs in one batch give what the engine gives each of them."""
    segue = interpolator()
    backbone: Any = segue.backbone
    z = backbone.encode(torch.cat([to_tensor([picture]) for picture in FILMS.pictures]))
    words = backbone.embed(["cat", "tiger"], ["", ""])
    path = ConditioningPath([(Fraction(i), words.sample(i)) for i in range(2)])
    one = solvers.Subject("one", {FrameKey(i): z[i] for i in range(2)}, path)
    sampling = Sampling(num_inference_steps=8, guidance_scale=3.0)
    with counted(backbone.pipe.unet) as calls:
        made, evaluations = solvers.films(backbone, [one, one], sampling, 0, batch=16)
    assert calls.samples == evaluations
    assert calls.calls == sum(solvers.legs(backbone, sampling))
    films = Films(Procedure(num_frames=solvers.NUM_FRAMES, guidance_scale=3.0), size=32)
    engine = films.by_the_engine(segue, num_inference_steps=8)
    for film in made:
        assert float((to_tensor(film) - engine).abs().max()) < 3 / 255


def test_files_written_at_the_same_time_count_once() -> None:
    assert together([(3.0, 4.0), (0.0, 2.0), (1.0, 2.5), (0.5, 1.0)]) == 3.5
    assert together([]) == 0
