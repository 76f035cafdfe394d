"""The method, top-down: keyframes in, a film's frames out.

    interpolator = Interpolator.from_pretrained()
    morph = interpolator("cat.png", "tiger.png", num_frames=17, seed=0)
    morph.save("morph.mp4")

A film is made in a run folder, and from nothing but that folder: ``__call__`` writes settings and keyframes there,
``make`` does what is missing. So making, continuing, growing, remaking and undoing are the same work.
"""

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Self, Unpack

from PIL import Image

from segue.engine.bar import Bar, is_notebook
from segue.engine.control import (
    keep_edit,
    read_given,
    tell_unguided,
)
from segue.engine.cost import sampling_of
from segue.engine.dialogue import Chooser, Progress, tell_notices
from segue.engine.keyframes import (
    encode_keyframes,
    fit_images,
    load_images,
    read_keyframes,
    sizes,
    warn_of_crops,
    warn_of_scenes,
)
from segue.engine.make import Hooks, make
from segue.engine.plan import (
    check_plan,
    warn_of_candidates,
    warn_of_noise,
)
from segue.engine.rank import Judge, judge_of
from segue.engine.wording import words_of
from segue.errors import Notice, SegueError, warn
from segue.film.morph import Morph
from segue.machine import within_memory
from segue.method.tree import FrameKey
from segue.models import loading
from segue.models.backbone import Backbone
from segue.models.families import backbone_of
from segue.models.features.networks import reuse_network
from segue.pictures.alpha import lay_on
from segue.pictures.images import Source, shown_size
from segue.run.folder import RunFolder
from segue.run.given import Given
from segue.run.journal import Edit, Redo, Undo, as_edit, check_step
from segue.run.start import BatchSize, begin, plan_remake, read_run, settings_of
from segue.settings.keywords import MorphValues
from segue.settings.kinds import ComputeSettings, ModelSettings, MorphSettings, fields, parse_settings
from segue.settings.presets import with_preset
from segue.settings.text import model_differences, parse_lora, rebase_paths

__all__ = ["Callback", "Interpolator"]

Callback = Callable[[Progress | Notice], None]
Prepared = tuple[list[Image.Image], tuple[int, int], Given]


