"""What the schemes have in common that encode the keyframes into noise and make each frame straight from two of them.

The keyframes are inverted by DDIM to a noise point, once each. The frames do not depend on each other, so any tree will
do. Between keyframes that are aligned, a noisy latent x = alpha z + (x - alpha z) is moved to a frame in two parts: z
is the keyframe as it is seen there, and the noise that inversion found is carried there.
"""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from segue.method.diffusion import CLEAN, NoisePoint
from segue.method.schemes import Latents, Level, Sample, Scheme, Task, ends_of

__all__ = ["Mix", "mix_inverted"]

Mix = Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]


def mix_inverted(task: Task, point: NoisePoint, mix: Mix) -> Scheme:
    """Invert the keyframes to a noise point, and denoise mixes of two of them.

    Args:
        task: the frames to make.
        point: where the keyframes are inverted to.
        mix: the noisy latent at ``point`` from both keyframes' x, both alpha z, and the frame's position.
    """
    noisy: Latents = yield Level(0, {key: (key,) for key in task.latents}, CLEAN, point, lambda s: task.latents[s.key])
    blend = partial(_mix_at, task, dict(noisy), point, mix)
    made = set(task.latents)
    while midpoints := task.tree.next_level(made, task.distance):
        made |= {midpoint.key for midpoint in midpoints}
        yield Level(midpoints[0].level, {m.key: ends_of(m.key) for m in midpoints}, point, CLEAN, blend)


def _mix_at(task: Task, noisy: Latents, point: NoisePoint, mix: Mix, sample: Sample) -> Tensor:
    key, ends = sample.key, ends_of(sample.key)
    seen = task.sight.seen(key, [(end, task.latents[end]) for end in ends])
    means = [point.alpha * z for z in seen]
    found = [noisy[end] - point.alpha * task.latents[end] for end in ends]
    x = [mean + task.sight.carry(key, end, eps) for end, mean, eps in zip(ends, means, found, strict=True)]
    return mix(x[0], x[1], means[0], means[1], float(key.position))
