"""Choosing, remaking, undoing: what is touched, and that it comes back to the byte."""

import copy
import json
import pickle
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from notices import SegueWarning
from shapes import QUICK, contents, latents, picture, tiny_interpolator

from segue.engine.dialogue import AcceptRest, Again, Candidates, Pick
from segue.errors import SegueError
from segue.film.morph import Morph
from segue.method.tree import FrameKey
from segue.models.stable_diffusion import StableDiffusion
from segue.run.journal import Edit
from segue.settings.kinds import ComputeSettings, FilmSettings

NINE = {**QUICK, "num_frames": 9, "num_inference_steps": 4, "batch_size": 4}


def at(eighths: int) -> FrameKey:
    return FrameKey.at(Fraction(eighths, 8))


def film(path: Path, choose: Any = None, **settings: Any) -> None:
    """A film of the published tree, in which every frame is a parent; aligned ones are in test_bend.py."""
    tiny_interpolator()(picture(0), picture(1), output=path, choose=choose, **{"align": False, **NINE, **settings})


def frames(path: Path) -> dict[int, str]:
    """A digest of each frame by its number."""
    return dict(enumerate(contents(path, "frames/").values()))


def list_touched(before: dict[int, str], after: dict[int, str]) -> set[int]:
    return {i for i in before if before[i] != after[i]}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    film(tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize(("frame", "descendants"), [(4, {1, 2, 3, 5, 6, 7}), (2, {1, 3}), (6, {5, 7}), (3, set())])
def test_a_redo_touches_the_frame_and_its_descendants(run: Path, frame: int, descendants: set[int]) -> None:
    before, times = frames(run), {file: file.stat().st_mtime_ns for file in (run / "frames").iterdir()}
    tiny_interpolator().remake(run, at(frame))
    assert list_touched(before, frames(run)) == {frame} | descendants
    names = {f"{at(i).name}.png" for i in {frame} | descendants}
    for file, time in times.items():
        if file.name not in names:
            assert file.stat().st_mtime_ns == time


def test_undo_and_redo_to_the_byte(run: Path) -> None:
    interpolator = tiny_interpolator()
    shown = [frames(run)]
    states = [(run / "state.json").read_bytes()]
    for remake in ((at(4), None), (at(2), Edit(prompt="an owl"))):
        interpolator.remake(run, *remake)
        shown.append(frames(run))
        states.append((run / "state.json").read_bytes())
    assert list_touched(shown[1], shown[2]) == {1, 2, 3}
    for step, there in (
        (interpolator.undo, 1),
        (interpolator.undo, 0),
        (interpolator.redo, 1),
        (interpolator.redo, 2),
        (interpolator.undo, 1),
    ):
        step(run)
        assert frames(run) == shown[there]
        assert (run / "state.json").read_bytes() == states[there]
    interpolator.remake(run, at(6))
    with pytest.raises(SegueError, match="nothing to redo"):
        interpolator.redo(run)
    interpolator.undo(run)
    interpolator.undo(run)
    assert frames(run) == shown[0]
    with pytest.raises(SegueError, match="nothing to undo"):
        interpolator.undo(run)


def test_undo_calls_no_denoiser(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interpolator = tiny_interpolator()
    interpolator.remake(run, at(4))
    monkeypatch.setattr(interpolator.backbone, "denoise", None)
    interpolator.undo(run)
    interpolator.redo(run)


def test_an_undo_that_was_interrupted_is_finished_by_the_next_call(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interpolator = tiny_interpolator()
    first = frames(run)
    interpolator.remake(run, at(4))
    second = frames(run)

    def stop(progress: Any) -> None:
        if progress.frames == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interpolator.undo(run, callback=stop)
    assert frames(run) not in (first, second)
    film(run)
    assert frames(run) == first


@pytest.mark.parametrize("edit", [Edit(prompt="an owl"), Edit(negative_prompt="fog"), Edit(seed=5), Edit(noise=0.6)])
def test_edits(run: Path, edit: Edit) -> None:
    interpolator = tiny_interpolator()
    before = latents(run)
    interpolator.remake(run, at(3), edit)
    after = latents(run)
    assert not torch.allclose(before[at(3)], after[at(3)], atol=1e-3)
    assert all(torch.equal(before[key], after[key]) for key in before if key != at(3))
    undone = interpolator.undo(run)
    assert all(torch.equal(before[key], latents(run)[key]) for key in before)
    assert len(undone) == 9


def test_noise_outside_of_the_usual_is_told(run: Path, tmp_path: Path) -> None:
    with pytest.warns(SegueWarning, match=r"noise 0\.7: above 0\.65 frames leave their parents"):
        tiny_interpolator().remake(run, at(3), Edit(noise=0.7))
    with pytest.warns(SegueWarning, match=r"noise 0\.2: below 0\.25 frames look like a cross-fade"):
        film(tmp_path / "low", noise=(0.2, 0.65))
    film(tmp_path / "aligned", noise=(0.2, 0.65), align=True)
    film(tmp_path / "none", noise=(0.2, 0.9), scheme="interpolate")


def test_only_the_prompt_differs_where_the_seed_is_the_same(tmp_path: Path) -> None:
    """A remake with a seed is the same whatever was tried before; without an edit its noise is new each time."""
    interpolator = tiny_interpolator()
    found = []
    for tries in (0, 2):
        path = tmp_path / str(tries)
        film(path)
        for _ in range(tries):
            interpolator.remake(path, at(3))
        interpolator.remake(path, at(3), Edit(seed=5))
        found.append(latents(path)[at(3)])
    assert torch.equal(found[0], found[1])
    interpolator.remake(path, at(3))
    assert not torch.allclose(latents(path)[at(3)], found[0], atol=1e-3)


def test_an_edit_lasts_until_another(run: Path) -> None:
    """A remake without an edit keeps the frame's own words; its parent's remake does too."""
    interpolator = tiny_interpolator()
    interpolator.remake(run, at(2), Edit(prompt="an owl"))
    interpolator.remake(run, at(2))
    journal = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    assert [line["edit"] for line in journal] == [{"prompt": "an owl"}] * 2
    before = frames(run)
    interpolator.remake(run, at(4))
    assert list_touched(before, frames(run)) == {1, 2, 3, 4, 5, 6, 7}
    state = json.loads((run / "state.json").read_text())["frames"]
    assert state[2]["candidate"] == 2  # still the remake's, from new parents
    interpolator.undo(run)
    assert frames(run) == before


def test_a_candidate_by_its_number(tmp_path: Path) -> None:
    run = tmp_path / "run"
    film(run, candidates=2)
    interpolator, before = tiny_interpolator(), frames(run)
    interpolator.remake(run, at(4), candidate=1)
    assert list_touched(before, frames(run)) == {1, 2, 3, 4, 5, 6, 7}
    interpolator.remake(run, at(4), candidate=0)
    assert frames(run) == before
    with pytest.raises(SegueError, match=r"frame 0\.5 has candidates 0 to 1, not 2"):
        interpolator.remake(run, at(4), candidate=2)
    with pytest.raises(SegueError, match="a candidate that is there already cannot take another prompt"):
        interpolator.remake(run, at(4), Edit(prompt="x"), candidate=1)


def test_wrong_redos_change_nothing(run: Path, tmp_path: Path) -> None:
    interpolator, before = tiny_interpolator(), contents(run)
    for frame, message in ((FrameKey(0), "is a keyframe"), (FrameKey(0, Fraction(1, 3)), "has no frame at 0.333")):
        with pytest.raises(SegueError, match=message):
            interpolator.remake(run, frame)
    assert contents(run) == before
    with pytest.raises(SegueError, match="does not hold a run"):
        interpolator.remake(tmp_path / "nothing", at(4))
    assert not (tmp_path / "nothing").exists()
    film(tmp_path / "other", scheme="interpolate")
    with pytest.raises(SegueError, match="only frames made by the scheme branching"):
        interpolator.remake(tmp_path / "other", at(4))


@pytest.mark.parametrize(
    "values", [{"prompt": 5}, {"negative_prompt": 5}, {"seed": "7"}, {"seed": 1.5}, {"noise": "0.4"}, {"pose": 1}]
)
def test_an_edit_of_a_wrong_kind_is_refused_where_it_is_made(values: dict[str, Any]) -> None:
    with pytest.raises(SegueError, match=f"a frame's {next(iter(values))} is (a|the) .*, not"):
        Edit(**values)


def test_numbers_of_any_kind_are_kept_as_pythons(tmp_path: Path) -> None:
    def choose(candidates: Candidates) -> Pick:
        return Pick(np.argmax([0, 1]))  # type: ignore[arg-type]

    settings: dict[str, Any] = {**QUICK, "num_frames": 3, "candidates": 2}
    interpolator, key = tiny_interpolator(), FrameKey(0, Fraction(1, 2))
    interpolator(picture(0), picture(1), output=tmp_path / "run", choose=choose, **settings)
    edit = Edit(seed=np.int64(3), noise=Fraction(1, 2), pose=None)  # type: ignore[arg-type]
    interpolator.remake(tmp_path / "run", key, edit)
    assert edit == Edit(seed=3, noise=0.5)
    interpolator.remake(tmp_path / "run", key, candidate=np.int64(1))  # type: ignore[arg-type]
    shown = [
        json.loads(line).get("candidate") for line in (tmp_path / "run" / "journal.jsonl").read_text().splitlines()
    ]
    assert shown[0] == shown[-1] == 1


@pytest.mark.parametrize("candidate", [1.5, True, "0"])
def test_a_candidate_is_a_whole_number(run: Path, candidate: Any) -> None:
    before = contents(run)
    with pytest.raises(SegueError, match="candidate is a whole number, not "):
        tiny_interpolator().remake(run, at(4), candidate=candidate)
    with pytest.raises(SegueError, match="candidate is a whole number, not "):
        Pick(candidate)
    assert contents(run) == before


def test_what_is_no_frame_and_no_edit_is_named(run: Path) -> None:
    before = contents(run)
    wrong: Any
    for wrong in (2, Fraction(1, 2), "1/2"):
        with pytest.raises(SegueError, match=r"frame is a FrameKey, such as FrameKey.at\('1/2'\), not "):
            tiny_interpolator().remake(run, wrong)
    for wrong in ({"prompt": "x"}, "x"):
        with pytest.raises(SegueError, match=r"edit is an Edit, .*, not "):
            tiny_interpolator().remake(run, at(4), wrong)
        with pytest.raises(SegueError, match=r"edit is an Edit, .*, not "):
            Again(wrong)
    with pytest.raises(SegueError, match=r"film is a FilmSettings, .*, not "):
        Morph(run).save(run.parent / "a.mp4", {"fps": 3})  # type: ignore[arg-type]
    assert contents(run) == before


def test_a_film_is_found_from_wherever_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    morph = tiny_interpolator()(picture(0), picture(1), output="run", **{**QUICK, "num_frames": 3})
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert morph.frames[0].tobytes() == picture(0).tobytes()
    assert morph.save("a.gif").exists()
    assert len(morph.distances()) == 2
    assert copy.deepcopy(morph).frames[1].tobytes() == Morph("../run").frames[1].tobytes()


def test_a_temporary_film_cannot_be_copied() -> None:
    morph = tiny_interpolator()(picture(0), picture(1), **{**QUICK, "num_frames": 3})
    for copied in (copy.deepcopy, pickle.dumps):
        with pytest.raises(SegueError, match="give it an output"):
            copied(morph)
    with pytest.raises(SegueError, match="output is an empty name"):
        tiny_interpolator()(picture(0), picture(1), output="", **QUICK)


def test_a_contact_sheet_is_a_png(run: Path) -> None:
    with pytest.raises(SegueError, match=r"sheet.jpg: a contact sheet is a .png"):
        Morph(run).contact_sheet(run.parent / "sheet.jpg")
    assert not (run.parent / "sheet.jpg").exists()


def test_a_wrong_answer_of_a_chooser_notes_nothing(tmp_path: Path) -> None:
    with pytest.raises(SegueError, match="count: at least 1 candidate, not -1"):
        Again(count=-1)
    with pytest.raises(SegueError, match="a chooser answers with Pick, Again or AcceptRest, not None"):
        film(tmp_path / "run", lambda _candidates: None, num_frames=3, candidates=2)
    assert not (tmp_path / "run" / "journal.jsonl").exists()


def test_a_film_is_never_written_over_its_run_or_other_files(run: Path, tmp_path: Path) -> None:
    morph, before = Morph(run), contents(run)
    with pytest.raises(SegueError, match="holds other things than frames"):
        morph.save(run)
    assert contents(run) == before
    morph.save(tmp_path / "frames")
    morph.save(tmp_path / "frames", FilmSettings(fps=5), hold=0.1)
    with pytest.raises(SegueError, match="unknown setting 'nonsense'"):
        morph.save(tmp_path / "frames", FilmSettings(), nonsense=3)  # type: ignore[call-arg]


def test_growing_after_a_redo_keeps_it(run: Path) -> None:
    tiny_interpolator().remake(run, at(4))
    before = contents(run, "frames/")
    film(run, num_frames=17)
    after = contents(run, "frames/")
    assert len(after) == 17
    assert {name: after[name] for name in before} == before


class Chooser:
    """Answers by frame; notes what it was asked."""

    def __init__(self, answer: Callable[[Candidates, int], Any]) -> None:
        self.answer = answer
        self.asked: list[tuple[FrameKey, tuple[int, ...]]] = []

    def __call__(self, candidates: Candidates) -> Any:
        self.asked.append((candidates.key, tuple(candidates.pictures)))
        return self.answer(candidates, len(self.asked))


def test_picks_are_followed(tmp_path: Path) -> None:
    chooser = Chooser(lambda candidates, _: Pick(1))
    film(tmp_path / "run", chooser, candidates=2)
    assert chooser.asked == [(at(i), (0, 1)) for i in (4, 2, 6, 1, 3, 5, 7)]
    state = json.loads((tmp_path / "run" / "state.json").read_text())["frames"]
    assert [frame["candidate"] for frame in state if not frame["keyframe"]] == [1] * 7
    assert len(list((tmp_path / "run" / "pictures").iterdir())) == 7  # those of the others are gone
    asked_again = Chooser(lambda candidates, _: Pick(0))
    film(tmp_path / "run", asked_again, candidates=2)
    assert asked_again.asked == []


def test_candidates_of_another_noise_level_stay(tmp_path: Path) -> None:
    def state(path: Path) -> Any:
        return json.loads((path / "state.json").read_text())["frames"][4]

    film(tmp_path / "run", candidates=3, keep_candidates=True)
    before = state(tmp_path / "run")
    compute = ComputeSettings(keep_candidates=True)
    tiny_interpolator().remake(tmp_path / "run", at(4), Edit(noise=0.6), compute=compute)
    after = state(tmp_path / "run")
    assert list(before["candidates"]) == ["0", "1", "2"]
    assert list(after["candidates"]) == ["0", "1", "2", "3", "4", "5"]
    assert {number: after["candidates"][number] for number in "012"} == before["candidates"]
    tiny_interpolator().remake(tmp_path / "run", at(4), candidate=before["candidate"], compute=compute)
    assert state(tmp_path / "run")["cache_key"] == before["cache_key"]


def test_one_candidate_is_asked_about_too(tmp_path: Path) -> None:
    chooser = Chooser(lambda candidates, number: Again() if number == 1 else Pick(candidates.best))
    film(tmp_path / "run", chooser, num_frames=3)
    assert chooser.asked == [(at(4), (0,)), (at(4), (0, 1))]
    state = json.loads((tmp_path / "run" / "state.json").read_text())["frames"]
    assert state[1]["candidate"] == 1  # without a ranking the newest is suggested


def test_a_redo_asks_about_no_other_frame_than_those_it_makes(tmp_path: Path) -> None:
    film(tmp_path / "run")
    chooser = Chooser(lambda candidates, number: Again() if number == 2 else Pick(max(candidates.pictures)))
    tiny_interpolator().remake(tmp_path / "run", at(2), choose=chooser)
    assert [key for key, _ in chooser.asked] == [at(2), at(1), at(1), at(3)]
    before = contents(tmp_path / "run", "frames/")
    tiny_interpolator().undo(tmp_path / "run")
    film(tmp_path / "fresh")
    assert contents(tmp_path / "run", "frames/") == contents(tmp_path / "fresh", "frames/")
    tiny_interpolator().redo(tmp_path / "run")
    assert contents(tmp_path / "run", "frames/") == before


def test_candidates_are_kept_when_asked_for(tmp_path: Path) -> None:
    film(tmp_path / "run", candidates=2, keep_candidates=True)
    assert len(list((tmp_path / "run" / "pictures").iterdir())) == 14


def test_candidates_of_a_finished_film_come_back_without_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    film(tmp_path / "kept", candidates=2, keep_candidates=True)
    film(tmp_path / "run", candidates=2)
    assert len(list((tmp_path / "run" / "pictures").iterdir())) == 7
    monkeypatch.setattr(StableDiffusion, "denoise", lambda *_a, **_k: pytest.fail("the network was called"))
    film(tmp_path / "run", candidates=2, keep_candidates=True)
    assert contents(tmp_path / "run", "pictures/") == contents(tmp_path / "kept", "pictures/")


def test_again_makes_other_candidates(tmp_path: Path) -> None:
    def answer(candidates: Candidates, number: int) -> Any:
        return {1: Again(), 2: Again(Edit(prompt="an owl"), count=3)}.get(number, Pick(max(candidates.pictures)))

    chooser = Chooser(answer)
    film(tmp_path / "run", chooser, num_frames=3, candidates=2, keep_candidates=True)
    assert [numbers for _, numbers in chooser.asked] == [(0, 1), (0, 1, 2, 3), (0, 1, 2, 3, 4, 5, 6)]
    state = json.loads((tmp_path / "run" / "state.json").read_text())["frames"]
    assert state[1]["candidate"] == 6
    assert len(set(contents(tmp_path / "run", "pictures/").values())) == 7


def test_again_cannot_change_the_noise_level(tmp_path: Path) -> None:
    with pytest.raises(SegueError, match="noise level cannot change"):
        film(tmp_path / "run", Chooser(lambda *_: Again(Edit(noise=0.4))), num_frames=3, candidates=2)


def test_a_candidate_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SegueError, match=r"frame 0\.5 has no candidate 9"):
        film(tmp_path / "run", Chooser(lambda *_: Pick(9)), num_frames=3, candidates=2)


def test_accept_the_rest(tmp_path: Path) -> None:
    chooser = Chooser(lambda candidates, number: Pick(1) if number == 1 else AcceptRest())
    film(tmp_path / "run", chooser, candidates=2)
    assert [key for key, _ in chooser.asked] == [at(4), at(2)]
    state = json.loads((tmp_path / "run" / "state.json").read_text())["frames"]
    assert [frame.get("candidate") for frame in state] == [None, 0, 0, 0, 1, 0, 0, 0, None]


def test_interrupting_a_pick_keeps_what_was_chosen(tmp_path: Path) -> None:
    def answer(candidates: Candidates, number: int) -> Any:
        if number == 4:
            raise KeyboardInterrupt
        return Again() if number == 2 else Pick(max(candidates.pictures))

    first = Chooser(answer)
    with pytest.raises(KeyboardInterrupt):
        film(tmp_path / "run", first, candidates=2)
    assert [key for key, _ in first.asked] == [at(4), at(2), at(2), at(6)]
    second = Chooser(lambda candidates, _: Pick(max(candidates.pictures)))
    film(tmp_path / "run", second, candidates=2)
    assert [key for key, _ in second.asked] == [at(6), at(1), at(3), at(5), at(7)]

    def same(candidates: Candidates, number: int) -> Any:
        return Again() if number == 2 else Pick(max(candidates.pictures))

    film(tmp_path / "unbroken", Chooser(same), candidates=2)
    assert contents(tmp_path / "run") == contents(tmp_path / "unbroken")


def test_interrupting_after_again_shows_the_same_candidates(tmp_path: Path) -> None:
    def answer(candidates: Candidates, number: int) -> Any:
        if number == 2:
            raise KeyboardInterrupt
        return Again()

    with pytest.raises(KeyboardInterrupt):
        film(tmp_path / "run", Chooser(answer), num_frames=3, candidates=2)
    chooser = Chooser(lambda *_: Pick(0))
    film(tmp_path / "run", chooser, num_frames=3, candidates=2)
    assert chooser.asked == [(at(4), (0, 1, 2, 3))]


def test_undo_brings_back_picks_after_a_redo_with_again(tmp_path: Path) -> None:
    run, interpolator = tmp_path / "run", tiny_interpolator()
    film(run, Chooser(lambda *_: Pick(1)), candidates=2)
    before = frames(run)

    def answer(candidates: Candidates, number: int) -> Any:
        return Again() if number in (1, 3) else Pick(max(candidates.pictures))

    chooser = Chooser(answer)
    interpolator.remake(run, at(4), choose=chooser)
    after = frames(run)
    assert [key for key, _ in chooser.asked] == [at(4), at(4), at(2), at(2), at(6), at(1), at(3), at(5), at(7)]
    assert chooser.asked[1][1] == (2, 3, 4, 5)
    interpolator.undo(run)
    assert frames(run) == before
    interpolator.redo(run)
    assert frames(run) == after


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_same_choices_make_the_same_film_whatever_the_batch(
    batch: int, tmp_path: Path, reference: dict[FrameKey, Any]
) -> None:
    film(tmp_path / "run", Chooser(picks), candidates=3, batch_size=batch)
    found = latents(tmp_path / "run")
    assert found.keys() == reference.keys()
    assert all(torch.allclose(found[key], reference[key], rtol=0, atol=1e-4) for key in found)


def picks(candidates: Candidates, number: int) -> Any:
    return Again() if number == 2 else Pick((candidates.key.place * 8).numerator % 3)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[FrameKey, Any]:
    path = tmp_path_factory.mktemp("reference") / "run"
    film(path, Chooser(picks), candidates=3, batch_size=16)
    return latents(path)


def test_another_model_is_refused(run: Path) -> None:
    before = contents(run)
    with pytest.raises(SegueError, match=r"was made with tiny \(weights .*\), not with tiny"):
        tiny_interpolator("v_prediction").remake(run, at(4))
    assert contents(run) == before
