"""Prompts: those given, those found, those for places in between, and what an encoder can take of them."""

from collections.abc import Callable, Sequence
from fractions import Fraction

from segue.errors import SegueError
from segue.settings.kinds import MorphSettings

__all__ = ["anchors", "check_words", "prompts"]


def prompts(settings: MorphSettings, count: int, captions: Callable[[], Sequence[str]]) -> list[str]:
    """The prompt of each keyframe: the one given for all, the one given for each, or captions.

    Args:
        settings: their ``prompt`` holds none, one, or one for each keyframe.
        count: the number of keyframes; a loop does not count its first one twice.
        captions: finds a caption for each keyframe; called only where no prompt is given.

    Raises:
        SegueError: another number of prompts, or an empty one.
    """
    given = settings.prompt
    for i, text in enumerate(given):
        if not text.strip():
            raise SegueError(f"prompt {i + 1} is empty; leave the prompt out to have one found")
    if not given:
        found = list(captions())
        if len(found) != count:
            raise ValueError(f"{len(found)} captions for {count} keyframes")
        return found
    if len(given) == 1:
        return list(given) * count
    if len(given) != count:
        raise SegueError(f"prompt: {len(given)} prompts for {count} keyframes; give one for all, or one for each")
    return list(given)


def anchors(settings: MorphSettings, count: int) -> list[tuple[Fraction, int | str]]:
    """Where the film's words are fixed, in the order of the film.

    Args:
        settings: their ``loop`` closes the film, their ``prompt_at`` gives prompts for places in between.
        count: the number of keyframes; a loop does not count its first one twice.

    Returns:
        Places of the film, and for each the number of the keyframe whose words hold there, or a prompt.

    Raises:
        SegueError: a place of ``prompt_at`` is a keyframe or lies outside the film, or its prompt is empty.
    """
    end = count if settings.loop else count - 1
    placed: dict[Fraction, int | str] = {Fraction(i): i % count for i in range(end + 1)}
    for number, text in settings.prompt_at.items():
        place = Fraction(repr(number))  # what was written: 0.1 is 1/10
        if place.denominator == 1 and 0 <= place <= end:
            raise SegueError(f"prompt_at {number:g} is a keyframe; give its prompt with prompt")
        if not 0 < place < end:
            raise SegueError(f"prompt_at {number:g} lies outside the film, whose places go from 0 to {end}")
        if not text.strip():
            raise SegueError(f"prompt_at {number:g}: an empty text")
        placed[place] = text
    return sorted(placed.items(), key=lambda item: item[0])


def check_words(settings: MorphSettings, count: int) -> None:
    """Raise SegueError if the prompts do not fit a film of ``count`` keyframes; nothing is captioned."""
    prompts(settings, count, lambda: [""] * count)
    anchors(settings, count)
