"""Prompts and the windows of text encoders."""

import re
from bisect import bisect_right
from collections.abc import Callable
from typing import Any

from segue.errors import warn

__all__ = ["cut"]


def cut(tokenizer: Any, prompt: str, written: Callable[[str], str] = lambda text: text) -> str:
    """A prompt as far as the encoder's window takes it.

    It is cut between words; within a word only where the first one is too long by itself.

    Args:
        tokenizer: the text encoder's tokenizer, of transformers; its ``model_max_length`` is the window in tokens.
        prompt: the prompt.
        written: how a text is written for the tokenizer, where it is not as it stands.

    Warns:
        Notice: something is lost; it shows what.
    """
    window = tokenizer.model_max_length

    def is_too_long(end: int) -> bool:
        return bool(len(tokenizer(written(prompt[:end]), truncation=False, verbose=False).input_ids) > window)

    if not is_too_long(len(prompt)):
        return prompt
    ends = [match.end() for match in re.finditer(r"\S+", prompt)]
    if is_too_long(ends[0]):
        ends = list(range(1, ends[0] + 1))
    fitting = bisect_right(ends, False, key=is_too_long)  # how many of the ends are not too long
    kept = prompt[: ends[fitting - 1]] if fitting else ""
    warn(f"a prompt is longer than the {window} tokens of the text encoder; cut off: {prompt[len(kept) :].strip()}")
    return kept
