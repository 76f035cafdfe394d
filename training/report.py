"""The numbers of pocket on held-out data, measured on the exported folder. Run: `python -m training.report`.

Prints a table and writes it to `docs/pocket/report.json`. Needs the data sets (`training.icons`, `training.figures`).
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers import (
    ControlNetModel,
    EulerAncestralDiscreteScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
)
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from segue.evaluate.measures import kernel_distance
from segue.models.clip import Clip
from segue.models.features.distances import Array
from segue.models.features.networks import load_network
from segue.pose.detect import network_detector
from segue.pose.network import load
from training.controlnet import skeleton
from training.store import MODEL, ROOT, command, load_array
from training.unet import LEVELS, build_scheduler, v_errors

RECONSTRUCTED = 200
CANDIDATES = 500
CHECKED = 384
FIGURES = 300
POSED = 48
GENERATED = 40
AMONG = 100
LIKENED = 200
STEPS = 100
GUIDANCE = 5.0
OUT = ROOT / "docs" / "pocket" / "report.json"
PROMPTS = (
    "cat, noto", "dog face, noto", "rabbit, noto", "tiger face, noto", "horse, twemoji", "fish, twemoji", "pizza, noto",
    "hamburger, twemoji", "red apple, noto", "strawberry, twemoji", "banana, noto", "watermelon, fluent emoji",
    "house, noto", "automobile, twemoji", "bus, noto", "rocket, noto", "airplane, twemoji", "sailboat, noto",
    "sunflower, noto", "rose, twemoji", "cactus, noto", "palm tree, noto", "red heart, noto", "star, twemoji",
    "full moon, noto", "sun, noto", "rainbow, twemoji", "umbrella, noto", "book, ultimate color", "guitar, noto",
    "soccer ball, twemoji", "crown, noto", "grinning face, twemoji", "angry face, noto", "ghost, noto", "robot, noto",
    "woman in a red dress, waving, flat figure", "robot in a blue shirt, running, block figure",
    "bear in a green coat, cheering, ink figure", "man in a yellow t-shirt, jumping, soft figure",
)  # fmt: skip


def main() -> None:
    command(__doc__).parse_args()
    torch.manual_seed(0)
    pipe = drawing_pipe()
    clip = Clip.load(str(MODEL / "clip"))
    numbers: dict[str, dict[str, float]] = {}

    def note(name: str, measured: dict[str, float]) -> None:
        numbers[name] = measured
        print(f"{name}: " + ", ".join(f"{key} {value:.4g}" for key, value in measured.items()), flush=True)

    for name in ("icons", "figures", "openmoji"):
        note(f"reconstruction of {name}", reconstruction(pipe, clip, held_out(name, RECONSTRUCTED)[0]))
    note("caption recall", recall(clip))
    note("name of a picture", naming_rates(clip))
    note("error of v by timestep", losses(pipe))
    if (MODEL / "pose").exists():
        note("keypoints", keypoints())
    note("right caption first of 100", right_first(pipe, clip))
    stock = StableDiffusionPipeline.from_pretrained(MODEL)
    found = {"ancestral": likeness(pipe, GUIDANCE), "stock": likeness(stock, 7.5), "real": real_kid()}
    note("KID to held-out icons", found)
    if (MODEL / "controlnet").exists():
        note("keypoints as asked for", asked_for(pipe))
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(numbers, indent=2) + "\n")


def drawing_pipe() -> Any:
    """The stock pipeline with the stock scheduler that draws pocket's best pictures from nothing.

    Euler ancestral adds fresh noise in each step, which mends what a UNet that has seen little got wrong before.
    """
    pipe = StableDiffusionPipeline.from_pretrained(MODEL)
    pipe.scheduler = EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def held_out(name: str, count: int) -> tuple[list[Image.Image], list[dict[str, Any]]]:
    """Held-out pictures on white, evenly chosen, and their records; of openmoji none was trained on, so any."""
    pictures, records = load_array(name)
    rows = [i for i, r in enumerate(records) if r["held_out"] or name == "openmoji"]
    rows = rows[:: max(1, len(rows) // count)][:count]
    return [lay_on_white(pictures[i]) for i in rows], [records[i] for i in rows]


def lay_on_white(rgba: NDArray[np.uint8]) -> Image.Image:
    alpha = rgba[..., 3:].astype(np.float32) / 255
    return Image.fromarray((rgba[..., :3] * alpha + 255 * (1 - alpha)).round().astype(np.uint8))


def to_tensor(pictures: Sequence[Image.Image]) -> Tensor:
    """Pictures as (B, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.stack([np.asarray(p) for p in pictures])).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_images(x: Tensor) -> list[Image.Image]:
    """Tensors in [-1, 1] as pictures."""
    return [Image.fromarray(p) for p in ((x.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()]


@torch.no_grad()
def reconstruction(pipe: Any, clip: Clip, pictures: list[Image.Image]) -> dict[str, float]:
    """Mean PSNR in dB, and a perceptual distance: 1 - cosine of CLIP's vectors."""
    x = to_tensor(pictures)
    y = torch.cat([pipe.vae.decode(pipe.vae.encode(part).latents).sample for part in torch.split(x, 50)]).clamp(-1, 1)
    psnr = -10 * torch.log10((y - x).square().mean((1, 2, 3)) / 4)
    distance = 1 - (clip.images(pictures) * clip.images(to_images(y))).sum(1)
    return {
        "psnr": psnr.mean().item(),
        "psnr_lowest_tenth": psnr.quantile(0.1).item(),
        "distance": distance.mean().item(),
    }


def recall(clip: Clip) -> dict[str, float]:
    """How often the right one of 500 distinct held-out captions is the first, and among the first ten."""
    pictures, records = held_out("icons", 10_000)
    rows = {r["caption"]: i for i, r in enumerate(records)}
    rows = dict(list(rows.items())[:: max(1, len(rows) // CANDIDATES)][:CANDIDATES])
    scores = clip.images([pictures[i] for i in rows.values()]) @ clip.texts(list(rows)).T
    rank = (scores > scores.diagonal()[:, None]).sum(1)
    return {"captions": len(rows), **{f"at_{k}": (rank < k).float().mean().item() for k in (1, 10)}}


def naming_rates(clip: Clip) -> dict[str, float]:
    """How often the nearest of pocket's captions has the name of a held-out icon, in any style; also by texts alone."""
    pictures, records = held_out("icons", 10_000)
    lines = (MODEL / "captions.txt").read_text().splitlines()
    concepts = {r["caption"]: r["concept"] for r in load_array("icons")[1]}
    names = [concepts.get(line, line) for line in lines]
    seen = clip.images(pictures)

    def right(vectors: Tensor) -> float:
        nearest = (seen @ vectors.T).argmax(1).tolist()
        return float(np.mean([names[row] == r["concept"] for row, r in zip(nearest, records, strict=True)]))

    kept = load_file(MODEL / "captions.safetensors")["captions"].float()
    return {"names": len(set(names)), "right": right(kept), "right_by_texts": right(clip.texts(lines))}


@torch.no_grad()
def losses(pipe: Any) -> dict[str, float]:
    """The UNet's mean squared error of v on held-out icons at fixed timesteps."""
    pictures, records = held_out("icons", CHECKED)
    z = (
        torch.cat([pipe.vae.encode(part).latents for part in torch.split(to_tensor(pictures), 64)])
        * pipe.vae.config.scaling_factor
    )
    states = embed(pipe, [r["caption"] for r in records])
    scheduler = build_scheduler()
    found = {}
    for level in LEVELS:
        t = torch.full((len(z),), level)
        random = torch.Generator().manual_seed(level)
        errors = v_errors(lambda x, t=t: pipe.unet(x, t, states).sample, scheduler, z, t, random)  # type: ignore[misc]
        found[str(level)] = errors.mean().item()
    return found


@torch.no_grad()
def embed(pipe: Any, prompts: list[str]) -> Tensor:
    """The text encoder's hidden states of prompts."""
    return torch.cat([pipe.encode_prompt(prompt, "cpu", 1, False)[0] for prompt in prompts])


def right_first(pipe: Any, clip: Clip) -> dict[str, float]:
    """How often CLIP ranks the caption of a generated picture first among 100, and among the first ten."""
    pictures = generate(pipe, PROMPTS)
    others = [r["caption"] for r in held_out("icons", 10_000)[1] if r["caption"] not in PROMPTS]
    captions = list(PROMPTS) + others[:: len(others) // (AMONG - len(PROMPTS))][: AMONG - len(PROMPTS)]
    scores = clip.images(pictures) @ clip.texts(captions).T
    rank = (scores > scores[:, : len(PROMPTS)].diagonal()[:, None]).sum(1)
    return {"first": (rank < 1).float().mean().item(), "first_ten": (rank < 10).float().mean().item()}


def likeness(pipe: Any, guidance: float) -> float:
    """KID, in CLIP's features, of pictures generated in 50 steps from held-out captions to other held-out icons."""
    pipe.set_progress_bar_config(disable=True)
    (_, records), (others, _) = halves()
    pictures = generate(pipe, [r["caption"] for r in records], steps=50, guidance=guidance)
    return kernel_distance(features(pictures), features(others))


def real_kid() -> float:
    """KID of one half of the held-out icons to the other."""
    return kernel_distance(*(features(pictures) for pictures, _ in halves()))


def halves() -> list[tuple[list[Image.Image], list[dict[str, Any]]]]:
    """Two disjoint samples of the held-out icons, as many as LIKENED each."""
    pictures, records = held_out("icons", 2 * LIKENED)
    return [(pictures[i::2], records[i::2]) for i in (0, 1)]


def features(pictures: Sequence[Image.Image]) -> Array:
    """What the evaluation's network pocket sees, (B, D)."""
    see = load_network("pocket").features
    assert see is not None
    return see(pictures)


def generate(
    pipe: Any, prompts: Sequence[str], *, steps: int = STEPS, guidance: float = GUIDANCE, **control: Any
) -> list[Image.Image]:
    """A picture for each prompt, with fixed noise; `control` may hold control images."""
    pictures: list[Image.Image] = []
    for i in range(0, len(prompts), 8):
        part = list(prompts[i : i + 8])
        chosen = {name: value[i : i + 8] if isinstance(value, list) else value for name, value in control.items()}
        generators = [torch.Generator().manual_seed(i + j) for j in range(len(part))]
        pictures += pipe(
            part,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=generators,
            height=128,
            width=128,
            **chosen,
        ).images
    return pictures


def keypoints() -> dict[str, float]:
    """Share of held-out figures' keypoints that are found within 10 % of the figure's height."""
    pictures, records = held_out("figures", FIGURES)
    return {"within_10": within(pictures, [np.array(r["keypoints"]) for r in records], 0.10)}


def asked_for(pipe: Any) -> dict[str, float]:
    """Share of keypoints asked for, with and without the ControlNet, that lie within 15 % in generated figures."""
    _, records = held_out("figures", POSED)
    points = [np.array(r["keypoints"]) for r in records]
    prompts = [r["caption"] for r in records]
    control = ControlNetModel.from_pretrained(MODEL / "controlnet")
    parts = {k: v for k, v in pipe.components.items() if k != "image_encoder"}
    posed = StableDiffusionControlNetPipeline(**parts, controlnet=control, requires_safety_checker=False)
    posed.set_progress_bar_config(disable=True)
    guided = generate(posed, prompts, image=[Image.fromarray(skeleton(p.tolist())) for p in points])
    return {"guided": within(guided, points, 0.15), "unguided": within(generate(pipe, prompts), points, 0.15)}


def within(pictures: list[Image.Image], points: list[NDArray[np.float64]], share: float) -> float:
    """Share of keypoints (18, 2) that the detector finds within a share of the figure's height."""
    network = load(MODEL / "pose").float()
    network.threshold = 0.0
    detect = network_detector(network)
    hits = []
    for picture, wanted in zip(pictures, points, strict=True):
        found = detect(picture).people
        distance = np.linalg.norm(found[0].points[:, :2] - wanted, axis=1) if found else np.full(18, np.inf)
        hits.append(distance < share * np.ptp(wanted[:, 1]))
    return float(np.mean(hits))


def contact_sheet(pictures: Sequence[Image.Image], columns: int) -> Image.Image:
    """Pictures in rows, left to right."""
    width, height = pictures[0].size
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % columns * width, i // columns * height))
    return sheet


if __name__ == "__main__":
    main()
