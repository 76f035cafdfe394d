"""The embedded model: stock libraries load every part, it stays small, and it knows something."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny, ControlNetModel, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTextModel, CLIPTokenizer

from segue.models.checkpoints import pocket_folder
from segue.models.clip import Clip
from segue.pose.network import load
from segue.words.captions import nearest_captions

POCKET = pocket_folder()
PAIRS = Path(__file__).parent.parent / "benchmarks" / "pairs"


@pytest.fixture(scope="module")
def pipe() -> StableDiffusionPipeline:
    pipe = StableDiffusionPipeline.from_pretrained(POCKET, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def picture(name: str) -> Image.Image:
    with Image.open(PAIRS / name) as image:
        return image.convert("RGB").resize((128, 128), Image.Resampling.LANCZOS)


def test_stock_pipeline_makes_float32_parts_from_float16_weights(pipe: StableDiffusionPipeline) -> None:
    assert isinstance(pipe.vae, AutoencoderTiny)
    assert isinstance(pipe.unet, UNet2DConditionModel)
    assert isinstance(pipe.text_encoder, CLIPTextModel)
    assert isinstance(pipe.tokenizer, CLIPTokenizer)
    assert isinstance(pipe.scheduler, DDIMScheduler)
    assert {p.dtype for part in (pipe.vae, pipe.unet, pipe.text_encoder) for p in part.parameters()} == {torch.float32}
    assert pipe.safety_checker is None
    assert pipe.scheduler.config.prediction_type == "v_prediction"


def test_stock_pipeline_makes_different_pictures_from_different_prompts(pipe: StableDiffusionPipeline) -> None:
    pictures = []
    for prompt in ("red apple, noto", "full moon, noto"):
        generator = torch.Generator().manual_seed(0)
        made = pipe(prompt, num_inference_steps=4, height=128, width=128, generator=generator, output_type="np")
        pictures.append(made.images[0])
    assert pictures[0].shape == (128, 128, 3)
    assert np.isfinite(pictures).all()
    assert np.abs(pictures[0] - pictures[1]).mean() > 0.02


def test_stock_clip_and_processor() -> None:
    clip = CLIPModel.from_pretrained(POCKET / "clip", local_files_only=True)
    tokenizer = CLIPTokenizer.from_pretrained(POCKET / "clip", local_files_only=True)
    processor = CLIPImageProcessorPil.from_pretrained(POCKET / "clip", local_files_only=True)
    tokens = tokenizer(["cat, noto", "dog, noto"], padding=True, return_tensors="pt")
    pixels = processor(images=[picture("styles-01-a.png")], return_tensors="pt")
    with torch.no_grad():
        logits = clip(**tokens, **pixels).logits_per_image
    assert logits.shape == (1, 2)
    assert next(clip.parameters()).dtype == torch.float32


def test_the_text_encoder_is_clip_s_text_tower(pipe: StableDiffusionPipeline) -> None:
    clip = CLIPModel.from_pretrained(POCKET / "clip", local_files_only=True)
    tokens = pipe.tokenizer(["cat, noto"], return_tensors="pt").input_ids
    with torch.no_grad():
        ours = pipe.text_encoder(tokens).last_hidden_state
        theirs = clip.text_model(input_ids=tokens).last_hidden_state
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_controlnet_and_keypoint_network_load(pipe: StableDiffusionPipeline) -> None:
    if (POCKET / "controlnet").is_dir():
        control = ControlNetModel.from_pretrained(POCKET / "controlnet", local_files_only=True)
        assert control.config.cross_attention_dim == pipe.unet.config.cross_attention_dim
    if (POCKET / "pose").is_dir():
        assert load(POCKET / "pose")(torch.zeros(1, 3, 128, 128)).shape == (1, 18, 32, 32)


def test_size_and_no_pickles() -> None:
    files = [path for path in POCKET.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert sum(path.stat().st_size for path in files) < 85e6
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".txt"}
    assert json.loads((POCKET / "model_index.json").read_text())["_class_name"] == "StableDiffusionPipeline"


def test_latents_have_unit_variance_and_decode_to_what_was_encoded(pipe: StableDiffusionPipeline) -> None:
    names = [f"styles-{i:02d}-{side}.png" for i in range(1, 13) for side in "ab"]
    x = torch.from_numpy(np.stack([np.asarray(picture(name)) for name in names])).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        z = pipe.vae.encode(x).latents
        y = pipe.vae.decode(z).sample.clamp(-1, 1)
    psnr = -10 * torch.log10((x - y).square().mean((1, 2, 3)) / 4)
    assert 0.7 < (z * pipe.vae.config.scaling_factor).std() < 1.4
    assert psnr.mean() > 21


def test_captions_name_held_out_pictures() -> None:
    lines = [json.loads(line) for line in (PAIRS / "manifest.jsonl").read_text().splitlines()]
    known = [(line[side], line[f"prompt_{side}"]) for line in lines[:40] for side in "ab"]
    clip = Clip.load()
    scores = clip.images([picture(name) for name, _ in known]) @ clip.texts([prompt for _, prompt in known]).T
    rank = (scores > scores.diagonal()[:, None]).sum(1)
    assert (rank < 10).float().mean() > 0.3  # By chance: one in eight.
    assert nearest_captions([picture("styles-16-a.png")], POCKET)[0].text


def test_the_composed_autoencoder_of_the_training_is_the_stock_one(
    pipe: StableDiffusionPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent))
    from training import composed

    x = torch.rand(2, 3, 64, 96) * 2 - 1
    with torch.no_grad():
        z = pipe.vae.encoder(x)
        assert torch.allclose(composed.encode(pipe.vae, x), z, atol=1e-4)
        assert torch.allclose(composed.decode(pipe.vae, z), pipe.vae.decoder(z), atol=1e-4)
