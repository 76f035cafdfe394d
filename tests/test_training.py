"""The stages of training: one loop that resumes, random pictures, checkpoints from exported weights."""

import json
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from segue.evaluate.measures import sharpness
from segue.models.checkpoints import pocket_folder

ROOT = Path(__file__).parent.parent


@pytest.fixture
def loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """`training.loop` with an empty cache folder."""
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setenv("SEGUE_POCKET", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["stage"])
    for name in [name for name in sys.modules if name.split(".")[0] == "training"]:
        monkeypatch.delitem(sys.modules, name)
    from training import loop

    yield loop
    for name in [name for name in sys.modules if name.split(".")[0] == "training"]:
        del sys.modules[name]


def line() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 1)


def test_a_stage_learns_and_goes_on_from_its_checkpoint(loop: ModuleType, tmp_path: Path) -> None:
    how = loop.Course(minutes=1, batch=16, rate=3e-2, ema=0.9, first=5, log_every=10)
    target = torch.tensor([[1.0, -2.0, 0.5]])
    seen: list[int] = []

    def losses(network: nn.Module, last: int) -> Callable[[int], tuple[Tensor, Mapping[str, Tensor]]]:
        def loss_of(step: int) -> tuple[Tensor, Mapping[str, Tensor]]:
            seen.append(step)
            if step >= last:
                signal.raise_signal(signal.SIGTERM)
            x = torch.randn(how.batch, 3, generator=loop.generator(step))
            return (network(x) - x @ target.T).square().mean(), {"one": torch.tensor(1.0)}

        return loss_of

    first = line()
    loop.train("line", first, losses(first, 40), how, 1.0)
    state = torch.load(tmp_path / "line.pt", weights_only=True)
    assert state["step"] == 41  # The step that was asked to end is finished.
    again = line()
    loop.train("line", again, losses(again, 200), how, 1.0)
    assert seen == list(range(201))
    assert torch.allclose(again.weight, target, atol=0.2)
    rows = (tmp_path / "line.csv").read_text().splitlines()
    assert rows[0] == "step,seconds,rate,loss,one"
    assert [int(row.split(",")[0]) for row in rows[1:]] == list(range(10, 201, 10))
    averaged = torch.load(tmp_path / "line.pt", weights_only=True)["ema"]["weight"]
    assert not torch.equal(averaged, again.weight)
    assert torch.allclose(averaged, again.weight, atol=0.1)


def test_averaged_weights_are_applied_and_taken_back(loop: ModuleType) -> None:
    network = line()
    own = network.weight.detach().clone()
    ema = loop.Ema(network, 0.5)
    with torch.no_grad():
        network.weight.add_(1)
    ema.update(network)  # The first memory is 2 / 11.
    with ema.applying(network):
        assert torch.allclose(network.weight, own + 9 / 11)
    assert torch.allclose(network.weight, own + 1)


def test_random_pictures_keep_what_they_should(loop: ModuleType) -> None:
    from training import augment

    random = loop.generator(3)
    rgba = torch.rand(64, 4, 16, 16, generator=random)
    rgba[:, :3] *= rgba[:, 3:]
    changed = augment.recolour(rgba, random)
    assert torch.equal(changed[:, 3], rgba[:, 3])
    assert (changed[:, :3] <= changed[:, 3:] + 1e-6).all()
    permuted = [
        any(
            torch.allclose(changed[i, :3], (rgba[i, order] * scale), atol=1e-5)
            for order in ([0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0])
            for scale in [float(changed[i, :3].sum() / rgba[i, :3].sum())]
        )
        for i in range(64)
    ]
    assert 0.6 < sum(permuted) / 64 < 0.95  # One in five is inverted.
    inked = augment.outline(rgba, random)
    assert inked.min() >= 0
    assert (inked[:, 3] <= 1 + 1e-6).all()
    behind = augment.backgrounds(400, 8, random, white=0.4)
    assert 0.3 < (behind == 1).all((1, 2, 3)).float().mean() < 0.5
    assert torch.allclose(augment.lay_on(torch.zeros(400, 4, 8, 8), behind), behind * 2 - 1)


