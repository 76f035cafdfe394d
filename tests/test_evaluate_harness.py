"""The harness on a tiny real pipe: its numbers are the measures of its frames, and nothing is made twice."""

import json
import re
import shutil
from contextlib import nullcontext
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny import tiny_controlnet, tiny_pipe
from tiny_clip import save_tiny_clip

from segue.batch.manifest import Pair, read_pairs
from segue.cli.evaluate import parse_schemes, print_comparison
from segue.engine.interpolator import Interpolator
from segue.errors import SegueError
from segue.evaluate import measures
from segue.evaluate.compare import comparison_of, comparison_page
from segue.evaluate.harness import Stage, evaluate
from segue.evaluate.report import check_report, pick_evenly, write_report
from segue.evaluate.results import Film, Measured, Report, read_report, set_values
from segue.evaluate.statistics import mean_interval
from segue.method.tree import FrameKey
from segue.models.features.networks import Network, load_network
from segue.run.journal import Edit
from segue.settings.kinds import SCHEMES

SETTINGS = {"num_frames": 5, "num_inference_steps": 4, "align": False, "detail": 0.0}  # as the paper's films
SIZE = 32


class Counting(Interpolator):
    """An interpolator that counts its films."""

    films = 0

    def __call__(self, *images: Any, **keywords: Any) -> Any:
        self.films += 1
        return super().__call__(*images, **keywords)


@pytest.fixture(scope="module")
def interpolator() -> Counting:
    return Counting(tiny_pipe())


@pytest.fixture(autouse=True)
def count_anew(interpolator: Counting) -> None:
    interpolator.films = 0


def write_pairs(folder: Path, count: int) -> tuple[Pair, ...]:
    rng = np.random.default_rng(0)
    for i in range(count):
        for side in "ab":
            rough = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
            rough.resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(folder / f"p{i}-{side}.png")
    words = {"prompt_a": "a cat", "prompt_b": "a dog"}
    return tuple(
        pair.model_copy(update={**words, "group": "even" if i % 2 == 0 else "odd"})
        for i, pair in enumerate(read_pairs(folder))
    )


@pytest.fixture(scope="module")
def made(
    interpolator: Counting, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Report, Path, tuple[Pair, ...], list[Network]]:
    """Three pairs, two schemes, two networks."""
    root = tmp_path_factory.mktemp("evaluation")
    (root / "pairs").mkdir()
    pairs = write_pairs(root / "pairs", 3)
    networks = [load_network("pixels"), load_network(f"clip:{save_tiny_clip(root / 'clip')}")]
    output = root / "out"
    report = evaluate(interpolator, pairs, ("branching", "interpolate"), output, networks=networks, settings=SETTINGS)
    return report, output, pairs, networks


def frames_of(output: Path, scheme: str, pair: str) -> list[np.ndarray[Any, np.dtype[np.float64]]]:
    """The frames of a film, read without any of the harness."""
    paths = sorted((output / "runs" / scheme / pair / "frames").glob("*.png"))
    small = [Image.open(path).convert("RGB").resize((16, 16), Image.Resampling.BOX) for path in paths]
    return [np.asarray(image, dtype=np.float64).reshape(-1) / 255 for image in small]


def test_numbers_are_the_measures_of_the_frames(made: Any) -> None:
    report, output, pairs, _ = made
    for scheme in report.schemes:
        films = [frames_of(output, scheme, pair.name) for pair in pairs]
        lengths = [sum(float(np.linalg.norm(b - a)) for a, b in zip(film, film[1:], strict=False)) for film in films]
        cell = report.cell(scheme, "ppl", "pixels")
        assert cell.value == pytest.approx(np.mean(lengths))
        assert cell.spread == pytest.approx(np.std(lengths, ddof=1))
        expected = mean_interval(np.array(lengths))
        assert (cell.low, cell.high) == pytest.approx((expected.low, expected.high))
        assert cell.pairs == 3
        inputs = np.array([film[i] for film in films for i in (0, -1)])
        between = np.array([frame for film in films for frame in film[1:-1]])
        assert report.cell(scheme, "fid_all", "pixels").value == pytest.approx(
            measures.frechet_distance(between, inputs)
        )
        assert report.cell(scheme, "kid", "pixels").value == pytest.approx(
            measures.kernel_distance_of_pairs(between.reshape(3, 3, -1), inputs.reshape(3, 2, -1))
        )
        draws = []
        for choice in measures.random_frames(report.pairs, 5):
            two = np.array([film[i] for film, chosen in zip(films, choice, strict=True) for i in chosen])
            draws.append(measures.frechet_distance(two, inputs))
        assert report.cell(scheme, "fid", "pixels").value == pytest.approx(np.mean(draws))
        for film in report.films:
            if film.scheme == scheme:
                shown = frames_of(output, scheme, film.pair)
                to_last = [float(np.linalg.norm(shown[-1] - frame)) for frame in shown]
                assert film.distances["pixels"]["to_last"] == pytest.approx(to_last, abs=1e-6)
                assert film.positions == (0, 0.25, 0.5, 0.75, 1)


