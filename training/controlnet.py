"""The ControlNet for poses: stock `ControlNetModel` from the UNet, which stays as it is, trained on drawn figures.

The control image is the skeleton as ControlNet 1.1 draws it. Run: `python -m training.controlnet --minutes 12`.
"""

import argparse
import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import Tensor

from segue.pose.drawing import draw as draw_pose
from segue.pose.keypoints import Person, Pose
from training.store import CACHE, Clock, Ema, Log, Stop, load_array, load_checkpoint, save_checkpoint, warm_up
from training.unet import build_scheduler, build_unet, v_loss

BATCH = 40
RATE = 8e-4
EMA = 0.98
NO_CAPTION = 0.3  # Often, so that the skeleton is what tells it where the limbs are.
LOG_EVERY = 25
SAVE_SECONDS = 120


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=12)
    minutes = parser.parse_args().minutes
    data, trained = load_checkpoint("latents"), load_checkpoint("unet")
    assert data is not None, "training.latents comes first"
    assert trained is not None, "training.unet comes first"
    unet = build_unet()
    unet.load_state_dict(trained["ema"])
    unet.requires_grad_(False).to(memory_format=torch.channels_last)
    torch.manual_seed(0)
    control = build_controlnet(unet).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(control.parameters(), lr=RATE, weight_decay=0.01, betas=(0.9, 0.98), fused=True)
    state = load_checkpoint("controlnet") or {"step": 0, "seconds": 0.0}
    if "model" in state:
        control.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    ema = Ema(control, EMA, state.get("ema"))
    ema.steps = step = int(state["step"])
    generator = torch.Generator().manual_seed(step)
    scheduler, skeletons = build_scheduler(), all_skeletons()
    clock, log, saved = Clock(state["seconds"]), Log("controlnet"), time.monotonic()
    stop = Stop()
    while clock() < minutes * 60 and not stop:
        done = clock() / (minutes * 60)
        for group in optimizer.param_groups:
            group["lr"] = warm_up(step, step / max(done, 1e-3), RATE, first=50)
        picks = torch.randint(len(data["figures_train"]), (BATCH,), generator=generator)
        z = data["figures_train"][picks, 0].float() / data["std"]
        caption = data["figures_train_captions"][picks]
        caption = torch.where(torch.rand(BATCH, generator=generator) < NO_CAPTION, 0, caption)
        states = data["caption_states"][data["caption_of"][caption]].float()
        image = torch.from_numpy(skeletons[data["figures_train_rows"][picks].numpy()]).permute(0, 3, 1, 2).float() / 255
        t = torch.randint(0, 1000, (BATCH,), generator=generator)
        noise_seed = torch.Generator().manual_seed(step)
        eps = torch.randn(z.shape, generator=noise_seed)
        noisy = scheduler.add_noise(z, eps, t)
        with torch.autocast("cpu", torch.bfloat16):
            down, middle = control(
                noisy, t, states, image.contiguous(memory_format=torch.channels_last), return_dict=False
            )
        noise_seed.manual_seed(step)
        loss = v_loss(
            unet,
            scheduler,
            z,
            states,
            t,
            noise_seed,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
        ).mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(control.parameters(), 1.0)
        optimizer.step()
        ema.update(control)
        step += 1
        log.add(loss=loss.item())
        if step % LOG_EVERY == 0:
            log.row(step=step, seconds=clock(), rate=optimizer.param_groups[0]["lr"])
        if time.monotonic() - saved > SAVE_SECONDS or clock() >= minutes * 60 or stop:
            saved = time.monotonic()
            save_checkpoint(
                "controlnet",
                {
                    "step": step,
                    "seconds": clock(),
                    "model": control.state_dict(),
                    "ema": ema.weights,
                    "optimizer": optimizer.state_dict(),
                },
            )


def build_controlnet(unet: UNet2DConditionModel) -> ControlNetModel:
    """A ControlNet that begins as a copy of the UNet's first half."""
    return ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 16, 32, 64))


def skeleton(points: Tensor | list[list[float]]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """The skeleton picture (128, 128, 3) of keypoints (18, 2) in pixels."""
    keypoints = np.concatenate([np.asarray(points, dtype=np.float64), np.ones((18, 1))], 1)
    return np.asarray(draw_pose(Pose((Person(keypoints),), 128, 128), "controlnet1.1"))


def all_skeletons() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """The figures' skeletons (N, 128, 128, 3), kept in `skeletons.npy`."""
    path = CACHE / "skeletons.npy"
    if not path.exists():
        with ProcessPoolExecutor() as pool:
            records = load_array("figures")[1]
            np.save(path, np.stack(list(pool.map(skeleton, [r["keypoints"] for r in records], chunksize=64))))
    return np.asarray(np.load(path, mmap_mode="r"))


if __name__ == "__main__":
    main()
