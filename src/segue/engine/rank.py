"""Ranking of candidates by CLIP (the paper's section 4.4).

With v the unit vector of a picture, p_i those of the prompts that it should resemble, n_j those of the prompts that
it should not, and cos the cosine of the angle,

    score = cos(v, mean_i p_i) - cos(v, mean_j n_j),

where a side without prompts counts 0. A score lies in [-2, 2]; the higher the better.
"""

from collections.abc import Sequence

from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from segue.errors import SegueError
from segue.models.clip import Clip
from segue.settings.kinds import MorphSettings

__all__ = ["Judge", "judge_of"]


class Judge:
    """Scores pictures: ``judge(pictures)`` gives one score each, which does not depend on the other pictures.

    Args:
        clip: the CLIP that sees the pictures and reads the prompts.
        rank_for: prompts that the best candidate resembles; one text is one prompt.
        rank_against: prompts that it does not resemble.

    Raises:
        SegueError: no prompts, or an empty one.
    """

    def __init__(self, clip: Clip, rank_for: str | Sequence[str], rank_against: str | Sequence[str] = ()) -> None:
        rank_for, rank_against = ((texts,) if isinstance(texts, str) else texts for texts in (rank_for, rank_against))
        for option, texts in (("rank_for", rank_for), ("rank_against", rank_against)):
            if any(not text.strip() for text in texts):
                raise SegueError(f"{option}: an empty text")
        if not rank_for and not rank_against:
            raise SegueError("ranking needs prompts: set rank_for, rank_against or both")
        self.clip = clip
        self._positive = _direction(clip, rank_for)
        self._negative = _direction(clip, rank_against)

    def __call__(self, pictures: Sequence[Image.Image]) -> list[float]:
        """The scores of pictures."""
        return [
            float(vector @ self._positive) - float(vector @ self._negative)
            for vector in self.clip.images(pictures).double()
        ]


def _direction(clip: Clip, texts: Sequence[str]) -> Tensor:
    """The unit vector along the mean of the texts' unit vectors, (D,) float64; zero without texts."""
    vectors = clip.texts(texts).double()
    return normalize(vectors.mean(0), dim=0) if len(vectors) else vectors.sum(0)


def judge_of(settings: MorphSettings) -> Judge | None:
    """The ranking, if there are prompts to rank for or against."""
    if not settings.rank_for and not settings.rank_against:
        return None
    return Judge(Clip.load(settings.ranker), settings.rank_for, settings.rank_against)
