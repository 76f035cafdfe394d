"""The method, top-down: keyframes in, a film's frames out.

    segue = Interpolator.from_pretrained()
    morph = segue("cat.png", "tiger.png", num_frames=17, seed=0)
    morph.save("morph.mp4")

A film is made in a run folder, and from nothing but that folder: ``__call__`` writes settings and keyframes there,
``make`` does what is missing. So making, continuing, growing, redoing and undoing are the same work.
"""

import dataclasses
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from segue import models
from segue.backbone import Backbone, Sampling
from segue.backbone.stable_diffusion import StableDiffusion, TextConditioning
from segue.caption import captions
from segue.clip import Clip
from segue.conditioning import ConditioningPath
from segue.errors import SegueError
from segue.generate import Chooser, Made, Progress, Work, generate, price
from segue.history import Attempt, Edit, Redo, Restore, Undo
from segue.inversion import invert
from segue.morph import Morph
from segue.noise import Noise
from segue.pictures import Source, common_size, fit, load, to_images, to_tensor
from segue.rank import Judge
from segue.run import RUN_FILE, RunFolder
from segue.schemes import Latents, Level, Sample, Task, scheme_named
from segue.settings import ComputeSettings, MorphSettings, as_json, checked, differences, fields, preset_settings
from segue.tree import FrameKey, GrownTree, Midpoint, Tree, UniformTree, grows, noise_levels
from segue.words import anchors, prompts

__all__ = ["Callback", "Interpolator"]

Callback = Callable[[Progress], None]


