"""How the networks denoise, from a run's settings, and what that costs."""

import dataclasses

import torch

from segue.backbone import Backbone, Sampling
from segue.dialogue import Cost
from segue.generate import price
from segue.method.detail import Detail
from segue.plan import candidates_of
from segue.schemes import Task, scheme_named
from segue.settings import MorphSettings
from segue.tree import Tree

__all__ = ["cost_of", "sampling_of"]

FAR = 1e9  # farther than any two frames look apart


def sampling_of(settings: MorphSettings) -> Sampling:
    """How the networks denoise."""
    return Sampling(
        solver=settings.solver,
        num_inference_steps=settings.num_inference_steps,
        guidance_scale=settings.guidance_scale,
        eta=settings.eta,
        guidance_start=settings.guidance_start,
        guidance_end=settings.guidance_end,
        control_start=settings.control_start,
        control_end=settings.control_end,
    )


def cost_of(task: Task, tree: Tree, settings: MorphSettings, backbone: Backbone, detail: Detail) -> Cost:
    """What a film costs; where its spacing is decided on the way, at most, in a number of levels that is open (0)."""
    scheme = scheme_named(settings.scheme)(_weightless(task, tree))
    cost = price(scheme, backbone, sampling_of(settings), candidates_of(settings), detail.alone)
    return dataclasses.replace(cost, levels=0) if settings.spacing == "perceptual" else cost


def _weightless(task: Task, tree: Tree) -> Task:
    """The same task on latents of one number each."""
    zero = torch.zeros(1, 1, 1)
    return dataclasses.replace(
        task,
        tree=tree,
        latents=dict.fromkeys(task.latents, zero),
        noise=lambda *_name, **_number: zero,
        seen=lambda _key, parents: [latent for _, latent in parents],
        carry=lambda _key, _parent, latent: latent,
        leads=lambda _key: False,
        distance=lambda left, right: float(right.place - left.place) * FAR,
    )
