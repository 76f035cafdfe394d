"""The ControlNet for poses: stock `ControlNetModel` from the UNet, which stays as it is, trained on drawn figures.

The control image is the skeleton as ControlNet 1.1 draws it. Run: `python -m training.controlnet` (resumes).
"""

from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import Tensor

from segue.pose.drawing import draw as draw_pose
from segue.pose.keypoints import Person, Pose
from training.loop import DEVICE, Course, arguments, course, generator, train
from training.store import CACHE, load_array, load_checkpoint
from training.unet import build_scheduler, build_unet, latents, loss_weights, v_errors

HOW = course(
    cpu=Course(minutes=12, batch=40, rate=8e-4, ema=0.98, first=50, log_every=25),
    gpu=Course(minutes=1, batch=256, rate=1e-3, ema=0.995, first=50, log_every=50),
)
NO_CAPTION = 0.3  # Often, so that the skeleton is what tells it where the limbs are.


def main() -> None:
    minutes = arguments(__doc__, HOW.minutes).parse_args().minutes
    data, trained = latents(), load_checkpoint("unet")
    assert trained is not None, "training.unet comes first"
    unet = build_unet()
    unet.load_state_dict(trained["ema"])
    unet.requires_grad_(False).to(DEVICE, memory_format=torch.channels_last)
    torch.manual_seed(0)
    control = build_controlnet(unet).requires_grad_(True).to(DEVICE, memory_format=torch.channels_last)
    scheduler, skeletons, batch = build_scheduler(), all_skeletons(), HOW.batch

    def loss_of(step: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        random = generator(step)
        picks = torch.randint(len(data["figures_train"]), (batch,), generator=random, device=DEVICE)
        z = data["figures_train"][picks, 0].float() / data["std"]
        bare = torch.rand(batch, generator=random, device=DEVICE) < NO_CAPTION
        caption = torch.where(bare, 0, data["figures_train_captions"][picks])
        states = data["caption_states"][data["caption_of"][caption]].float()
        drawn = torch.from_numpy(skeletons[data["figures_train_rows"][picks].cpu().numpy()]).to(DEVICE)
        image = (drawn.permute(0, 3, 1, 2).float() / 255).contiguous(memory_format=torch.channels_last)
        t = torch.randint(0, 1000, (batch,), generator=random, device=DEVICE)

        def predict(noisy: Tensor) -> Tensor:
            down, middle = control(noisy, t, states, image, return_dict=False)
            v: Tensor = unet(
                noisy, t, states, down_block_additional_residuals=down, mid_block_additional_residual=middle
            ).sample
            return v

        return (v_errors(predict, scheduler, z, t, random) * loss_weights(scheduler, t)).mean(), {}

    train("controlnet", control, loss_of, HOW, minutes)


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