class Interpolator:
    """Makes the images between images with one diffusion model."""

    def __init__(self, pipe: Any, *, controlnet: Any = None, name: str | None = None) -> None:
        """Wrap a loaded diffusers pipeline of a supported family; it is used as it is.

        Args:
            pipe: a Stable Diffusion pipeline; its adapters, offloading and precision stay the user's business.
            controlnet: a diffusers ControlNetModel, where the pipe holds none.
            name: what to call the model in the run file; the pipe's own name if not given.
        """
        self.backbone: Backbone = StableDiffusion(pipe, controlnet)
        self.name = name or self.backbone.name

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | PathLike[str] | None = None,
        *,
        controlnet: str | PathLike[str] | None = None,
        dtype: str | None = None,
        device: str | None = None,
    ) -> Self:
        """Load a checkpoint by hub name or folder; with no name the embedded model pocket, without a network.

        Args:
            name_or_path: a hub name, a folder in diffusers layout, or None for pocket.
            controlnet: a ControlNet by hub name or folder.
            dtype: "float32", "bfloat16" or "float16"; what the device does well if not given.
            device: "cpu", "cuda", "cuda:1", "mps"; the best there is if not given.

        Raises:
            SegueError: unknown name, another family, pickled weights only, no network.
        """
        pipe = models.load(name_or_path, controlnet=controlnet, dtype=dtype, device=device)
        return cls(pipe, name=str(name_or_path or "pocket"))

    def __call__(
        self,
        *images: Source,
        output: str | PathLike[str] | None = None,
        overwrite: bool = False,
        preset: str | None = None,
        callback: Callback | None = None,
        choose: Chooser | None = None,
        **settings: Any,
    ) -> Morph:
        """Make the frames between two or more images.

        Args:
            images: paths, PIL images or arrays; the keyframes, in order.
            output: the run folder; a temporary one, gone with the Morph, if not given. An unfinished run there is
                continued, a finished one recognised, one with fewer frames grown.
            overwrite: begin anew where the folder holds a run with other settings.
            preset: values to begin with: "paper", "balanced" or "draft".
            callback: is handed a Progress after each step.
            choose: picks among the candidates of each frame.
            settings: any field of MorphSettings and ComputeSettings.

        Returns:
            The film; its frames are read from the run folder when they are asked for.

        Raises:
            SegueError: an image or setting is wrong, or the folder holds a run with other settings.
        """
        morph_settings, compute = _settings(preset, settings)
        pictures = [load(image, background=morph_settings.background) for image in images]
        if len(pictures) < 2:
            raise SegueError(f"a film needs two images or more, not {len(pictures)}")
        size = common_size(
            pictures, self.backbone.multiple_of, width=morph_settings.width, height=morph_settings.height
        )
        keyframes = [fit(picture, size, morph_settings.fit, morph_settings.background) for picture in pictures]
        temporary = None if output else tempfile.TemporaryDirectory(prefix="segue-")
        with RunFolder(Path(output or str(temporary and temporary.name))) as run:
            self._begin(run, keyframes, [_source(image) for image in images], morph_settings, compute, overwrite)
            self.make(run, compute, callback=callback, choose=choose)
            return Morph(run.path, temporary)

    def make(
        self,
        run: RunFolder,
        compute: ComputeSettings | None = None,
        *,
        callback: Callback | None = None,
        choose: Chooser | None = None,
    ) -> None:
        """Make everything of a run that is not there yet: the method of the paper's section 4."""
        compute, report = compute or ComputeSettings(), callback or (lambda _progress: None)
        data = _opened(run)
        settings = checked(MorphSettings, data["settings"])
        noise = _EditedNoise(run, settings.seed, self._latent_shape(data["size"]))

        # Encode the keyframes.
        keyframes = {FrameKey(i): _read(run.frame(FrameKey(i))) for i in range(len(data["keyframes"]))}
        latents = self._encoded(run, keyframes, [keyframe["pixels"] for keyframe in data["keyframes"]])

        # Fit the words to the images (section 4.2).
        words = self._words(run, settings, list(keyframes.values()), latents, report)

        # The tree of midpoints, closed where the film is a loop.
        count = len(keyframes)
        if settings.loop:
            latents[FrameKey(count)] = latents[FrameKey(0)]
            run.save_keyframe(FrameKey(count), keyframes[FrameKey(0)])
        tree = _tree(settings, len(latents) - 1, data.get("grown", []))
        task = Task(
            latents=latents,
            tree=tree,
            point=self.backbone.point,
            noise=noise,
            noise_range=(*settings.noise, settings.noise_spacing),
            bias=settings.bias,
            retroactive=settings.retroactive,
            noise_of=lambda midpoint: _noise_of(run, midpoint),
        )

        # Blend and denoise level by level (section 4.1), keep the best candidate of each (section 4.4).
        sampling = _sampling(settings)
        work = Work(
            backbone=self.backbone,
            sampling=sampling,
            run=run,
            batch_size=data["batch_size"],
            conditioning=words,
            noise=noise,
            candidates=lambda level: settings.candidates_at(level.number),
            picture=lambda _key, image: to_images(image[None])[0],
            judge=_judge(settings),
            choose=choose,
            report=report,
            cost=price(scheme_named(settings.scheme)(_weightless(task)), self.backbone, sampling, _counts(settings)),
            keep_candidates=compute.keep_candidates,
        )
        recipes = {key: data["keyframes"][key.pair % count]["pixels"] for key in tree.keyframes}
        report(Progress("frames", levels=work.cost.levels, total=work.cost.frames, steps=work.cost.steps))
        with self.backbone.evaluating():
            made = {frame.key: frame for frame in generate(scheme_named(settings.scheme)(task), work, recipes)}
        run.forget_frames([*tree.keyframes, *made])
        run.write("state.json", _state(tree.keyframes, made))

    def redo(
        self,
        output: str | PathLike[str],
        frame: FrameKey,
        edit: Edit | None = None,
        *,
        candidate: int | None = None,
        callback: Callback | None = None,
        choose: Chooser | None = None,
    ) -> Morph:
        """Make one frame of a finished film and its descendants again, and nothing else.

        Args:
            output: the run folder.
            frame: the frame, not a keyframe.
            edit: the frame's own prompt, seed, noise level or pose; without one only its noise is new.
            candidate: show this one of its candidates instead of making new ones.
            callback, choose: as of the call.
        """
        with RunFolder(Path(output)) as run:
            data = _opened(run)
            self._same_model(run, data)
            run.record(_redo(run, checked(MorphSettings, data["settings"]), frame, edit, candidate))
            self.make(run, callback=callback, choose=choose)
            return Morph(run.path)

    def undo(self, output: str | PathLike[str], *, callback: Callback | None = None) -> Morph:
        """Bring back what was there before the last redo of a film."""
        return self._step(output, Undo(), callback)

    def restore(self, output: str | PathLike[str], *, callback: Callback | None = None) -> Morph:
        """Take the last undo of a film back."""
        return self._step(output, Restore(), callback)

    def invert(
        self, *images: Source, output: str | PathLike[str], callback: Callback | None = None, **settings: Any
    ) -> None:
        """Fit the words of a film to its keyframes, and make no frame; a later call makes the film with them."""
        morph_settings, compute = _settings(None, settings)
        if not morph_settings.inversion_iterations:
            raise SegueError("inversion_iterations is 0: nothing would be fitted; the paper uses 100 to 500")
        pictures = [load(image, background=morph_settings.background) for image in images]
        size = common_size(
            pictures, self.backbone.multiple_of, width=morph_settings.width, height=morph_settings.height
        )
        keyframes = [fit(picture, size, morph_settings.fit, morph_settings.background) for picture in pictures]
        with RunFolder(Path(output)) as run:
            self._begin(run, keyframes, [_source(image) for image in images], morph_settings, compute, overwrite=False)
            shown = {FrameKey(i): keyframe for i, keyframe in enumerate(keyframes)}
            latents = self._encoded(run, shown, [_pixels(keyframe) for keyframe in keyframes])
            self._words(run, morph_settings, keyframes, latents, callback or (lambda _progress: None))

    # The run's beginning.

    def _begin(
        self,
        run: RunFolder,
        keyframes: Sequence[Image.Image],
        sources: Sequence[str],
        settings: MorphSettings,
        compute: ComputeSettings,
        overwrite: bool,
    ) -> None:
        """Write what determines the images, or compare it with what the folder holds."""
        size = keyframes[0].size
        fresh: dict[str, Any] = {
            "settings": as_json(settings),
            "size": list(size),
            "keyframes": [
                {"source": source, "pixels": _pixels(keyframe)}
                for source, keyframe in zip(sources, keyframes, strict=True)
            ],
            "model": {"name": self.name, "fingerprint": self.backbone.fingerprint()},
        }
        there = run.read(RUN_FILE)
        grown = list(there.get("grown", [])) if there else []
        if there is not None:
            changes = _changes(there, fresh)
            before, after = there["settings"]["num_frames"], settings.num_frames
            if (
                list(changes) == ["num_frames"]
                and settings.scheme == "branching"
                and grows(before, after, settings.branching)
            ):
                grown.append(before)
            elif changes and not overwrite:
                raise SegueError(
                    f"{run.path} holds a run with other settings ({'; '.join(changes.values())}); "
                    "choose another output, or overwrite it"
                )
            elif changes:
                _clear(run)
                there, grown = None, []
        batch_size = compute.batch_size or (there or {}).get("batch_size") or _batch_size(size)
        for i, keyframe in enumerate(keyframes):
            run.save_keyframe(FrameKey(i), keyframe)
        run.write(RUN_FILE, {**fresh, "grown": grown, "batch_size": batch_size, "versions": _versions()})

    def _same_model(self, run: RunFolder, data: Mapping[str, Any]) -> None:
        """SegueError where a run was made with another model than this."""
        model = data["model"]
        if model["fingerprint"] != self.backbone.fingerprint():
            raise SegueError(
                f"{run.path} was made with {model['name']} (weights {model['fingerprint'][:12]}), not with {self.name}"
            )

    def _step(self, output: str | PathLike[str], event: Undo | Restore, callback: Callback | None) -> Morph:
        """Record an undo or a restore, and show the frames that count then."""
        with RunFolder(Path(output)) as run:
            self._same_model(run, _opened(run))
            if isinstance(event, Undo) and run.history.undoable is None:
                raise SegueError(f"{run.path} has nothing to undo")
            if isinstance(event, Restore) and not run.history.restorable:
                raise SegueError(f"{run.path} has no undo to take back")
            run.record(event)
            self.make(run, callback=callback)
            return Morph(run.path)

    # The parts of the method.

    def _latent_shape(self, size: Sequence[int]) -> tuple[int, int, int]:
        """The shape (C, h, w) of the latents of pictures of (width, height) pixels."""
        scale = self.backbone.latent_scale
        return self.backbone.latent_channels, size[1] // scale, size[0] // scale

    def _encoded(
        self, run: RunFolder, keyframes: Mapping[FrameKey, Image.Image], digests: Sequence[str]
    ) -> dict[FrameKey, Tensor]:
        """The clean latents of the keyframes, one network call each, kept in the run."""
        latents: dict[FrameKey, Tensor] = {}
        for (key, picture), digest in zip(keyframes.items(), digests, strict=True):
            recipe = f"{key.name}-{digest[:12]}"
            if run.latent(recipe) is None:
                with self.backbone.evaluating():
                    run.save_latents({recipe: self.backbone.encode(to_tensor([picture]))[0]})
            latent = run.latent(recipe)
            assert latent is not None
            latents[key] = latent
        return latents

    def _words(
        self,
        run: RunFolder,
        settings: MorphSettings,
        keyframes: Sequence[Image.Image],
        latents: Latents,
        report: Callback,
    ) -> "_Words":
        """The path of the words over the film: found, embedded, fitted to the keyframes."""
        texts = run.read("prompts.json") or {}
        if "prompts" not in texts:
            found = prompts(
                settings, len(keyframes), lambda: captions(keyframes, settings.captioner, model_name=self.name)
            )
            texts = {"prompts": list(found)}
            run.write("prompts.json", texts)
        count = len(keyframes)
        negatives = [settings.negative_prompt] * count
        with self.backbone.evaluating():
            words: Any = self.backbone.embed(texts["prompts"], negatives)
        if settings.inversion_iterations:
            words = invert(
                self.backbone,
                torch.stack([latents[FrameKey(i)] for i in range(count)]),
                words,
                settings,
                Noise(settings.seed),
                [FrameKey(i) for i in range(count)],
                pictures=keyframes,
                folder=run.path / "words",
                progress=lambda i, n: report(Progress("words", step=i, steps=n)),
            ).words
        with self.backbone.evaluating():
            placed = [
                (place, words.sample(which) if isinstance(which, int) else self.backbone.embed([which], negatives[:1]))
                for place, which in anchors(settings, count)
            ]
        return _Words(self.backbone, run, ConditioningPath(placed, settings.embedding_blend), settings.negative_prompt)