class Interpolator:
    """Makes the images between images with one diffusion model."""

    def __init__(self, pipe: Any, *, controlnet: Any = None, name: str | None = None, clip_skip: int = 0) -> None:
        """Wrap a loaded diffusers pipeline of a supported family; it is used as it is.

        Args:
            pipe: a pipeline of a known family; its adapters, offloading and precision stay the user's business.
            controlnet: a diffusers ControlNetModel, in place of the pipe's own.
            name: what to call the model in the run file; the pipe's own name if not given.
            clip_skip: how many of the text encoders' last layers are left out.
        """
        if isinstance(pipe, str | PathLike):
            raise SegueError(f"Interpolator takes a loaded pipe; Interpolator.from_pretrained('{pipe}') loads one")
        self.backbone: Backbone = backbone_of(pipe, controlnet, clip_skip)
        self.name = name or self.backbone.name
        self.low_memory = False
        self._loaded: dict[str, Any] = {}

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | PathLike[str] | None = None,
        *,
        controlnet: str | PathLike[str] | None = None,
        image_adapter: str | PathLike[str] | None = None,
        dtype: str | None = None,
        device: str | None = None,
        low_memory: bool = False,
        variant: str | None = None,
        revision: str | None = None,
        prediction_type: Literal["epsilon", "v_prediction"] | None = None,
        vae: str | PathLike[str] | None = None,
        lora: str | PathLike[str] | Sequence[str | PathLike[str]] = (),
        embedding: str | PathLike[str] | Sequence[str | PathLike[str]] = (),
        clip_skip: int = 0,
    ) -> Self:
        """Load a checkpoint by hub name, folder or file; with no name the embedded model pocket, without a network.

        Args:
            name_or_path: a hub name, a folder in diffusers layout, a .safetensors file, or None for pocket.
            controlnet: a ControlNet by hub name or folder.
            image_adapter: an IP-Adapter: a .safetensors file with its image encoder near it (docs/models.md).
            dtype: "float32", "bfloat16" or "float16"; what the device does well if not given.
            device: "cpu", "cuda", "cuda:1", "mps"; the best there is if not given.
            low_memory: keep on an accelerator only the network that computes; one frame at a time, in tiles.
            variant: which weights of a folder or hub name, such as "fp16".
            revision: a branch, a tag or a commit of a hub name.
            prediction_type: what the network predicts; as the checkpoint says if not given.
            vae: a folder in diffusers layout, or a .safetensors file, in place of the checkpoint's own VAE.
            lora: one or more .safetensors files; each may be followed by its weight, as in "ink.safetensors:0.8".
            embedding: one or more .safetensors files of learnt tokens, which prompts use by the files' names.
            clip_skip: how many of the text encoders' last layers are left out.

        Raises:
            SegueError: unknown name, another family, pickled weights only, no network.
        """
        which: dict[str, Any] = {"variant": variant, "revision": revision, "prediction_type": prediction_type}
        beside = {"vae": vae, "lora": lora, "embedding": embedding, "clip_skip": clip_skip}
        settings = parse_settings(ModelSettings, beside)
        pipe = loading.load(
            name_or_path,
            controlnet=controlnet,
            image_adapter=image_adapter,
            dtype=dtype,
            device=device,
            low_memory=low_memory,
            **which,
            vae=None if settings.vae is None else Path(settings.vae),
            loras=[parse_lora(text) for text in settings.lora],
            embeddings=[Path(name) for name in settings.embedding],
        )
        interpolator = cls(pipe, name=_remembered_name(name_or_path or "pocket"), clip_skip=clip_skip)
        interpolator.low_memory = low_memory
        used = str(interpolator.backbone.network.dtype).removeprefix("torch.")
        kept = {"controlnet": _remembered_name(controlnet), "image_adapter": _remembered_name(image_adapter)}
        added = rebase_paths({name: getattr(settings, name) for name in beside}, Path())
        interpolator._loaded = {**kept, "dtype": used, **which, **added}
        return interpolator

    @classmethod
    def from_settings(cls, settings: ModelSettings) -> Self:
        """``from_pretrained`` with settings."""
        values = dict(settings)
        return cls.from_pretrained(values.pop("model"), **values)

    @tell_notices
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
            preset: values to begin with: "paper", "balanced", "draft" or "fast".
            callback: is handed a Progress after each step and each Notice, such as a ``Bar``, which is the default in a
                notebook; without a callback, notices go to the log "segue".
            choose: picks among the candidates of each frame.
            settings: any field of MorphSettings and ComputeSettings.

        Returns:
            The film; its frames are read from the run folder when they are asked for.

        Raises:
            SegueError: an image or setting is wrong, or the folder holds a run with other settings.
        """
        morph_settings, compute = self._settings(preset, settings)
        sources = _sources(images)
        prepared = self._prepare(sources, morph_settings)
        judge = judge_of(morph_settings)
        if morph_settings.scheme != "interpolate":
            warn_of_noise(morph_settings.noise, aligned=morph_settings.align)
        if choose is None and not compute.keep_candidates:
            warn_of_candidates(morph_settings)
        if morph_settings.is_perceptual:
            reuse_network(morph_settings.network)  # an error here too
        if output is not None and not str(output):
            raise SegueError("output is an empty name; leave it out for a temporary film")
        path = Path(tempfile.mkdtemp(prefix="segue-") if output is None else output)
        try:
            with RunFolder(path, overwrites=overwrite) as run, self.backbone.evaluating():
                self._begin(run, sources, prepared, morph_settings, compute, overwrite=overwrite)
                self.make(run, compute, callback=callback, choose=choose, judge=judge)
                return Morph(run.path, temporary=output is None)
        except BaseException:
            if output is None:
                shutil.rmtree(path, ignore_errors=True)
            raise

    @tell_notices
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
        hooks = Hooks(_report(callback), choose, judge, (compute or ComputeSettings()).keep_candidates)
        with self.backbone.evaluating():
            make(self.backbone, self.name, run, hooks)

    @tell_notices
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
            edit: the frame's own prompt, image, seed, noise level or pose; without one only its noise is new.
            candidate: show this one of its candidates instead of making new ones.
            compute: how the images are computed.
            callback: is handed a Progress after each step.
            choose: picks among the new candidates.
        """
        with RunFolder(Path(output)) as run:
            data = read_run(run)
            self._check_model(run, data)
            settings = settings_of(run, data)
            own = keep_edit(run, as_edit(edit), data, settings, self.backbone) if edit is not None else None
            run.record(plan_remake(run, settings, frame, own, candidate))
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

    @tell_notices
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
        if not morph_settings.inversion:
            raise SegueError("inversion is 0: nothing would be fitted; the paper uses 100 to 500")
        sources = _sources(images)
        prepared = self._prepare(sources, morph_settings)
        with RunFolder(Path(output)) as run:
            self._begin(run, sources, prepared, morph_settings, compute, overwrite=False)
            kept = read_keyframes(run, read_run(run), morph_settings)
            z, report = encode_keyframes(self.backbone, run, kept), _report(callback)
            words_of(self.backbone, run, morph_settings, kept.given, z, model_name=self.name, report=report)

    def _begin(
        self,
        run: RunFolder,
        sources: Sequence[Source],
        prepared: Prepared,
        settings: MorphSettings,
        compute: ComputeSettings,
        *,
        overwrite: bool,
    ) -> None:
        """Begin, continue or grow a run in its folder."""
        keyframes, network, given = prepared
        names = [_source(image) for image in sources]
        batch = self._batch_size(compute, network, settings)
        begin(run, keyframes, names, settings, batch, self.model, given=given, network=network, overwrite=overwrite)

    def _prepare(self, images: Sequence[Source], settings: MorphSettings) -> Prepared:
        """The keyframes, the size that the model works at, and what is given for the keyframes.

        Errors come here, before anything is written or overwritten.
        """
        pictures = load_images(images, settings)
        size, network = sizes(pictures, settings, self.backbone)
        warn_of_crops(images, pictures, settings, size)
        keyframes = fit_images(pictures, settings, size)
        opaque = [lay_on(keyframe, "white") for keyframe in keyframes]
        if self.name == "pocket":
            warn_of_scenes(opaque)
        if not self.backbone.controlnets:
            tell_unguided(settings, opaque)
        check_plan(settings, len(keyframes))
        if settings.image_prompt and not self.backbone.takes_images:
            raise SegueError("image_prompt needs an IP-Adapter; name one with image_adapter")
        networks = self.backbone.controlnets
        if settings.control_image and any(getattr(network, "union", False) for network in networks):
            raise SegueError("control_image: a union ControlNet is used for poses; name one for images of that kind")
        if settings.negative_prompt and not self.backbone.takes_negatives:
            warn(f"negative_prompt changes nothing: {self.name} has no negative branch")
        if settings.lora_steps and not self.backbone.takes_loras:
            raise SegueError(f"fit_model needs a model with a UNet, which {self.name} has not")
        if settings.scheme != "interpolate":
            self.backbone.check(sampling_of(settings))
        given = [shown_size(image) for image in images]
        return keyframes, network, read_given(settings, given, size, network, len(networks))

    def _settings(self, preset: str | None, values: Mapping[str, Any]) -> tuple[MorphSettings, ComputeSettings]:
        """The settings of a call by kind, over those of a preset."""
        computing = {name: value for name, value in values.items() if name in fields(ComputeSettings)}
        others = {name: value for name, value in values.items() if name not in computing}
        begun = with_preset(preset or "balanced", others, self.name, self.backbone.marks)
        return parse_settings(MorphSettings, begun), parse_settings(ComputeSettings, computing)

    @property
    def model(self) -> dict[str, Any]:
        """What a run remembers of the model: its name, fingerprint and parts, and what else loads it again."""
        with self.backbone.evaluating():  # in which weights are hashed once
            parts = dict(self.backbone.parts())
            return {"name": self.name, "fingerprint": self.backbone.fingerprint(), "parts": parts, **self._loaded}

    def _check_model(self, run: RunFolder, data: Mapping[str, Any]) -> None:
        """Raise SegueError if a run was made with another model than this."""
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
            self._check_model(run, read_run(run))
            check_step(run.history, run.path, redo=isinstance(event, Redo))
            run.record(event)
            self.make(run, compute, callback=callback)
            return Morph(run.path)

    def _batch_size(self, compute: ComputeSettings, size: tuple[int, int], settings: MorphSettings) -> BatchSize:
        """The frames in one batch: as asked for, or as many as free memory takes, with the parents beside them."""
        each = 1 if settings.attention == "none" or not settings.attention_share else 3
        find = self.backbone.frames_at_once
        return BatchSize(compute.batch_size, lambda: 1 if self.low_memory else max(1, find(size) // each))


def _remembered_name(checkpoint: str | PathLike[str] | None) -> str | None:
    """What a run remembers of a checkpoint's name: a path wherever the next command stands."""
    if checkpoint is None:
        return None
    is_path = str(checkpoint) != "pocket" and Path(checkpoint).exists()
    return str(Path(checkpoint).absolute() if is_path else checkpoint)


def _sources(images: Sequence[Source | Sequence[Source]]) -> list[Source]:
    """The images of a call, given one by one or in one list."""
    if len(images) == 1 and isinstance(images[0], list | tuple):
        return list(images[0])
    return list(images)  # type: ignore[arg-type] # what is not a picture is refused where it is read


def _report(callback: Callback | None) -> Callback:
    """What progress is handed to: the callback, or a bar in a notebook, or nobody."""
    return callback or (Bar() if is_notebook() else lambda _progress: None)


def _source(image: Source) -> str:
    """What a keyframe was given as."""
    return str(image) if isinstance(image, str | PathLike) else type(image).__name__