def test_every_measure_is_there(made: Any) -> None:
    report = made[0]
    clip = next(name for name in report.networks if name.startswith("clip"))
    assert (("margin", clip)) in report.columns
    assert (("margin", "pixels")) not in report.columns
    assert (("sharpness", "")) in report.columns
    assert all(cell.value is not None for cell in report.cells)
    assert report.groups == ("even", "odd")
    assert report.cell("branching", "ppl", "pixels", "odd").pairs == 1
    assert report.floors["pixels"]["fid"] > 0
    assert report.settings["num_frames"] == 5
    assert "scheme" not in report.settings  # not shared
    assert report.seconds["films"] > report.seconds["features"] > 0
    margin = report.cell("branching", "margin", clip)
    assert -2 < margin.value < 2


def test_differences_are_over_the_same_pairs(made: Any) -> None:
    report = made[0]
    found = next(d for d in report.differences if (d.measure, d.network) == ("jump", "pixels"))
    values = {
        scheme: np.array([f.values["jump@pixels"] for f in report.films if f.scheme == scheme])
        for scheme in report.schemes
    }
    assert (found.first, found.second) == ("branching", "interpolate")
    assert found.value == pytest.approx((values["branching"] - values["interpolate"]).mean())
    assert found.low <= found.value <= found.high


def test_nothing_is_made_twice(made: Any, interpolator: Counting, tmp_path: Path) -> None:
    report, output, pairs, networks = made
    seen: list[Stage] = []
    again = evaluate(
        interpolator, pairs, report.schemes, output, networks=networks, settings=SETTINGS, callback=seen.append
    )
    assert interpolator.films == 0
    assert all(stage.kept for stage in seen if stage.stage != "report")
    assert replace(again, seconds={}) == replace(report, seconds={})
    assert again.seconds["films"] == pytest.approx(report.seconds["films"], abs=0.01)  # what they took when made

    # One more scheme costs only itself; fewer schemes cost nothing.
    three = ("branching", "interpolate", "interpolate-denoise")
    wider = evaluate(interpolator, pairs, three, output, networks=networks[:1], settings=SETTINGS)
    assert interpolator.films == 3
    assert wider.cell("branching", "ppl", "pixels") == report.cell("branching", "ppl", "pixels")

    # A film whose frame was lost is made again, with the same numbers.
    (output / "runs" / "branching" / "p1" / "frames" / "000.5000000.png").unlink()
    mended = evaluate(interpolator, pairs, report.schemes, output, networks=networks, settings=SETTINGS)
    assert interpolator.films == 4
    assert mended.cells == report.cells


def test_frames_that_changed_are_measured_anew(interpolator: Counting, tmp_path: Path) -> None:
    (tmp_path / "pairs").mkdir()
    pairs, networks = write_pairs(tmp_path / "pairs", 2), [load_network("pixels")]

    def measure(output: Path) -> Report:
        return evaluate(interpolator, pairs, ("branching",), output, networks=networks, settings=SETTINGS)

    before = measure(tmp_path / "out")
    interpolator.remake(
        tmp_path / "out" / "runs" / "branching" / "p0", FrameKey(0, Fraction(1, 2)), Edit(prompt="a fox")
    )
    after = measure(tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "features")
    assert after.cells == measure(tmp_path / "out").cells
    assert after.cell("branching", "ppl", "pixels") != before.cell("branching", "ppl", "pixels")


def test_a_control_image_that_changed_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "pairs").mkdir()
    pairs, image = write_pairs(tmp_path / "pairs", 2), tmp_path / "control.png"
    pipe = tiny_pipe()
    interpolator = Interpolator(pipe, controlnet=tiny_controlnet(pipe))
    settings = {**SETTINGS, "control_image": (str(image), str(image))}
    for colour in ("white", "black"):
        Image.new("RGB", (SIZE, SIZE), colour).save(image)
        with (
            nullcontext() if colour == "white" else pytest.raises(SegueError, match="control images with other content")
        ):
            evaluate(
                interpolator,
                pairs,
                ("branching",),
                tmp_path / "out",
                networks=[load_network("pixels")],
                settings=settings,
            )