@dataclasses.dataclass
class _Words:
    """The conditioning of each sample: the film's path, or a frame's own words."""

    backbone: Backbone
    run: RunFolder
    path: ConditioningPath
    negative_prompt: str
    known: dict[tuple[str, str], TextConditioning] = dataclasses.field(default_factory=dict)

    def __call__(self, sample: Sample) -> TextConditioning:
        words = self.path(sample.key.place)
        edit = self.run.history.attempt_of(sample.key, sample.candidate).edit
        if edit.prompt is not None:
            words = dataclasses.replace(words, prompt=self._embedded(edit.prompt, self.negative_prompt).prompt)
        if edit.negative_prompt is not None:
            words = dataclasses.replace(words, negative=self._embedded("", edit.negative_prompt).negative)
        return words

    def _embedded(self, prompt: str, negative: str) -> TextConditioning:
        if (prompt, negative) not in self.known:
            found: Any = self.backbone.embed([prompt], [negative])
            self.known[prompt, negative] = found
        return self.known[prompt, negative]


@dataclasses.dataclass(frozen=True)
class _EditedNoise:
    """Named noise of a latent's shape; a frame with a seed of its own draws from that."""

    run: RunFolder
    seed: int
    shape: tuple[int, int, int]

    def __call__(self, purpose: str, key: FrameKey, candidate: int = 0, step: int = 0) -> Tensor:
        """Draw the noise of that name, (C, h, w)."""
        attempt = self.run.history.attempt_of(key, candidate)
        if attempt.edit.seed is None:
            return Noise(self.seed)(purpose, key, candidate=candidate, step=step, shape=self.shape)
        own = Noise(attempt.edit.seed)
        return own(purpose, key, candidate=candidate - attempt.first, step=step, shape=self.shape)


