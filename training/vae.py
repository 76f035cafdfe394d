"""The autoencoder: a stock `AutoencoderTiny`, trained on moved, recoloured and outlined icons and on drawn figures.

Latents get a little noise before they are decoded and are kept small, so that near latents mean near pictures.
Run: `python -m training.vae` (resumes; figures join once `training.figures` has made them). Once the UNet is trained on
the latents, only `--decoder-only` may go on.
"""

from collections.abc import Mapping
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from training.augment import Drawings, backgrounds, lay_on, move, outline, recolour
from training.composed import build_vae, decode, encode
from training.loop import DEVICE, Course, arguments, autocast, course, generator, train
from training.store import CACHE

HOW = course(
    cpu=Course(minutes=25, batch=16, rate=7e-4, ema=0.998, first=60, log_every=25),
    gpu=Course(minutes=2.2, batch=192, rate=1.2e-3, ema=0.999, first=200, log_every=100),
)
NOISE = 0.04
SMALL = 5e-4
FIGURES = 0.25
RECOLOURED, MOVED, OUTLINED = 0.3, 0.4, 0.3
ZOOM = (0.55, 1.0)  # Enlarging would blur what has to be drawn sharp.
SCALES = 3
STRENGTH = 3.0  # Of an edge's strength in the loss, where the edge itself counts 1.


def main() -> None:
    parser = arguments(__doc__, HOW.minutes)
    parser.add_argument("--decoder-only", action="store_true", help="leave the encoder, and so the latents, as it is")
    options = parser.parse_args()
    torch.manual_seed(0)
    vae = build_vae().to(DEVICE, memory_format=torch.channels_last)
    vae.encoder.requires_grad_(not options.decoder_only)
    batches = Batches()

    def loss_of(step: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        random = generator(step)
        x = batches.draw(random).contiguous(memory_format=torch.channels_last)
        with autocast():
            z = encode(vae, x).float()
            y = decode(vae, z + NOISE * torch.randn(z.shape, generator=random, device=DEVICE)).float()
        mse = F.mse_loss(y, x)
        loss = F.l1_loss(y, x) + mse + edges(y, x) + SMALL * z.square().mean()
        sharp = laplacian(y.detach()).std() / laplacian(x).std()
        return loss, {"psnr": -10 * torch.log10(mse.detach() / 4), "std": z.detach().std(), "sharp": sharp}

    train("vae", vae, loss_of, HOW, options.minutes, decay=1e-3, averaged=options.decoder_only)


def edges(y: Tensor, x: Tensor) -> Tensor:
    """How much the edges of two batches of pictures (B, 3, H, W) differ, at full, half and quarter resolution.

    With d the first and second differences between neighbours, the mean of |d_y - d_x| and of how much d_y and d_x
    differ in strength. To the former it is all one whether an edge that may lie in either of two places is drawn sharp
    in one of them or softly in both; the latter wants it sharp.
    """
    found = y.new_zeros(())
    for scale in range(SCALES):
        if scale:
            y, x = F.avg_pool2d(y, 2), F.avg_pool2d(x, 2)
        for axis, order in product((2, 3), (1, 2)):
            a, b = y.diff(order, axis), x.diff(order, axis)
            found = found + (a - b).abs().mean() + STRENGTH * (strength(a) - strength(b)).abs().mean()
    return found / SCALES


def strength(differences: Tensor) -> Tensor:
    """The root of the mean square of 4 x 4 neighbouring differences, at every second pixel; less for a soft edge."""
    return (F.avg_pool2d(differences.square(), 4, 2) + 1e-5).sqrt()


def laplacian(x: Tensor) -> Tensor:
    """The Laplacian (B, 1, H - 2, W - 2) of the luma of pictures (B, 3, H, W)."""
    luma = (x * x.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    centre = luma[..., 1:-1, 1:-1]
    return luma[..., :-2, 1:-1] + luma[..., 2:, 1:-1] + luma[..., 1:-1, :-2] + luma[..., 1:-1, 2:] - 4 * centre


class Batches:
    """Random training pictures (batch, 3, 128, 128) in [-1, 1]."""

    def __init__(self) -> None:
        self.sources = [Drawings(name) for name in ("icons", "figures") if (CACHE / f"{name}.json").exists()]

    def draw(self, random: torch.Generator) -> Tensor:
        """A batch."""
        n_figures = int(HOW.batch * FIGURES) if len(self.sources) > 1 else 0
        counts = (HOW.batch - n_figures, n_figures)
        rgba = torch.cat([source.draw(n, random) for source, n in zip(self.sources, counts, strict=False)])
        chance = torch.rand(3, len(rgba), generator=random, device=random.device)
        if (chosen := chance[0] < RECOLOURED).any():
            rgba[chosen] = recolour(rgba[chosen], random)
        if (chosen := chance[1] < MOVED).any():
            rgba[chosen] = move(rgba[chosen], ZOOM, 0.25, 0.5, random)
        if (chosen := chance[2] < OUTLINED).any():
            rgba[chosen] = outline(rgba[chosen], random)
        return lay_on(rgba, backgrounds(len(rgba), rgba.shape[-1], random))


if __name__ == "__main__":
    main()
