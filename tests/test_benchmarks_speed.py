"""The benchmark of speed: the transcription is the method, calls are timed and counted, tables find their places."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from shapes import tiny_interpolator

from benchmarks import speed
from benchmarks.transcription import Procedure, slerp
from segue.method import blend

CPU = torch.device("cpu")
PROCEDURE = Procedure(num_frames=5, num_inference_steps=20, guidance_scale=3.0)
MATCHING: dict[str, Any] = {"solver": "ddim", "num_inference_steps": 20, "size": 32}


def test_the_transcription_and_the_engine_make_the_same_film() -> None:
    """Up to the grids: the transcription's steps are diffusers' own, the engine's begin exactly at the noise level."""
    pipe = speed.pipe_of(tiny_interpolator())
    with speed.watch({"unet": [(pipe.unet, "forward")]}, CPU) as plain:
        paper = speed.film_by_paper(pipe, PROCEDURE, size=32)
    with speed.watch({"unet": [(pipe.unet, "forward")]}, CPU) as ours:
        engine = speed.film_by_engine(tiny_interpolator(), PROCEDURE, **MATCHING)
    assert "forward" not in vars(pipe.unet)
    assert len(plain["unet"].spans) == plain["unet"].samples == ours["unet"].samples == 2 * (12 + 2 * 7)
    assert len(ours["unet"].spans) == 12 + 7  # a level is one batch, and guidance one call
    other = speed.film_by_engine(tiny_interpolator(), PROCEDURE, **MATCHING, seed=1)
    assert speed.distance(paper, engine) < 0.1 * speed.distance(engine, other)
    # The released code's slip makes two steps more of each frame, from another noise level than the parents have.
    with speed.watch({"unet": [(pipe.unet, "forward")]}, CPU) as slipped:
        speed.film_by_paper(pipe, Procedure(**{**vars(PROCEDURE), "slip": 2}), size=32)
    assert slipped["unet"].samples == plain["unet"].samples + 3 * 2 * 2


def test_the_transcriptions_blend_is_the_engines() -> None:
    a, b = (torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(2))
    assert torch.allclose(slerp(a, b, 0.3), blend.slerp(a, b, 0.3), atol=1e-6)
    assert torch.allclose(slerp(a, a, 0.3), a)


def test_calls_inside_of_others_or_at_the_same_time_count_once() -> None:
    assert speed.Calls([(3.0, 4.0), (0.0, 2.0), (1.0, 2.5), (0.5, 1.0)]).seconds == 3.5
    assert speed.Calls().seconds == 0


def test_watched_methods_are_timed_and_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(10))
    monkeypatch.setattr(speed, "now", lambda _device: float(next(ticks)))
    owner = SimpleNamespace(inner=lambda *, sample: sample)
    owner.outer = lambda x: owner.inner(sample=x) + 1
    before = vars(owner).copy()
    with speed.watch({"part": [(owner, "outer"), (owner, "inner")]}, CPU) as calls:
        assert torch.equal(owner.outer(torch.zeros(3)), torch.ones(3))
    assert calls["part"].spans == [(1.0, 2.0), (0.0, 3.0)]
    assert calls["part"].seconds == 3
    assert calls["part"].samples == 6
    assert vars(owner) == before


def test_peak_memory_begins_anew() -> None:
    torch.ones(64 * 2**20)  # 256 MB that must not count in the second measurement
    peaks = []
    for megabytes in (16, 144):
        with speed.peak_memory(CPU) as found:
            torch.ones(megabytes * 2**18)
        peaks.append(found[0])
    if Path("/proc/self/clear_refs").exists():
        first, second = (float(peak.removesuffix(" GB")) for peak in peaks)
        assert second - first == pytest.approx(0.134, abs=0.03)


def test_tables_come_between_their_marks() -> None:
    page = "a\n<!-- start -->\nold\n<!-- /start -->\nb\n"
    found = {"measured": "Measured.", "head": ["", "s"], "rows": [["x", "1"], ["y", "2"]], "note": "Note."}
    table = "Measured.\n\n| | s |\n|---|---|\n| x | 1 |\n| y | 2 |\n\nNote."
    assert speed.fill(page, "start", speed.show(found)) == f"a\n<!-- start -->\n{table}\n<!-- /start -->\nb\n"
    with pytest.raises(ValueError, match="no marks <!-- lengths -->"):
        speed.fill(page, "lengths", "x")


@pytest.mark.parametrize("name", speed.MEASURES)
def test_the_page_has_a_place_for_every_measurement(name: str) -> None:
    assert f"<!-- {name} -->" in speed.PAGE.read_text()
    speed.fill(speed.PAGE.read_text(), name, "")
