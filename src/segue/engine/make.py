"""Section 4 of the paper, top-down: the keyframes of a run in, the frames between them out.

With z_l, z_r the clean latents of a midpoint's parents, w its weight between them, eps one noise for both and
(alpha, sigma) the noise point of its level, the midpoint is

    z_m = denoised(slerp(alpha z_l + sigma eps, alpha z_r + sigma eps, w); c_s)

under the conditioning c_s of its place s. Everything is read from the run folder and kept there, and only what is
missing is made. So making a film, continuing it, growing it and making frames again are the same work.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Any

from torch import Tensor

from segue.engine.adapters import DecidedTree, EditedNoise, FrameDistance
from segue.engine.cache_keys import CacheKeys
from segue.engine.choosing import Choosing
from segue.engine.clock import Clock
from segue.engine.control import controls_of, find_poses, keep_edits, keypoints_of
from segue.engine.cost import cost_of, sampling_of
from segue.engine.dialogue import Chooser, Made, Progress
from segue.engine.drawing import Drawing
from segue.engine.driver import Denoising, Driver
from segue.engine.fitting import FittedLoras, fit_loras
from segue.engine.keyframes import alpha_lifter, correspondences, encode_keyframes, images_of, read_keyframes, sight_of
from segue.engine.plan import candidates_of, motion_of, noise_of, tree_of
from segue.engine.rank import Judge, judge_of
from segue.engine.wording import words_of
from segue.method.blend import slerp
from segue.method.catalogue import find_scheme
from segue.method.colour import ColourMatch
from segue.method.detail import Detail
from segue.method.diffusion import NoisePoint
from segue.method.schemes import Task
from segue.method.tree import FrameKey
from segue.models.backbone import Backbone
from segue.run.folder import RunFolder
from segue.run.given import matches_of
from segue.run.start import read_run, settings_of

__all__ = ["Hooks", "blend", "make"]


@dataclass(frozen=True)
class Hooks:
    """Who takes part: whom progress is reported to, who picks candidates, what ranks them, whether all are kept."""

    report: Callable[[Progress], None]
    choose: Chooser | None = None
    judge: Judge | None = None
    keep_candidates: bool = False


def blend(z_l: Tensor, z_r: Tensor, eps: Tensor, point: NoisePoint, w: float) -> Tensor:
    """Section 4.1: both parents diffused with one noise, and blended; (B, C, h, w) each."""
    alpha, sigma = point.alpha, point.sigma
    return slerp(alpha * z_l + sigma * eps, alpha * z_r + sigma * eps, w)


def make(backbone: Backbone, name: str, run: RunFolder, hooks: Hooks) -> None:
    """Make everything of a run that is not there yet; ``name`` is the model's, which captions are found for."""
    data = read_run(run)
    settings = settings_of(run, data)

    # Section 4: the keyframes' latents, at the size that the network works at.
    keyframes = read_keyframes(run, data, settings)
    z = encode_keyframes(backbone, run, keyframes)

    # Section 4.2: words, fitted to the keyframes; slerp between them.
    words = words_of(backbone, run, settings, keyframes.given, z, model_name=name, report=hooks.report)

    # DiffMorpher's: a LoRA for each keyframe; blended by place.
    fitted = FittedLoras()
    if settings.lora_steps:
        options: dict[str, Any] = {"steps": settings.lora_steps, "seed": settings.seed, "folder": run.path / "words"}
        fitted = fit_loras(backbone, z, keyframes.digests, words.path, report=hooks.report, **options)
        words = replace(words, lora_weights=fitted.weigh)

    # Section 4.3: the keyframes' poses.
    find_poses(run, settings, keyframes.given, keyframes.given_shown, backbone)

    # Ours: which places of neighbouring keyframes correspond, so that parents are seen from the midpoint's place.
    known = partial(keypoints_of, run, count=keyframes.count)
    bends = correspondences(run, settings, keyframes, backbone, matches_of(run), known) if settings.align else None
    sight = sight_of(settings, keyframes, backbone, bends, run.shown_image)

    # Section 4.3: poses, linear between the keyframes', drawn for the ControlNet.
    controls = controls_of(run, settings, keyframes.given, backbone, data["model"].get("controlnet") or "", bends)
    conditioning = replace(words, controls=controls)

    # Section 4.1: level by level, from the largest noise to the smallest; see ``blend``.
    channels, height, width = z[FrameKey(0)].shape
    noise = EditedNoise(run, settings.seed, (channels, height, width), sight.aligned)
    tree = tree_of(settings, len(z) - 1, data.get("grown", []), sight.aligned)
    leading: set[FrameKey] = set()
    point = partial(backbone.point, shift=settings.noise_shift)
    task = Task(
        z,
        DecidedTree.of(run, tree),
        point,
        noise,
        blend,
        sight,
        noise_range=settings.noise_range,
        bias=settings.bias,
        retroactive=settings.retroactive,
        noise_of=partial(noise_of, run),
        distance=FrameDistance(run, settings.network),
        leads=leading.__contains__,
    )
    scheme = find_scheme(settings.scheme)(task)
    denoising = Denoising(backbone, sampling_of(settings), conditioning, noise)

    # Ours: what autoencoder and denoiser lose of the keyframes is given back to the frames.
    cache_keys, images = CacheKeys(run, point, keyframes.digests), images_of(keyframes.shown)
    decode, motion = partial(backbone.decode, screened=False), motion_of(settings)
    detail = Detail(images, z, decode, settings.detail, motion, bends, noise.has_seed)
    match = ColourMatch(images, settings.colour_match)
    lift = alpha_lifter(run, keyframes.shown, bends, motion, data.get("ground"))
    drawing = Drawing(backbone, run, cache_keys, tuple(data["size"]), detail, match, lift)

    # Section 4.4: of several candidates the best stays.
    ask = hooks.choose and keep_edits(hooks.choose, run, data, settings, backbone)
    judge = hooks.judge or judge_of(settings)
    choosing = Choosing(run, cache_keys, candidates_of(settings), judge=judge, ask=ask, keeps_all=hooks.keep_candidates)

    # Make what is missing, and note what the film now is.
    clock = Clock(cost_of(task, tree, settings, backbone, detail), hooks.report)
    clock.begin()
    drive = Driver(run, denoising, cache_keys, drawing, choosing, clock, leading, data["batch_size"])
    with backbone.adapting(fitted.loras):
        made = {frame.key: frame for frame in drive(scheme)}
    run.take_place()  # of a film without a frame in between, too
    run.forget_frames([*tree.keyframes, *made])
    run.write("state.json", _state(keyframes.shown, made))


def _state(keyframes: Mapping[FrameKey, Any], made: Mapping[FrameKey, Made]) -> dict[str, Any]:
    """The film's frames as they now are."""
    given = [{"place": str(key.place), "name": key.name, "keyframe": True, "level": -1} for key in keyframes]
    others = [
        {
            "place": str(key.place),
            "name": key.name,
            "keyframe": False,
            "level": frame.level,
            "parents": [str(parent.place) for parent in frame.parents],
            "candidate": frame.candidate,
            "cache_key": frame.cache_key,
            "candidates": {str(number): cache_key for number, cache_key in frame.candidates.items()},
            "scores": {str(number): score for number, score in frame.scores.items()},
        }
        for key, frame in made.items()
    ]
    return {"frames": sorted(given + others, key=lambda frame: Fraction(str(frame["place"])))}