def _settings(preset: str | None, values: Mapping[str, Any]) -> tuple[MorphSettings, ComputeSettings]:
    """The settings of a call by kind, over those of a preset."""
    computing = {name: value for name, value in values.items() if name in fields(ComputeSettings)}
    others = {name: value for name, value in values.items() if name not in computing}
    return checked(MorphSettings, {**preset_settings(preset or "balanced"), **others}), checked(
        ComputeSettings, computing
    )


def _opened(run: RunFolder) -> dict[str, Any]:
    """What determines the images of a run; SegueError where the folder holds none."""
    data = run.read(RUN_FILE)
    if data is None:
        raise SegueError(f"{run.path} holds no run")
    return data


def _tree(settings: MorphSettings, pairs: int, grown: Sequence[int]) -> Tree:
    """The fixed tree of a film, and the smaller ones that it grew from."""
    stages = tuple(
        UniformTree(pairs, num_frames, _levels(settings, num_frames), settings.branching)
        for num_frames in (*grown, settings.num_frames)
    )
    return GrownTree(stages) if grown else stages[0]


def _levels(settings: MorphSettings, num_frames: int) -> tuple[float, ...]:
    """The noise level of each level of the tree."""
    if settings.noise_levels:
        return settings.noise_levels
    depth = UniformTree.depth(num_frames, settings.branching)
    return noise_levels(depth, *settings.noise, settings.noise_spacing)


def _noise_of(run: RunFolder, midpoint: Midpoint) -> float:
    """The noise level of a midpoint: the tree's, or that of an edit."""
    own = run.history.edit(midpoint.key).noise
    return midpoint.noise if own is None else own