def test_pictures_are_drawn_at_the_size_asked_for(loop: ModuleType, tmp_path: Path) -> None:
    from training import icons, pairs

    band = '<rect x="1" width="2" height="4" fill="#ff0000"/>'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 4 4" width="128" height="128">{band}</svg>'
    for size in (128, 512):
        rgba = icons.rasterise(svg, size)
        assert rgba is not None
        assert rgba.shape == (size, size, 4)
        assert (rgba[:, size // 4 : -size // 4] == (255, 0, 0, 255)).all()
        assert (rgba[:, : size // 4, 3] == 0).all()
        assert (rgba[:, -size // 4 :, 3] == 0).all()
    assert icons.rasterise("no picture") is None
    pairs.draw(svg, tmp_path / "band.png")
    drawn = np.asarray(Image.open(tmp_path / "band.png"))
    assert (drawn[0, [0, 128, 383, 384]] == [[255, 255, 255], [255, 0, 0], [255, 0, 0], [255, 255, 255]]).all()


def test_the_pairs_of_figures_are_the_drawn_ones(
    loop: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training import pairs

    committed = pairs.FOLDER
    monkeypatch.setattr(pairs, "FOLDER", tmp_path)
    line = pairs.figures(3)
    assert json.dumps(line) in (committed / "manifest.jsonl").read_text().splitlines()
    for side in "ab":
        picture, known = (np.asarray(Image.open(folder / line[side])) for folder in (tmp_path, committed))
        assert picture.shape == (512, 512, 3)
        assert np.array_equal(picture, known)
        pose = json.loads((tmp_path / line[f"pose_{side}"]).read_text())
        assert pose == json.loads((committed / line[f"pose_{side}"]).read_text())
        assert (pose["canvas_width"], pose["canvas_height"]) == (512, 512)
        points = np.array(pose["people"][0]["pose_keypoints_2d"]).reshape(18, 3)[:, :2]
        drawn = np.argwhere((picture < 250).any(2))[:, ::-1]
        assert (drawn.min(0) <= points.min(0)).all()
        assert (points.max(0) <= drawn.max(0) + 1).all()
        assert np.ptp(points, axis=0).max() > 300  # The figure fills the picture, and its keypoints the figure.


def test_every_example_has_a_licence(loop: ModuleType) -> None:
    from training import examples

    rows = [line.split(" | ") for line in (examples.FOLDER / "LICENCES.md").read_text().splitlines() if ".png" in line]
    named = {row[0].removeprefix("| "): row[1] for row in rows}
    assert named == {f"{name}.png": concept for name, (concept, _) in examples.EXAMPLES.items()}
    assert {path.name for path in examples.FOLDER.glob("*.png")} == named.keys()


def test_the_composed_decoder_has_the_blocks_above_32_pixels(loop: ModuleType) -> None:
    from training import composed

    torch.manual_seed(0)
    vae = composed.build_vae()
    for weight in vae.parameters():  # Nothing may stay zero.
        nn.init.normal_(weight, std=0.05)
    z = torch.randn(2, 4, 6, 10)
    with torch.no_grad():
        assert torch.allclose(composed.decode(vae, z), vae.decoder(z), atol=1e-4)
    exported = json.loads((pocket_folder() / "vae" / "config.json").read_text())
    assert exported["num_decoder_blocks"] == list(vae.config.num_decoder_blocks)
    assert exported["num_encoder_blocks"] == list(vae.config.num_encoder_blocks)


def test_the_loss_of_the_decoder_wants_sharp_edges(loop: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    from training import vae

    def edge(place: int) -> Tensor:
        picture = torch.full((1, 3, 32, 32), -1.0)
        picture[..., place:] = 1
        return picture

    def cost(drawn: Tensor) -> float:
        """On average, of an edge that lies in one of two places."""
        return sum(vae.edges(drawn, place).item() for place in places) / 2

    places = edge(16), edge(17)
    soft = (places[0] + places[1]) / 2
    assert vae.edges(soft, soft) == 0
    assert cost(places[0]) < cost(soft)
    assert vae.strength(places[0].diff(dim=3)).max().item() == pytest.approx(1, abs=1e-4)  # One of four steps is 2.
    assert vae.strength(soft.diff(dim=3)).max().item() == pytest.approx(0.5**0.5, abs=1e-4)  # Two are 1.
    monkeypatch.setattr(vae, "STRENGTH", 0.0)
    assert cost(places[0]) == pytest.approx(cost(soft))
    picture = torch.rand(1, 3, 32, 32, generator=loop.generator(0))
    found = vae.laplacian(picture * 2 - 1).std(correction=0).item() / 2
    assert found == pytest.approx(sharpness(picture[0].permute(1, 2, 0).double().numpy()), rel=1e-5)


def test_checkpoints_come_from_the_exported_weights(loop: ModuleType, tmp_path: Path) -> None:
    from training import clip, export, latents, restore, store, unet

    restore.main()
    from safetensors.torch import load_file

    exported = load_file(pocket_folder() / "unet" / "diffusion_pytorch_model.safetensors")
    state = torch.load(tmp_path / "unet.pt", weights_only=True)
    fresh = unet.build_unet()
    fresh.load_state_dict(state["ema"])
    assert all(torch.equal(weight.half(), exported[name]) for name, weight in fresh.state_dict().items())
    assert (
        len(clip.build_tokenizer([]))
        == json.loads((pocket_folder() / "clip" / "config.json").read_text())["text_config"]["vocab_size"]
    )
    # The latents' scale is the exported one as long as the encoder is.
    factor = json.loads((pocket_folder() / "vae" / "config.json").read_text())["scaling_factor"]
    assert export.scaling_factor() == factor
    vae = latents.trained_vae()
    torch.nn.init.zeros_(vae.encoder.layers[0].weight)
    store.save_checkpoint("vae", {"ema": vae.state_dict()})
    with pytest.raises(AssertionError, match=r"training\.latents comes first"):
        export.scaling_factor()
    # The UNet's text tower is CLIP's.
    text = load_file(pocket_folder() / "clip" / "model.safetensors")
    tower = latents.text_tower().state_dict()
    assert all(torch.equal(weight.half(), text[f"text_model.{name}"]) for name, weight in tower.items())


def test_the_unet_follows_another_text_tower(loop: ModuleType) -> None:
    from training import refit, unet

    torch.manual_seed(0)
    network = unet.build_unet().eval()
    new = torch.randn(4, 32, 256)
    turned = torch.linalg.qr(torch.randn(256, 256)).Q
    z, t = torch.randn(4, 4, 16, 16), torch.tensor([100, 300, 500, 900])
    with torch.no_grad():
        known, unknown = network(z, t, new @ turned).sample, network(z, t, new).sample
        rest = refit.refit(network, new.flatten(0, 1), (new @ turned).flatten(0, 1))
        refitted = network(z, t, new).sample
    assert rest < 1e-4
    assert (refitted - known).abs().max() < 0.02 * (unknown - known).abs().max()
