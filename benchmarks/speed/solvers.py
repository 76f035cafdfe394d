"""Which solver at how many steps gives the images of DDIM at 500 steps; so the default is chosen.

    python -m benchmarks.speed.solvers

Over pairs of ``benchmarks/pairs``, spread over its groups, the five frames between the keyframes (7 frames, three
levels of the tree) are made by each solver at each number of steps, all from the same noise. The distance of their
pixels (root mean square) and of their CLIP features (1 - cosine) to the frames of DDIM at 500 steps is set against the
distance of two noise seeds at that reference.

Steps are counted in two ways. Settings count ``num_inference_steps`` over the whole schedule, and each leg takes its
share; here the number of steps from the noise point of the first level (noise level 0.55) is fixed, and the deeper
levels take their shares of it. Both numbers are written. The rule: the default is the cheapest whose pixel distance,
averaged over all frames, is at most a quarter of that between seeds; of two that cost the same, the nearer one.

All pairs are denoised in one batch. The results of each solver are kept in the output, so a run that is stopped goes
on where it was.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.speed.meter import machine
from segue import Interpolator
from segue.backbone import CLEAN, Sampling
from segue.backbone.conditioning import TextConditioning
from segue.backbone.stable_diffusion import StableDiffusion
from segue.clip import Clip
from segue.conditioning import ConditioningPath
from segue.evaluate.manifest import Pair, read_pairs
from segue.evaluate.statistics import mean_interval
from segue.files import write_json
from segue.noise import Noise
from segue.pictures import fit, load
from segue.schemes import Level, Sample, Task, scheme_named
from segue.settings import MorphSettings
from segue.tensors import to_images, to_tensor
from segue.tree import FrameKey, UniformTree, noise_levels

PAIRS = Path(__file__).parents[1] / "pairs" / "manifest.jsonl"
NUM_FRAMES = 7
STEPS = (4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 30, 40, 60)  # from the first level's noise point
REFERENCE = Sampling(solver="ddim", num_inference_steps=500, guidance_scale=MorphSettings().guidance_scale)
ALLOWED = 0.25


@dataclass(frozen=True)
class Subject:
    """One pair, encoded: the keyframes' latents, its words, its noise."""

    name: str
    latents: Mapping[FrameKey, Tensor]
    words: ConditioningPath[TextConditioning]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a folder or hub name; pocket if not given")
    parser.add_argument("--dtype", help="what the device does well if not given")
    parser.add_argument("--device")
    parser.add_argument("--pairs", type=Path, default=PAIRS)
    parser.add_argument("--count", type=int, default=12, help="how many pairs")
    parser.add_argument("--solvers", nargs="+", default=["dpm++", "ddim", "euler"])
    parser.add_argument("--steps", nargs="+", type=int, default=list(STEPS), help="from the first level's noise point")
    parser.add_argument("--reference-steps", type=int, default=REFERENCE.num_inference_steps)
    parser.add_argument("--batch", type=int, default=16, help="frames in one network call")
    parser.add_argument("--output", type=Path, default=Path("out/speed/solvers.json"))
    arguments = parser.parse_args()
    segue = Interpolator.from_pretrained(arguments.model, dtype=arguments.dtype, device=arguments.device)
    backbone: Any = segue.backbone
    all_pairs = read_pairs(arguments.pairs)
    pairs = all_pairs[:: max(1, len(all_pairs) // arguments.count)][: arguments.count]
    subjects = [subject(backbone, pair) for pair in pairs]
    reference = Sampling(
        solver="ddim", num_inference_steps=arguments.reference_steps, guidance_scale=REFERENCE.guidance_scale
    )
    wanted = {
        "reference": (reference, 0),
        "other seed": (reference, 1),
        **{
            f"{solver} {steps}": (sampling_of(backbone, solver, steps), 0)
            for steps in sorted(arguments.steps)
            for solver in arguments.solvers
        },
    }
    # A stopped run goes on, unless it was of another kind.
    kind = {
        "fingerprint": backbone.fingerprint(),
        "pairs": [pair.name for pair in pairs],
        "reference": asdict(reference),
        "dtype": str(backbone.pipe.unet.dtype),
    }
    kept = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    rows: dict[str, Any] = kept.get("rows", {}) if kept.get("kind") == kind else {}
    clip = Clip.load()
    frames_file = arguments.output.with_suffix(".npz")
    against = Frames.read(frames_file) if "reference" in rows and frames_file.exists() else None
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    for name, (sampling, seed) in wanted.items():
        if name in rows and against is not None:
            continue
        begun = time.perf_counter()
        made, samples = films(backbone, subjects, sampling, seed, arguments.batch)
        seconds = time.perf_counter() - begun
        found = Frames.of(made, clip)
        if against is None:
            against = found
            found.write(frames_file)
        pixels, features = found.distances(against)
        rows[name] = {
            "solver": sampling.solver,
            "num_inference_steps": sampling.num_inference_steps,
            "steps_by_level": legs(backbone, sampling),
            "evaluations": samples,
            "seconds": seconds,
            "pixels": asdict(mean_interval(pixels.mean(1))),
            "features": asdict(mean_interval(features.mean(1))),
            "pixels_by_pair": pixels.mean(1).tolist(),
            "features_by_pair": features.mean(1).tolist(),
        }
        print(f"{name}: {rows[name]['steps_by_level']} steps, {seconds:.0f} s, pixels {pixels.mean():.4f}", flush=True)
        results = {"machine": machine(backbone.pipe.device), "kind": kind, "rows": rows, "choice": choice(rows)}
        write_json(arguments.output, results)
    print(said(choice(rows), rows))


def subject(backbone: StableDiffusion, pair: Pair) -> Subject:
    """Encode a pair."""
    size = (backbone.native_size, backbone.native_size)
    pictures = [fit(load(path), size) for path in (pair.a, pair.b)]
    z = backbone.encode(to_tensor(pictures))
    words = backbone.embed(list(pair.prompts or ("", "")), ["", ""])
    path = ConditioningPath([(Fraction(i), words.sample(i)) for i in range(2)])
    return Subject(pair.name, {FrameKey(i): z[i] for i in range(2)}, path)


def films(
    backbone: StableDiffusion, subjects: Sequence[Subject], sampling: Sampling, seed: int, batch: int
) -> tuple[list[list[Image.Image]], int]:
    """The made frames of all pairs in order, and the network's evaluations (samples in its calls).

    The films are made level by level together, as many frames in one network call as are asked for.
    """
    settings = MorphSettings()
    levels = noise_levels(UniformTree.depth(NUM_FRAMES, 2), *settings.noise, settings.noise_spacing)
    tree = UniformTree(1, NUM_FRAMES, levels, 2)
    schemes = [scheme_named("branching")(_task(backbone, s, tree, seed)) for s in subjects]
    latents: list[dict[FrameKey, Tensor]] = [{} for _ in subjects]
    evaluations = 0
    asked: list[Level | None] = [next(scheme) for scheme in schemes]
    while asked[0] is not None:
        level = asked[0]  # all films have the same tree
        jobs = [
            (i, key, found.blend(Sample(key)), subjects[i].words(key.place))
            for i, found in enumerate(asked)
            if found is not None
            for key in found.parents
        ]
        with backbone.evaluating():
            for at in range(0, len(jobs), batch):
                part = jobs[at : at + batch]
                z = torch.stack([blend for _, _, blend, _ in part])
                words = TextConditioning.stack([conditioning for *_, conditioning in part])
                done = backbone.denoise(z, words, level.start, level.stop, sampling=sampling)
                evaluations += 2 * len(part) * backbone.steps(level.start, level.stop, sampling)
                for (i, key, _, _), result in zip(part, done, strict=True):
                    latents[i][key] = result
        asked = [_sent(scheme, {key: latents[i][key] for key in level.parents}) for i, scheme in enumerate(schemes)]
    with backbone.evaluating():
        made = [[to_images(backbone.decode(z[None]))[0] for _, z in sorted(found.items())] for found in latents]
    return made, evaluations


def _sent(scheme: Any, chosen: Mapping[FrameKey, Tensor]) -> Level | None:
    """A scheme's next level; None at its end."""
    try:
        level: Level = scheme.send(chosen)
    except StopIteration:
        return None
    return level


def _task(backbone: StableDiffusion, of: Subject, tree: UniformTree, seed: int) -> Task:
    shape = of.latents[FrameKey(0)].shape
    noise = Noise(seed)

    def named(purpose: str, key: FrameKey, candidate: int = 0, step: int = 0) -> Tensor:
        return noise(purpose, key, candidate=candidate, step=step, shape=shape)

    return Task(latents=of.latents, tree=tree, point=backbone.point, noise=named)


def sampling_of(backbone: StableDiffusion, solver: str, steps: int) -> Sampling:
    """The sampling with so many steps from the first level's noise point, and as many over the whole as give them."""
    start = backbone.point(MorphSettings().noise[1])
    span = round(start.timestep) + 1
    over_all = steps * backbone.schedule.num_train_timesteps // span
    sampling = Sampling(solver=solver, num_inference_steps=over_all, guidance_scale=REFERENCE.guidance_scale)
    assert legs(backbone, sampling)[0] == steps
    return sampling


def legs(backbone: StableDiffusion, sampling: Sampling) -> list[int]:
    """The steps from the noise point of each level."""
    settings = MorphSettings()
    levels = noise_levels(UniformTree.depth(NUM_FRAMES, 2), *settings.noise, settings.noise_spacing)
    return [backbone.steps(backbone.point(f), CLEAN, sampling) for f in levels]


@dataclass(frozen=True)
class Frames:
    """Frames of all pairs: pixels (P, F, D) in [0, 1] and unit vectors of CLIP (P, F, E)."""

    pixels: Any
    features: Any

    @classmethod
    def of(cls, films: Sequence[Sequence[Image.Image]], clip: Clip) -> "Frames":
        """The frames of films."""
        pixels = np.stack([[np.asarray(frame, np.float32).ravel() / 255 for frame in film] for film in films])
        return cls(pixels, np.stack([clip.images(film).numpy() for film in films]))

    @classmethod
    def read(cls, path: Path) -> "Frames":
        """The frames that were written to a file."""
        with np.load(path, allow_pickle=False) as kept:
            return cls(kept["pixels"], kept["features"])

    def write(self, path: Path) -> None:
        """Keep the frames in a file."""
        np.savez_compressed(path, pixels=self.pixels, features=self.features)

    def distances(self, other: "Frames") -> tuple[Any, Any]:
        """The distances of the frames to others of the same pairs, (P, F) each: by pixels and by features."""
        pixels = np.sqrt(np.square(self.pixels - other.pixels, dtype=np.float64).mean(-1))
        return pixels, 1 - (self.features * other.features).sum(-1)


def choice(rows: Mapping[str, Any]) -> dict[str, Any] | None:
    """The default by the rule; None where no solver is near enough, or the seeds are not measured yet."""
    if "other seed" not in rows:
        return None
    apart = rows["other seed"]
    found = [
        {
            "name": name,
            "solver": row["solver"],
            "num_inference_steps": row["num_inference_steps"],
            "steps_by_level": row["steps_by_level"],
            "evaluations": row["evaluations"],
            "pixels_over_seeds": row["pixels"]["value"] / apart["pixels"]["value"],
            "features_over_seeds": row["features"]["value"] / apart["features"]["value"],
        }
        for name, row in rows.items()
        if name not in ("reference", "other seed")
    ]
    near = [row for row in found if row["pixels_over_seeds"] <= ALLOWED]
    return min(near, key=lambda row: (row["evaluations"], row["pixels_over_seeds"])) if near else None


def said(chosen: Mapping[str, Any] | None, rows: Mapping[str, Any]) -> str:
    """The table of all solvers as Markdown, and what the rule chooses."""
    apart = rows["other seed"]
    lines = [
        "| solver | num_inference_steps | steps by level | evaluations | pixels | over seeds | features | over seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        pixels, features = row["pixels"]["value"], max(row["features"]["value"], 0.0)  # 1 - cosine, rounded
        lines.append(
            f"| {name if name in ('reference', 'other seed') else row['solver']} | {row['num_inference_steps']} | "
            f"{', '.join(map(str, row['steps_by_level']))} | {row['evaluations']} | {pixels:.4f} | "
            f"{pixels / apart['pixels']['value']:.3f} | {features:.4f} | "
            f"{features / apart['features']['value']:.3f} |"
        )
    if chosen is None:
        return "\n".join([*lines, "", "No solver is near enough at the steps that were measured."])
    return "\n".join(
        [
            *lines,
            "",
            f"The rule's answer: {chosen['solver']}, num_inference_steps {chosen['num_inference_steps']} over the "
            f"whole schedule ({chosen['steps_by_level'][0]} steps from the first level's noise point), "
            f"{chosen['pixels_over_seeds']:.3f} of the distance between seeds by pixels, "
            f"{chosen['features_over_seeds']:.3f} by features.",
        ]
    )


if __name__ == "__main__":
    main()
