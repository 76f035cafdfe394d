"""The finished parts as a folder in diffusers' layout, `src/segue/models/pocket`, which stock libraries load.

Takes every stage's averaged weights, in float16; leaves out what is not trained yet. Run: `python -m training.export`.
"""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderTiny, ControlNetModel, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from torch.nn.functional import normalize
from transformers import CLIPImageProcessorPil

from segue.models.clip import Clip
from segue.pose.network import KeypointNetwork, save
from training.clip import SIZE
from training.controlnet import build_controlnet
from training.latents import text_tower, trained_clip, trained_vae
from training.report import lay_on_white
from training.store import MODEL, command, load_array, load_checkpoint
from training.unet import SIGNS, build_unet

FIGURE_CAPTIONS = 500
TEXT_SHARE = 0.3  # Of a caption's vector; the rest are its pictures.
BARE_ONLY = (*SIGNS, "noto v1")  # Styles left out of the captions to save room.
LIMIT = 85_000_000


def main() -> None:
    command(__doc__).parse_args()
    MODEL.mkdir(parents=True, exist_ok=True)
    export_vae()
    known = MODEL / "clip" / "model.safetensors"
    before = known.read_bytes() if known.exists() else b""
    text_tower().half().save_pretrained(MODEL / "text_encoder")
    export_clip()
    unet = trained_unet()
    unet.half().save_pretrained(MODEL / "unet")
    DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
    ).save_pretrained(MODEL / "scheduler")
    control = trained_controlnet()
    if control is not None:
        control.half().save_pretrained(MODEL / "controlnet")
    if (pose := load_checkpoint("pose")) is not None:
        export_pose(pose["ema"])
    (MODEL / "model_index.json").write_text(json.dumps(INDEX, indent=2) + "\n")
    if known.read_bytes() != before or not (MODEL / "captions.safetensors").exists():
        export_captions()
    for path in MODEL.rglob("*.json"):
        anonymous(path)
    size = sum(path.stat().st_size for path in MODEL.rglob("*") if path.is_file())
    print(f"{size / 1e6:.1f} MB")
    assert size <= LIMIT, "pocket must stay under 85 MB"


INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.35.0",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderTiny"],
}


def export_vae() -> None:
    """The autoencoder, with what its latents are multiplied by."""
    vae = trained_vae()
    vae.register_to_config(scaling_factor=scaling_factor())
    vae.half().to(memory_format=torch.contiguous_format).save_pretrained(MODEL / "vae")
    anonymous(MODEL / "vae" / "config.json")


def scaling_factor() -> float:
    """What the UNet's latents are multiplied by; the exported one where training went on with the exported encoder."""
    latents = load_checkpoint("latents")
    if latents is not None:
        return round(1 / float(latents["std"]), 4)
    exported = AutoencoderTiny.from_pretrained(MODEL / "vae")
    ours, theirs = (vae.half().encoder.state_dict() for vae in (trained_vae(), exported))
    same = all(torch.equal(ours[name], weight) for name, weight in theirs.items())
    assert same, "the encoder has changed, so training.latents comes first"
    return float(exported.config.scaling_factor)


def export_clip() -> None:
    """CLIP with its tokenizer and image processor."""
    clip, tokenizer = trained_clip()
    tokenizer.save_pretrained(MODEL / "tokenizer")
    clip.half().save_pretrained(MODEL / "clip")
    tokenizer.save_pretrained(MODEL / "clip")
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": SIZE},
        crop_size={"height": SIZE, "width": SIZE},
        resample=2,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    processor.save_pretrained(MODEL / "clip")
    for part in ("text_encoder", "clip"):
        path = MODEL / part / "config.json"
        config = json.loads(path.read_text())
        for inner in (config, config.get("text_config", {}), config.get("vision_config", {})):
            inner["dtype"] = "float32"
        path.write_text(json.dumps(config, indent=2) + "\n")


def trained_unet() -> UNet2DConditionModel:
    """The UNet with its averaged weights, float32."""
    unet = build_unet()
    state = load_checkpoint("unet")
    assert state is not None, "training.unet comes first"
    unet.load_state_dict(state["ema"])
    return unet.eval()


def trained_controlnet() -> ControlNetModel | None:
    """The ControlNet with its averaged weights, float32, if it is trained."""
    state = load_checkpoint("controlnet")
    if state is None:
        return None
    control = build_controlnet(build_unet())
    control.load_state_dict(state["ema"])
    return control.eval()


def export_pose(weights: dict[str, torch.Tensor]) -> None:
    """The keypoint network, float16."""
    network = KeypointNetwork()
    network.load_state_dict(weights)
    save(network, MODEL / "pose")
    path = MODEL / "pose" / "model.safetensors"
    save_file({name: tensor.half().contiguous() for name, tensor in network.state_dict().items()}, path)


def export_captions() -> None:
    """Captions for the nearest one, and their vectors: icons' bare ones, most with their style, and some figures'.

    A caption's vector lies between that of its text and the mean of its training pictures: pictures of one thing in
    two styles are nearer to each other than either is to its name.
    """
    (icon_pictures, icons), (figure_pictures, figures) = load_array("icons"), load_array("figures")
    captions = [r["caption"] for r in icons if r["style"] not in BARE_ONLY] + [r["concept"] for r in icons]
    captions += [r["caption"] for r in figures[:FIGURE_CAPTIONS]]
    lines = list(dict.fromkeys(captions))
    (MODEL / "captions.txt").write_text("\n".join(lines) + "\n")
    seen = [(icon_pictures[i], {r["caption"], r["concept"]}) for i, r in enumerate(icons) if not r["held_out"]]
    seen += [(figure_pictures[i], {r["caption"]}) for i, r in enumerate(figures) if not r["held_out"]]
    clip = Clip.load(str(MODEL / "clip"))
    texts, place = clip.texts(lines), {line: i for i, line in enumerate(lines)}
    sums = torch.zeros_like(texts)
    for start in range(0, len(seen), 256):
        part = seen[start : start + 256]
        for image, (_, named) in zip(clip.images([lay_on_white(picture) for picture, _ in part]), part, strict=True):
            for line in named & place.keys():
                sums[place[line]] += image
    mixed = TEXT_SHARE * texts + (1 - TEXT_SHARE) * normalize(sums, dim=1)
    vectors = normalize(torch.where(sums.any(1, keepdim=True), mixed, texts), dim=1)
    save_file({"captions": vectors.half().contiguous()}, MODEL / "captions.safetensors")


def anonymous(path: Path) -> None:
    """Takes the names of local folders out of a configuration."""
    content = json.loads(path.read_text())
    content.pop("_name_or_path", None)
    if path.parent.name == "vae":
        content.pop("block_out_channels", None)  # Written by the class itself, which then warns of it.
    path.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
