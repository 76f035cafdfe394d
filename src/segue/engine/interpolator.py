"""The method, top-down: keyframes in, a film's frames out.

    segue = Interpolator.from_pretrained()
    morph = segue("cat.png", "tiger.png", num_frames=17, seed=0)
    morph.save("morph.mp4")

A film is made in a run folder, and from nothing but that folder: ``__call__`` writes settings and keyframes there,
``make`` does what is missing. So making, continuing, growing, remaking and undoing are the same work.
"""

import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, Self, Unpack

from PIL import Image
from torch import Tensor

from segue.engine.adapters import DecidedTree, EditedNoise, Look
from segue.engine.bar import Bar, is_notebook
from segue.engine.control import (
    controls_of,
    find_poses,
    keeping_poses,
    kept_edit,
    keypoints_of,
    read_given,
    tell_unguided,
)
from segue.engine.cost import cost_of, sampling_of
from segue.engine.dialogue import Chooser, Made, Progress
from segue.engine.driver import Work, generate
from segue.engine.keyframes import (
    camera,
    correspondences,
    encoded,
    fitted,
    images_of,
    lifting,
    loaded,
    sizes,
    warn_of_crops,
    warn_of_scenes,
)
from segue.engine.plan import (
    candidates_of,
    check_plan,
    motion_of,
    noise_of,
    tree_of,
    warn_of_candidates,
    warn_of_noise,
)
from segue.engine.rank import Judge
from segue.engine.wording import Words, wording
from segue.errors import SegueError
from segue.film.morph import Morph
from segue.machine import within_memory
from segue.method.bend import Bends, BentPictures
from segue.method.colour import ColourMatch
from segue.method.detail import Detail, enlarged
from segue.method.perceptual import PerceptualTree
from segue.method.schemes import Latents, Sample, Task, scheme_named
from segue.method.tree import FrameKey
from segue.models import loading
from segue.models.backbone import Backbone
from segue.models.clip import Clip
from segue.models.features.networks import network_kept
from segue.models.stable_diffusion import StableDiffusion
from segue.pictures.alpha import laid_on
from segue.pictures.images import Source, digest, fit, shown_size
from segue.pictures.tensors import to_images, to_tensor
from segue.run.folder import RunFolder
from segue.run.given import Given, matches_of
from segue.run.journal import Edit, Redo, Undo, as_edit
from segue.run.start import BatchSize, begin, opened, remade, settings_of
from segue.settings.keywords import MorphValues
from segue.settings.kinds import (
    ComputeSettings,
    ModelSettings,
    MorphSettings,
    checked,
    fields,
    model_differences,
    with_preset,
)

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
        self.low_memory = False
        self._loaded: dict[str, str | None] = {}

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | PathLike[str] | None = None,
        *,
        controlnet: str | PathLike[str] | None = None,
        dtype: str | None = None,
        device: str | None = None,
        low_memory: bool = False,
    ) -> Self:
        """Load a checkpoint by hub name or folder; with no name the embedded model pocket, without a network.

        Args:
            name_or_path: a hub name, a folder in diffusers layout, or None for pocket.
            controlnet: a ControlNet by hub name or folder.
            dtype: "float32", "bfloat16" or "float16"; what the device does well if not given.
            device: "cpu", "cuda", "cuda:1", "mps"; the best there is if not given.
            low_memory: keep on an accelerator only the network that computes; one frame at a time, in tiles.

        Raises:
            SegueError: unknown name, another family, pickled weights only, no network.
        """
        pipe = loading.load(name_or_path, controlnet=controlnet, dtype=dtype, device=device, low_memory=low_memory)
        interpolator = cls(pipe, name=_named(name_or_path or "pocket"))
        interpolator.low_memory = low_memory
        used = str(pipe.unet.dtype).removeprefix("torch.")
        interpolator._loaded = {"controlnet": _named(controlnet), "dtype": used}
        return interpolator

    @classmethod
    def loaded(cls, settings: ModelSettings) -> Self:
        """``from_pretrained`` with settings."""
        values = dataclasses.asdict(settings)
        return cls.from_pretrained(values.pop("model"), **values)

    def __call__(
        self,
        *images: Source | Sequence[Source],
        output: str | PathLike[str] | None = None,
        overwrite: bool = False,
        preset: str | None = None,
        callback: Callback | None = None,
        choose: Chooser | None = None,
        **settings: Unpack[MorphValues],
    ) -> Morph:
        """Make the frames between two or more images.

        Args:
            images: paths, PIL images or arrays; the keyframes, in order, each by itself or all in one list.
            output: the run folder; a temporary one, gone with the Morph, if not given. An unfinished run there is
                continued, a finished one recognised, one with fewer frames grown.
            overwrite: begin anew where the folder holds a run with other settings.
            preset: values to begin with: "paper", "balanced" or "draft".
            callback: is handed a Progress after each step, such as a ``Bar``; in a notebook a Bar if not given.
            choose: picks among the candidates of each frame.
            settings: any field of MorphSettings and ComputeSettings.

        Returns:
            The film; its frames are read from the run folder when they are asked for.

        Raises:
            SegueError: an image or setting is wrong, or the folder holds a run with other settings.
        """
        morph_settings, compute = self._settings(preset, settings)
        sources = _sources(images)
        keyframes, network, given = self._prepared(sources, morph_settings)
        judge = _judge(morph_settings)
        if morph_settings.scheme != "interpolate":
            warn_of_noise(morph_settings.noise_levels or morph_settings.noise, aligned=morph_settings.align)
        if choose is None and not compute.keep_candidates:
            warn_of_candidates(morph_settings)
        if morph_settings.spacing == "perceptual":
            network_kept(morph_settings.look)  # an error here too
        if output is not None and not str(output):
            raise SegueError("output is an empty name; leave it out for a temporary film")
        path = Path(tempfile.mkdtemp(prefix="segue-") if output is None else output)
        try:
            with RunFolder(path, overwrites=overwrite) as run, self.backbone.evaluating():
                begin(
                    run,
                    keyframes,
                    [_source(image) for image in sources],
                    morph_settings,
                    self._batch_size(compute, network),
                    self.model,
                    given=given,
                    network=network,
                    overwrite=overwrite,
                )
                self.make(run, compute, callback=callback, choose=choose, judge=judge)
                return Morph(run.path, temporary=output is None)
        except BaseException:
            if output is None:
                shutil.rmtree(path, ignore_errors=True)
            raise

    @within_memory()
    def make(
        self,
        run: RunFolder,
        compute: ComputeSettings | None = None,
        *,
        callback: Callback | None = None,
        choose: Chooser | None = None,
        judge: Judge | None = None,
    ) -> None:
        """Make everything of a run that is not there yet: the method of the paper's section 4.

        Args:
            run: the run folder, open.
            compute: how to compute it.
            callback: is handed a Progress after each step.
            choose: picks among the candidates of each frame.
            judge: ranks candidates; loaded as the run's settings say if not given.
        """
        with self.backbone.evaluating():
            self._make(run, compute or ComputeSettings(), _report(callback), choose, judge)

    def _make(
        self, run: RunFolder, compute: ComputeSettings, report: Callback, choose: Chooser | None, judge: Judge | None
    ) -> None:
        """The steps of ``make``."""
        data = opened(run)
        settings = settings_of(run, data)
        size: tuple[int, int] = tuple(data.get("network", data["size"]))

        # Encode the keyframes, at the size that the network works at.
        shown = {FrameKey(i): run.shown(FrameKey(i)) for i in range(len(data["keyframes"]))}
        keyframes = {key: fit(keyframe, size, "stretch") for key, keyframe in shown.items()}
        latents = encoded(self.backbone, run, keyframes, [keyframe["pixels"] for keyframe in data["keyframes"]])

        # Fit the words to the images (section 4.2).
        words = self._wording(run, settings, list(keyframes.values()), latents, report)

        # A loop closes with its first keyframe.
        count = len(keyframes)
        if settings.loop:
            latents[FrameKey(count)] = latents[FrameKey(0)]
            shown[FrameKey(count)], keyframes[FrameKey(count)] = shown[FrameKey(0)], keyframes[FrameKey(0)]
            if not run.frame(FrameKey(count)).exists():
                run.save_keyframe(FrameKey(count), run.whole(FrameKey(0)))

        # Bring neighbouring keyframes into correspondence: their poses, what the user knows, what the network sees.
        given = [keyframes[FrameKey(i)] for i in range(count)]
        find_poses(run, settings, given, [shown[FrameKey(i)] for i in range(count)], self.backbone)
        bends, images = None, images_of(shown)
        if settings.align:
            known = partial(keypoints_of, run, count=count)
            bends = correspondences(run, settings, list(keyframes.values()), self.backbone, matches_of(run), known)
        aligned = bends.aligned if bends else frozenset()
        sight = self._sight(run, settings, keyframes, shown, bends)

        # Interpolate poses, or fade control images (section 4.3).
        name = str(data["model"].get("controlnet") or "")
        words.controls = controls_of(run, settings, given, self.backbone, name, bends)

        noise = EditedNoise(run, settings.seed, self._latent_shape(size), aligned)
        tree = tree_of(settings, len(latents) - 1, data.get("grown", []), aligned)
        leading: set[FrameKey] = set()
        task = Task(
            latents=latents,
            tree=DecidedTree(run, tree) if isinstance(tree, PerceptualTree) else tree,
            point=self.backbone.point,
            noise=noise,
            noise_range=(*settings.noise, settings.noise_spacing),
            bias=settings.bias,
            retroactive=settings.retroactive,
            noise_of=partial(noise_of, run),
            distance=Look(run, settings.look),
            aligned=aligned,
            leads=leading.__contains__,
            **sight,
        )
        decode = partial(self.backbone.decode, screened=False)
        detail = Detail(images, latents, decode, settings.detail, motion_of(settings), bends, noise.has_seed)
        match = ColourMatch(images, settings.colour_match)

        lift = lifting(run, shown, bends, motion_of(settings), data["ground"]) if "ground" in data else None

        def finished(key: FrameKey, image: Tensor, alone: Mapping[Sample, Tensor]) -> Image.Image:
            blacked_out = not bool((image > -1).any())  # and nothing is added to it
            image = enlarged(image, data["size"][::-1])
            picture = to_images((image if blacked_out else match(key, detail(key, image, alone)))[None])[0]
            return lift(key, picture) if lift else picture

        # Blend and denoise level by level (section 4.1), keep the best candidate of each (section 4.4).
        work = Work(
            backbone=self.backbone,
            sampling=sampling_of(settings),
            run=run,
            batch_size=data["batch_size"],
            conditioning=words,
            noise=noise,
            candidates=candidates_of(settings),
            picture=finished,
            alone=detail.alone,
            leading=leading,
            judge=judge or _judge(settings),
            choose=choose and keeping_poses(choose, run, data, settings, len(self.backbone.controlnets)),
            report=report,
            cost=cost_of(task, tree, settings, self.backbone, detail),
            keep_candidates=compute.keep_candidates,
        )
        recipes = {key: data["keyframes"][key.pair % count]["pixels"] for key in tree.keyframes}
        report(Progress("frames", levels=work.cost.levels, total=work.cost.frames, steps=work.cost.steps))
        made = {frame.key: frame for frame in generate(scheme_named(settings.scheme)(task), work, recipes)}
        run.take_place()  # of a film without a frame in between, too
        run.forget_frames([*tree.keyframes, *made])
        run.write("state.json", _state(tree.keyframes, made))

    def remake(
        self,
        output: str | PathLike[str],
        frame: FrameKey,
        edit: Edit | None = None,
        *,
        candidate: int | None = None,
        compute: ComputeSettings | None = None,
        callback: Callback | None = None,
        choose: Chooser | None = None,
    ) -> Morph:
        """Make one frame of a finished film and its descendants again, and nothing else.

        Args:
            output: the run folder.
            frame: the frame, not a keyframe.
            edit: the frame's own prompt, seed, noise level or pose; without one only its noise is new.
            candidate: show this one of its candidates instead of making new ones.
            compute: how the images are computed.
            callback: is handed a Progress after each step.
            choose: picks among the new candidates.
        """
        with RunFolder(Path(output)) as run:
            data = opened(run)
            self._same_model(run, data)
            settings = settings_of(run, data)
            networks = len(self.backbone.controlnets)
            own = kept_edit(run, as_edit(edit), data, settings, networks) if edit is not None else None
            run.record(remade(run, settings, frame, own, candidate))
            if edit and edit.noise is not None:
                warn_of_noise([edit.noise], aligned=settings.align)
            self.make(run, compute, callback=callback, choose=choose)
            return Morph(run.path)

    def undo(
        self,
        output: str | PathLike[str],
        *,
        compute: ComputeSettings | None = None,
        callback: Callback | None = None,
    ) -> Morph:
        """Bring back what was there before the last remake of a film."""
        return self._step(output, Undo(), compute, callback)

    def redo(
        self,
        output: str | PathLike[str],
        *,
        compute: ComputeSettings | None = None,
        callback: Callback | None = None,
    ) -> Morph:
        """Take the last undo of a film back."""
        return self._step(output, Redo(), compute, callback)

    @within_memory()
    def invert(
        self,
        *images: Source | Sequence[Source],
        output: str | PathLike[str],
        preset: str | None = None,
        callback: Callback | None = None,
        **settings: Unpack[MorphValues],
    ) -> None:
        """Fit the words of a film to its keyframes, and make no frame; a later call makes the film with them."""
        morph_settings, compute = self._settings(preset, settings)
        if not morph_settings.inversion_iterations:
            raise SegueError("inversion_iterations is 0: nothing would be fitted; the paper uses 100 to 500")
        sources = _sources(images)
        keyframes, network, given = self._prepared(sources, morph_settings)
        with RunFolder(Path(output)) as run:
            begin(
                run,
                keyframes,
                [_source(image) for image in sources],
                morph_settings,
                self._batch_size(compute, network),
                self.model,
                given=given,
                network=network,
                overwrite=False,
            )
            small = [fit(run.shown(FrameKey(i)), network, "stretch") for i in range(len(keyframes))]
            digests = [digest(keyframe) for keyframe in keyframes]
            latents = encoded(self.backbone, run, {FrameKey(i): k for i, k in enumerate(small)}, digests)
            self._wording(run, morph_settings, small, latents, _report(callback))

    def _prepared(
        self, images: Sequence[Source], settings: MorphSettings
    ) -> tuple[list[Image.Image], tuple[int, int], Given]:
        """The keyframes, the size that the model works at, and what is given for the keyframes.

        Errors come here, before anything is written or overwritten.
        """
        pictures = loaded(images, settings)
        size, network = sizes(pictures, settings, self.backbone)
        warn_of_crops(images, pictures, settings, size)
        keyframes = fitted(pictures, settings, size)
        if self.name == "pocket":
            warn_of_scenes([laid_on(keyframe, "white") for keyframe in keyframes])
        if not self.backbone.controlnets:
            tell_unguided(settings, [laid_on(keyframe, "white") for keyframe in keyframes])
        check_plan(settings, len(keyframes))
        if settings.scheme != "interpolate":
            self.backbone.check(sampling_of(settings))
        given = [shown_size(image) for image in images]
        return keyframes, network, read_given(settings, given, size, network, len(self.backbone.controlnets))

    def _sight(
        self,
        run: RunFolder,
        settings: MorphSettings,
        keyframes: Mapping[FrameKey, Image.Image],
        shown: Mapping[FrameKey, Image.Image],
        bends: Bends | None,
    ) -> dict[str, Any]:
        """How a scheme sees parents: bent along, through the moving camera, or as they are."""
        if bends is not None:
            width, height = keyframes[FrameKey(0)].size

            def shrunk(picture: Image.Image) -> Image.Image:
                twice = 2 * width, 2 * height  # of more pixels the network sees nothing
                return fit(picture, twice, "stretch") if picture.width > twice[0] else picture

            bent = BentPictures(
                bends,
                images_of({key: shrunk(picture) for key, picture in shown.items()}),
                lambda key: to_tensor([shrunk(run.shown(key))])[0],
                self.backbone.encode,
                (height, width),
            )
            return {"seen": bent, "carry": bent.noisy}
        return {"seen": camera(settings, keyframes, self.backbone)} if settings.moves else {}

    def _settings(self, preset: str | None, values: Mapping[str, Any]) -> tuple[MorphSettings, ComputeSettings]:
        """The settings of a call by kind, over those of a preset."""
        computing = {name: value for name, value in values.items() if name in fields(ComputeSettings)}
        others = {name: value for name, value in values.items() if name not in computing}
        begun = with_preset(preset or "balanced", others, self.name)
        return checked(MorphSettings, begun), checked(ComputeSettings, computing)

    @property
    def model(self) -> dict[str, Any]:
        """What a run remembers of the model: its name, fingerprint and parts, and what else loads it again."""
        with self.backbone.evaluating():  # in which weights are hashed once
            parts = dict(self.backbone.parts())
            return {"name": self.name, "fingerprint": self.backbone.fingerprint(), "parts": parts, **self._loaded}

    def _same_model(self, run: RunFolder, data: Mapping[str, Any]) -> None:
        """SegueError where a run was made with another model than this."""
        model = data["model"]
        if model["fingerprint"] != self.backbone.fingerprint():
            here, there = (f" in {m['dtype']}" if m.get("dtype") else "" for m in (self._loaded, model))
            raise SegueError(
                f"{run.path} was made with {model['name']}{there} (weights {model['fingerprint'][:12]}), "
                f"not with {self.name}{here} (weights {self.backbone.fingerprint()[:12]}): "
                f"{model_differences(model.get('parts', {}), self.backbone.parts())}"
            )

    def _step(
        self,
        output: str | PathLike[str],
        event: Undo | Redo,
        compute: ComputeSettings | None,
        callback: Callback | None,
    ) -> Morph:
        """Record an undo or a redo, and show the frames that count then."""
        with RunFolder(Path(output)) as run:
            self._same_model(run, opened(run))
            if isinstance(event, Undo) and run.history.undoable is None:
                raise SegueError(f"{run.path} has nothing to undo")
            if isinstance(event, Redo) and not run.history.redoable:
                raise SegueError(f"{run.path} has no undo to take back")
            run.record(event)
            self.make(run, compute, callback=callback)
            return Morph(run.path)

    def _batch_size(self, compute: ComputeSettings, size: tuple[int, int]) -> BatchSize:
        """The frames in one batch: as asked for, or as many as free memory takes."""
        return BatchSize(compute.batch_size, lambda: 1 if self.low_memory else self.backbone.frames_at_once(size))

    def _latent_shape(self, size: Sequence[int]) -> tuple[int, int, int]:
        """The shape (C, h, w) of the latents of pictures of (width, height) pixels."""
        scale = self.backbone.latent_scale
        return self.backbone.latent_channels, size[1] // scale, size[0] // scale

    def _wording(
        self,
        run: RunFolder,
        settings: MorphSettings,
        keyframes: Sequence[Image.Image],
        latents: Latents,
        report: Callback,
    ) -> Words:
        """The words of a film; the iterations in which they are fitted are reported."""
        return wording(
            self.backbone,
            run,
            settings,
            keyframes,
            latents,
            model_name=self.name,
            progress=lambda step, steps: report(Progress("words", step=step, steps=steps)),
            say=lambda text: report(Progress("words", text=text)),
        )