def test_films_without_frames_in_between_are_measured_without_fid(interpolator: Counting, tmp_path: Path) -> None:
    (tmp_path / "pairs").mkdir()
    settings = {**SETTINGS, "spacing": "perceptual", "max_distance": 1000.0}
    pairs = write_pairs(tmp_path / "pairs", 2)
    report = evaluate(
        interpolator, pairs, ("branching",), tmp_path / "out", networks=[load_network("pixels")], settings=settings
    )
    assert {len(film.frames) for film in report.films} == {2}
    assert report.cell("branching", "fid", "pixels") is None
    page = write_report(report, tmp_path / "out")
    assert "FID and KID need two pairs or more" in page.read_text()


def test_other_settings_need_another_folder(made: Any, interpolator: Counting) -> None:
    report, output, pairs, networks = made
    with pytest.raises(SegueError, match=r"num_inference_steps: 4, now 5.*choose another output"):
        evaluate(
            interpolator,
            pairs,
            report.schemes,
            output,
            networks=networks,
            settings={**SETTINGS, "num_inference_steps": 5},
        )
    changed = (pairs[0].model_copy(update={"prompt_a": "a fox"}), *pairs[1:])
    with pytest.raises(SegueError, match=r"prompt"):
        evaluate(interpolator, changed, report.schemes, output, networks=networks, settings=SETTINGS)
    with pytest.raises(SegueError, match=r"num_frames"):
        evaluate(interpolator, pairs, report.schemes, output, networks=networks, settings={"num_frames": 2})
    assert interpolator.films == 0


def test_another_model_needs_another_folder_and_says_why(made: Any, tmp_path: Path) -> None:
    report, output, pairs, networks = made
    pipe = tiny_pipe()
    pipe.vae.register_to_config(scaling_factor=0.13025)
    other = Interpolator(pipe)
    text = r"the VAE scaling factor was 0\.18215, is 0\.13025"
    with pytest.raises(SegueError, match=rf"another model: {text}\); choose another output"):
        evaluate(other, pairs, report.schemes, output, networks=networks, settings=SETTINGS)
    second = evaluate(other, pairs, ("interpolate",), tmp_path / "out", networks=networks[:1], settings=SETTINGS)
    (change, *_) = comparison_of(report, second, ("a", "b")).changes
    assert re.fullmatch(rf"model: \w+, now \w+: {text}", change)


def test_films_of_different_lengths_have_no_set_values() -> None:
    random = np.random.default_rng(0)
    pairs = [Pair(a=Path("a.png"), b=Path("b.png"), name=f"pair-{i}") for i in range(3)]
    films = [
        Measured(
            Film(pair, "branching", Path(), (), np.array([]), ""),
            {},
            {"x": random.normal(size=(frames, 4))},
            {},
            np.array([]),
        )
        for pair, frames in zip(pairs, (5, 5, 6), strict=True)
    ]
    assert set(set_values(films[:2], "x")) >= {"fid", "kid"}
    assert set_values(films, "x") == {}


def test_a_stopped_evaluation_continues(made: Any, interpolator: Counting, tmp_path: Path) -> None:
    report, _, pairs, networks = made

    def stop(stage: Stage) -> None:
        if stage.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(
            interpolator, pairs, report.schemes, tmp_path / "out", networks=networks, settings=SETTINGS, callback=stop
        )
    assert interpolator.films == 2
    whole = evaluate(interpolator, pairs, report.schemes, tmp_path / "out", networks=networks, settings=SETTINGS)
    assert interpolator.films == 6
    assert whole.cells == report.cells  # frames and numbers do not depend on the interruption, nor on the folder


def test_pairs_without_words_and_networks_without_features(interpolator: Counting, tmp_path: Path) -> None:
    (tmp_path / "pairs").mkdir()
    pairs = tuple(
        pair.model_copy(update={"prompt_a": "", "prompt_b": "", "group": ""})
        for pair in write_pairs(tmp_path / "pairs", 1)
    )
    pixels = load_network("pixels")
    distances = Network("distances", "x", pixels.path)
    settings = {**SETTINGS, "prompt": "a thing"}
    report = evaluate(interpolator, pairs, ("interpolate",), tmp_path / "out", networks=[distances], settings=settings)
    assert {measure for measure, _ in report.columns} == {
        *("ppl", "pdv", "variation", "jump", "relative_jump", "breaks", "sharpness")
    }
    assert report.groups == ()
    assert report.floors == {}
    assert write_report(report, tmp_path / "out").exists()


def test_schemes_named() -> None:
    assert parse_schemes("all") == SCHEMES
    assert parse_schemes("interpolate, branching,interpolate") == ("interpolate", "branching")
    for text in ("branchin", ""):
        with pytest.raises(SegueError, match="branching"):
            parse_schemes(text)


