import math

import numpy as np
import pytest
from PIL import Image
from tiny_clip import save_tiny_clip

from segue.engine.dialogue import best
from segue.engine.rank import Judge
from segue.errors import SegueError
from segue.models.clip import Clip
from segue.settings.kinds import MorphSettings, parse_settings


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    return Clip.load(str(save_tiny_clip(tmp_path_factory.mktemp("clip"))))


def pictures() -> list[Image.Image]:
    noise = np.random.default_rng(1).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    return [Image.fromarray(pixels) for pixels in noise]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize(
    ("positive", "negative"),
    [(["a cat"], ["a dog"]), (["cat", "a tabby", "kitten"], ["dog", "hound"]), (["cat"], []), ([], ["dog", "wolf"])],
)
def test_a_score_is_the_difference_of_cosines_to_the_mean_prompts(
    clip: Clip, positive: list[str], negative: list[str]
) -> None:
    vectors = clip.images(pictures()).numpy().astype(np.float64)

    def mean(texts: list[str]) -> np.ndarray:
        return np.asarray(clip.texts(texts).numpy().astype(np.float64).mean(axis=0))

    expected = [
        (cosine(v, mean(positive)) if positive else 0) - (cosine(v, mean(negative)) if negative else 0) for v in vectors
    ]
    scores = Judge(clip, positive, negative)(pictures())
    assert scores == pytest.approx(expected, abs=1e-6)
    assert len(set(scores)) == len(scores)


def test_the_best_is_best_by_its_own_score_and_swapping_sides_turns_the_order(clip: Clip) -> None:
    scores = Judge(clip, ["cat"], ["dog"])(pictures())
    assert scores[best(scores)] == max(scores)
    turned = Judge(clip, ["dog"], ["cat"])(pictures())
    assert turned == pytest.approx([-score for score in scores])
    assert scores[best(turned)] == min(scores)


def test_scores_do_not_depend_on_the_batch(clip: Clip) -> None:
    judge = Judge(clip, ["cat"], ["dog"])
    together = judge(pictures())
    assert together == [judge([picture])[0] for picture in pictures()]
    assert judge(pictures()[::-1]) == together[::-1]
    assert judge([]) == []


def test_the_best_of_scores() -> None:
    assert best([0.1, 0.3, 0.2]) == 1
    assert best([0.3, 0.1, 0.3]) == 0, "ties go to the lower number"
    assert best({7: 0.5, 4: 0.5, 9: 0.1}) == 4
    assert best([-2.0, -1.0]) == 1
    assert best([-math.inf, -math.inf]) == 0


def test_a_score_that_is_no_number_comes_last() -> None:
    nan = math.nan
    assert best([nan, -1.0, nan]) == 1
    assert best([nan, -math.inf]) == 1
    assert best([nan, float("nan")]) == 0
    assert best({3: float("nan"), 2: nan}) == 2


def test_no_scores_are_an_error() -> None:
    with pytest.raises(ValueError, match="no scores"):
        best([])


def test_ranking_prompts_need_candidates() -> None:
    for option in ("rank_for", "rank_against"):
        with pytest.raises(SegueError, match="need candidates to choose from: set candidates to 2 or more"):
            parse_settings(MorphSettings, {option: ["cat"]})
        assert parse_settings(MorphSettings, {option: ["cat"], "candidates": 2}).candidates == 2


def test_one_text_is_one_prompt(clip: Clip) -> None:
    pictures = [Image.new("RGB", (32, 32), colour) for colour in ("red", "navy")]
    assert Judge(clip, "a cat", "ink")(pictures) == Judge(clip, ["a cat"], ["ink"])(pictures)
    assert clip.texts("a cat").shape == (1, clip.texts(["a cat"]).shape[1])


def test_wrong_prompts_are_named(clip: Clip) -> None:
    with pytest.raises(SegueError, match="ranking needs prompts"):
        Judge(clip, [], [])
    with pytest.raises(SegueError, match="rank_for: an empty text"):
        Judge(clip, ["cat", " "], [])
    with pytest.raises(SegueError, match="rank_against: an empty text"):
        Judge(clip, ["cat"], [""])
