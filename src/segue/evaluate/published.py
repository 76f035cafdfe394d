"""What the paper reports, to stand beside what is measured here.

Source: Wang and Golland, "Interpolating between Images with Diffusion Models", 2023, arXiv 2307.12560, table 1:
Stable Diffusion 2.1, 26 pairs, 17 frames, Inception-v3.
"""

from dataclasses import dataclass

__all__ = ["TABLE_1", "Published"]


@dataclass(frozen=True)
class Published:
    """One row of the paper's table 1: FID, and PPL with its spread over pairs."""

    fid: float
    ppl: float
    ppl_spread: float


TABLE_1: dict[str, Published] = {
    "interpolate": Published(436, 56, 8),
    "interpolate-denoise": Published(179, 172, 32),
    "denoise-interpolate-denoise": Published(169, 144, 26),
    "denoise-interpolate-denoise-unshared": Published(199, 133, 22),
    "branching": Published(214, 193, 27),
}