# The report.


@pytest.fixture(scope="module")
def page(made: Any) -> str:
    report, output, _, _ = made
    return write_report(report, output).read_text()


def test_the_page_stands_alone(page: str) -> None:
    addresses = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)|url\(([^)]*)\)|@import""", page)
    assert addresses
    assert all(first.startswith("data:image/webp;base64,") for first, _ in addresses)
    assert "<script" not in page
    assert "http" not in re.sub(r"arXiv [\d.]+", "", page)


def test_the_page_says_what_was_measured(page: str, made: Any) -> None:
    report = made[0]
    for name in (*report.networks, *report.networks.values(), *report.schemes, *report.pairs, *report.groups):
        assert name in page
    assert "436" in page  # the paper's FID of interpolate
    assert "56 ± 8" in page
    assert "num frames 5, align off, detail 0" in page
    assert "Without alignment and detail, as there." in page
    assert page.count("<img") == 6
    assert "biased upwards" in page
    assert page.count("<svg") == page.count("</svg>") > 20


def test_the_same_as_json_and_csv(page: str, made: Any) -> None:
    report, output, _, _ = made
    found = read_report(output)
    assert replace(found, seconds=report.seconds) == report
    assert found.seconds["rest"] > report.seconds["rest"]  # with the strips
    assert read_report(output / "report.json") == found
    rows = (output / "report.csv").read_text().splitlines()
    assert len(rows) == 1 + len(report.cells)
    assert rows[0] == "scheme,measure,network,group,value,low,high,spread,pairs"
    cell = report.cells[0]
    assert rows[1].startswith(f"{cell.scheme},{cell.measure},{cell.network},,{cell.value!r},")
    films = (output / "films.csv").read_text().splitlines()
    assert len(films) == 1 + 6
    assert films[0].startswith("scheme,pair,group,")


def test_strips_show_all_frames(page: str, made: Any) -> None:
    output = made[1]
    with Image.open(output / "strips" / "branching" / "p0.webp") as strip:
        assert strip.size == (5 * 56, 56)
        first = np.asarray(strip.convert("RGB"))[:, :56].astype(float)
    with Image.open(made[2][0].a) as keyframe:
        expected = np.asarray(keyframe.resize((56, 56), Image.Resampling.LANCZOS)).astype(float)
    assert np.abs(first - expected).mean() < 12


def test_a_sheet_for_each_pair_has_a_row_for_each_scheme(page: str, made: Any) -> None:
    """The frames beside the scheme's name, in the report's order; of long films nine, the keyframes among them."""
    report, output, *_ = made
    assert sorted(path.name for path in (output / "sheets").iterdir()) == ["p0.jpg", "p1.jpg", "p2.jpg"]
    with Image.open(output / "sheets" / "p1.jpg") as sheet:
        assert sheet.size == (190 + 5 * 96, 2 * 98)
        pixels = np.asarray(sheet.convert("RGB")).astype(float)
    for row, scheme in enumerate(report.schemes):
        for column, frame in enumerate(sorted((output / "runs" / scheme / "p1" / "frames").glob("*.png"))):
            with Image.open(frame) as file:
                expected = np.asarray(file.convert("RGB").resize((96, 96), Image.Resampling.LANCZOS))
            left = 190 + 96 * column
            assert np.abs(pixels[98 * row : 98 * row + 96, left : left + 96] - expected).mean() < 12
    assert pixels[20:76, :180].min() < 60, "the name of the scheme"
    assert [pick_evenly(count, 9) for count in (5, 17)] == [[0, 1, 2, 3, 4], [0, 2, 4, 6, 8, 10, 12, 14, 16]]
    # One scheme less makes other sheets; the same ones are not written again.
    fewer = replace(report, schemes=("interpolate",), films=[f for f in report.films if f.scheme == "interpolate"])
    write_report(fewer, output)
    with Image.open(output / "sheets" / "p1.jpg") as sheet:
        assert sheet.size == (190 + 5 * 96, 98)
    write_report(report, output)
    before = (output / "sheets" / "p1.jpg").stat().st_mtime_ns
    write_report(report, output)
    assert (output / "sheets" / "p1.jpg").stat().st_mtime_ns == before


def test_the_page_shows_the_schemes_side_by_side_before_the_differences(page: str) -> None:
    assert page.index("The schemes side by side") < page.index("Beside the paper's table 1")
    assert page.count("<details open>") == 3


def test_aligned_films_do_not_stand_beside_the_papers_table(interpolator: Counting, tmp_path: Path) -> None:
    pairs, schemes, networks = write_pairs(tmp_path, 2), ("branching", "interpolate"), [load_network("pixels")]
    quick = {"num_frames": 3, "num_inference_steps": 2}
    made = evaluate(interpolator, pairs, schemes, tmp_path / "out", networks=networks, settings=quick)
    for given, text in (({"detail": 0.0}, "alignment"), ({"align": False}, "detail"), ({}, "alignment and detail")):
        report = replace(made, settings={**made.settings, **given})
        page = write_report(report, tmp_path / "out").read_text()
        assert f"Not comparable: these films have {text}, which the paper's do not." in page
        assert "436" not in page


def test_the_papers_preset_aligns_nothing_in_any_scheme(interpolator: Counting, tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path, 2)
    settings = {"num_frames": 3, "num_inference_steps": 2, "inversion": 0, "candidates": 1, "fit_model": 0}
    output = tmp_path / "out"
    report = evaluate(
        interpolator, pairs, SCHEMES, output, networks=[load_network("pixels")], settings=settings, preset="paper"
    )
    assert (report.settings["align"], report.settings["detail"], report.settings["solver"]) == (False, 0.0, "ddim")
    for scheme in SCHEMES:
        made = json.loads((output / "runs" / scheme / pairs[0].name / "run.json").read_text())["settings"]
        assert (made["scheme"], made["align"], made["detail"]) == (scheme, False, 0.0)
    assert "436" in write_report(report, output).read_text()


def test_folders_that_are_no_evaluation(tmp_path: Path) -> None:
    (tmp_path / "proj" / "films").mkdir(parents=True)  # a folder of films is no evaluation
    with pytest.raises(SegueError, match="holds other files but no evaluation"):
        check_report(tmp_path / "proj")
    with pytest.raises(SegueError, match=r"films\.csv would replace .*films\.csv"):
        check_report(tmp_path / "new", [tmp_path / "new" / "films.csv"])
    check_report(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").touch()
    with pytest.raises(SegueError, match="is a file"):
        check_report(tmp_path / "file")
    with pytest.raises(SegueError, match="no evaluation"):
        check_report(tmp_path)
    with pytest.raises(SegueError, match="is not an evaluation"):
        read_report(tmp_path)
    (tmp_path / "report.json").write_text('{"version": "0"}')
    with pytest.raises(SegueError, match="not a report of this version"):
        read_report(tmp_path)


# Two evaluations side by side.


def move(report: Report, by: float) -> Report:
    """The report with every path one length longer, under another guidance."""
    films = tuple(
        replace(f, values={**f.values, "ppl@pixels": (f.values["ppl@pixels"] or 0) + by}) for f in report.films
    )
    return replace(report, films=films, settings={**report.settings, "guidance_scale": 9.0})


def test_compare(made: Any, capsys: pytest.CaptureFixture[str]) -> None:
    report = made[0]
    comparison = comparison_of(report, move(report, 2.5), ("A", "B"))
    assert comparison.changes == ("guidance_scale: 5.0, now 9.0",)
    assert comparison.pairs == 3
    by_measure = {(scheme, d.measure, d.network): d for scheme, _, _, d in comparison.rows}
    longer = by_measure["branching", "ppl", "pixels"]
    assert (longer.value, longer.low, longer.high) == pytest.approx((2.5, 2.5, 2.5))
    assert by_measure["interpolate", "jump", "pixels"].value == 0
    fid = by_measure["branching", "fid", "pixels"]
    assert (fid.value, fid.low) == (0, None)
    print_comparison(comparison)
    text = capsys.readouterr().out
    assert text.startswith("B against A, 3 pairs\n  guidance_scale: 5.0, now 9.0\nbranching")
    assert "2.50 to 2.50 *" in text
    page = comparison_page(comparison)
    assert "+2.50" in page
    assert "http" not in page


def test_compare_over_what_both_have(made: Any) -> None:
    report = made[0]
    fewer = replace(report, pairs=report.pairs[:2], films=tuple(f for f in report.films if f.pair in report.pairs[:2]))
    comparison = comparison_of(report, fewer, ("A", "B"))
    assert comparison.pairs == 2
    assert all(d.value == 0 for _, _, _, d in comparison.rows if d.low is not None)
    assert all(d.value is None for _, _, _, d in comparison.rows if d.measure in ("fid", "kid"))
    with pytest.raises(SegueError, match="no scheme in common"):
        comparison_of(report, replace(report, schemes=("interpolate-denoise",)), ("A", "B"))
    with pytest.raises(SegueError, match="no pair in common"):
        comparison_of(report, replace(report, pairs=("other",)), ("A", "B"))