def _sampling(settings: MorphSettings) -> Sampling:
    return Sampling(
        solver=settings.solver,
        num_inference_steps=settings.num_inference_steps,
        guidance_scale=settings.guidance_scale,
        eta=settings.eta,
        control_start=settings.control_start,
        control_end=settings.control_end,
    )


def _judge(settings: MorphSettings) -> Judge | None:
    """The ranking, where prompts to rank for or against are given."""
    if not settings.rank_for and not settings.rank_against:
        return None
    return Judge(Clip.load(settings.ranker), settings.rank_for, settings.rank_against)


def _counts(settings: MorphSettings) -> Callable[[Level], int]:
    return lambda level: settings.candidates_at(level.number)


def _weightless(task: Task) -> Task:
    """The same task on latents of one number each, to count what it costs."""
    zero = torch.zeros(1, 1, 1)
    return dataclasses.replace(
        task, latents=dict.fromkeys(task.latents, zero), noise=lambda _purpose, _key, _candidate=0, step=0: zero * step
    )


def _redo(run: RunFolder, settings: MorphSettings, frame: FrameKey, edit: Edit | None, candidate: int | None) -> Redo:
    """The journal's line for making a frame again."""
    if settings.scheme != "branching":
        raise SegueError(f"only frames made by the scheme branching can be made again, not by {settings.scheme}")
    state = run.read("state.json")
    levels = {FrameKey.at(Fraction(f["place"])): f["level"] for f in (state or {}).get("frames", [])}
    if not levels:
        raise SegueError(f"{run.path} is not finished; continue it first")
    if frame.is_keyframe:
        raise SegueError(f"frame {frame} is a keyframe, which is shown as it was given")
    if frame not in levels:
        raise SegueError(f"{run.path} has no frame at {frame}")
    count = settings.candidates_at(levels[frame])
    next_candidate = run.history.next_candidate(frame, count)
    if candidate is None:
        return Redo(Attempt(frame, next_candidate, count, edit or run.history.edit(frame)))
    if edit is not None:
        raise SegueError("a candidate that is there already cannot take another prompt, seed, noise level or pose")
    if not 0 <= candidate < next_candidate:
        raise SegueError(f"frame {frame} has candidates 0 to {next_candidate - 1}, not {candidate}")
    return Redo(key=frame, candidate=candidate)


def _changes(there: Mapping[str, Any], fresh: Mapping[str, Any]) -> dict[str, str]:
    """What differs between two runs, by name."""
    changed = {text.partition(":")[0]: text for text in differences(there["settings"], fresh["settings"])}
    if there["size"] != fresh["size"]:
        changed["size"] = "size: {} x {}, now {} x {}".format(*there["size"], *fresh["size"])
    if there["model"]["fingerprint"] != fresh["model"]["fingerprint"]:
        changed["model"] = f"model: {there['model']['name']}, now {fresh['model']['name']} with other weights"
    before, after = ([keyframe["pixels"] for keyframe in data["keyframes"]] for data in (there, fresh))
    if before != after:
        names = ["/".join(keyframe["source"] for keyframe in data["keyframes"]) for data in (there, fresh)]
        changed["keyframes"] = f"keyframes: {names[0]}, now {names[1]}" + (
            " with other pixels" if names[0] == names[1] else ""
        )
    return changed


def _clear(run: RunFolder) -> None:
    """Empty a run folder to begin anew; the run file goes first, so that no half of a run is left."""
    (run.path / RUN_FILE).unlink()
    for path in run.path.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "lock":
            path.unlink()
    run.reset()


def _state(keyframes: Sequence[FrameKey], made: Mapping[FrameKey, Made]) -> dict[str, Any]:
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
            "recipe": frame.recipe,
        }
        for key, frame in made.items()
    ]
    return {"frames": sorted(given + others, key=lambda frame: Fraction(str(frame["place"])))}


def _batch_size(size: Sequence[int]) -> int:
    """Frames in one network call: about a million pixels."""
    return max(1, min(16, 2**20 // (size[0] * size[1])))


def _read(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def _pixels(picture: Image.Image) -> str:
    """A digest of a picture's size and pixels."""
    return hashlib.sha256(repr(picture.size).encode() + np.asarray(picture).tobytes()).hexdigest()


def _source(image: Source) -> str:
    """What a keyframe was given as."""
    return str(image) if isinstance(image, str | PathLike) else type(image).__name__


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("segue", "torch", "diffusers", "transformers")}