def _judge(settings: MorphSettings) -> Judge | None:
    """The ranking, where prompts to rank for or against are given."""
    if not settings.rank_for and not settings.rank_against:
        return None
    return Judge(Clip.load(settings.ranker), settings.rank_for, settings.rank_against)


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
            "candidates": {str(number): recipe for number, recipe in frame.candidates.items()},
            "scores": {str(number): score for number, score in frame.scores.items()},
        }
        for key, frame in made.items()
    ]
    return {"frames": sorted(given + others, key=lambda frame: Fraction(str(frame["place"])))}


def _named(checkpoint: str | PathLike[str] | None) -> str | None:
    """What a run remembers of a checkpoint's name: a folder wherever the next command stands."""
    if checkpoint is None:
        return None
    is_folder = str(checkpoint) != "pocket" and Path(checkpoint).is_dir()
    return str(Path(checkpoint).absolute() if is_folder else checkpoint)


def _sources(images: Sequence[Source | Sequence[Source]]) -> list[Source]:
    """The images of a call, given one by one or in one list."""
    if len(images) == 1 and isinstance(images[0], list | tuple):
        return list(images[0])
    return list(images)  # type: ignore[arg-type] # what is no picture is refused where it is read


def _report(callback: Callback | None) -> Callback:
    """What progress is handed to: the callback, or a bar in a notebook, or nobody."""
    return callback or (Bar() if is_notebook() else lambda _progress: None)


def _source(image: Source) -> str:
    """What a keyframe was given as."""
    return str(image) if isinstance(image, str | PathLike) else type(image).__name__
