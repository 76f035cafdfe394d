"""Which candidate a frame shows (section 4.4): the best ranked, the one that somebody picks, or the first."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from PIL import Image

from segue.engine.cache_keys import CacheKeys
from segue.engine.dialogue import AcceptRest, Again, Candidates, Chooser, Made, Pick
from segue.errors import SegueError
from segue.method.schemes import Level, Sample
from segue.method.tree import FrameKey
from segue.run.folder import RunFolder
from segue.run.journal import Attempt, Choice

__all__ = ["Choosing", "numbers"]

Judge = Callable[[Sequence[Image.Image]], list[float]]


class Choosing:
    """Settles frames; what is decided is kept in the run's journal, and not decided again."""

    def __init__(
        self,
        run: RunFolder,
        cache_keys: CacheKeys,
        count: Callable[[Level], int],
        *,
        judge: Judge | None = None,
        ask: Chooser | None = None,
        keeps_all: bool = False,
    ) -> None:
        """Choose among the candidates of a run.

        Args:
            run: where they are kept.
            cache_keys: their names.
            count: how many a frame of a level gets.
            judge: scores of pictures, the higher the better.
            ask: who picks, where somebody does.
            keeps_all: keep the pictures of candidates that were not chosen.
        """
        self.run, self.cache_keys, self.count = run, cache_keys, count
        self.judge, self.ask, self.keeps_all = judge, ask, keeps_all

    def attempts(self, level: Level, key: FrameKey) -> list[Attempt]:
        """The tries at a frame that count: of legs in between there is only one."""
        if not level.is_final:
            return [Attempt(key)]
        return self.run.history.attempts(
            key, self.count(level), lambda attempt: self.cache_keys.context(level, attempt)
        )

    def candidates(self, level: Level, key: FrameKey) -> list[int]:
        """The numbers of a frame's candidates that are not undone."""
        return self.run.history.candidates(
            key, self.count(level), lambda attempt: self.cache_keys.context(level, attempt)
        )

    def find_choice(self, level: Level, tries: list[Attempt]) -> Choice | None:
        """The choice that is made already, or that is none because there is one candidate.

        A person is asked about a single candidate too, unless the film shows it already.
        """
        last = tries[-1]
        if level.is_final and (choice := self.run.history.choice(last.key, self.cache_keys.context(level, last))):
            return choice
        if numbers(None, tries) != [last.first]:
            return None
        only = Sample(last.key, last.first)
        is_asked = self.ask and level.is_final and not self.run.is_showing(only.key, self.cache_keys(level, only))
        return None if is_asked else Choice(only.key, only.candidate, "", "first")

    def choose(self, level: Level, tries: list[Attempt], compute: Callable[[Sequence[Sample]], None]) -> Choice:
        """Rank, ask or take the first; keep the decision in the journal. What ``compute`` makes joins the tries."""
        key = tries[0].key
        while True:
            pictures = {n: self.run.picture(self.cache_keys(level, Sample(key, n))) for n in numbers(None, tries)}
            scores = dict(zip(pictures, self.judge(list(pictures.values())), strict=True)) if self.judge else {}
            shown = Candidates(key, level.number, level.parents[key], pictures, scores, tries[-1].first)
            answer = self.ask(shown) if self.ask else AcceptRest()
            if not isinstance(answer, Pick | Again | AcceptRest):
                raise SegueError(f"a chooser answers with Pick, Again or AcceptRest, not {answer!r}")
            if isinstance(answer, Again):
                tries.append(self._try_again(level, tries[-1], answer))
                compute([Sample(key, number) for number in tries[-1].candidates])
                continue
            if isinstance(answer, AcceptRest):
                self.ask = None
                number, by = shown.best, "rank" if scores else "first"
            elif answer.candidate in pictures:
                number, by = answer.candidate, "user"
            else:
                raise SegueError(f"frame {key} has no candidate {answer.candidate}")
            choice = Choice(key, number, self.cache_keys.context(level, tries[-1]), by, scores)
            self.run.record(choice)
            return choice

    def show(self, level: Level, choice: Choice, tries: list[Attempt]) -> Made:
        """Show the chosen candidate as the frame; the pictures of the others go. What the frame now is."""
        key, cache_key = choice.key, self.cache_keys(level, Sample(choice.key, choice.candidate))
        if not self.run.is_showing(key, cache_key):
            if not self.keeps_all:
                others = (Sample(key, n) for n in numbers(None, tries) if n != choice.candidate)
                self.run.drop(self.cache_keys(level, sample) for sample in others)
            self.run.settle(key, cache_key)
        cache_keys = {number: self.cache_keys(level, Sample(key, number)) for number in self.candidates(level, key)}
        kept = {number: cache_key for number, cache_key in cache_keys.items() if self.run.has_picture(cache_key)}
        contexts = [self.cache_keys.context(level, self.run.history.attempt_of(key, number)) for number in kept]
        scores = {n: score for n, score in self.run.history.scores(key, contexts).items() if n in kept}
        return Made(key, level.number, level.parents[key], choice.candidate, cache_key, kept, scores)

    def _try_again(self, level: Level, attempt: Attempt, answer: Again) -> Attempt:
        """A new try at a frame while picking: another edit where one is given, and always other noise."""
        if answer.edit and answer.edit.noise is not None:
            raise SegueError(
                "a frame's noise level cannot change while its level is picked; make the frame again instead"
            )
        edit = replace(answer.edit or replace(attempt.edit, seed=None), noise=attempt.edit.noise)
        first = self.run.history.next_candidate(attempt.key, self.count(level))
        count = answer.count or attempt.count
        fresh = Attempt(attempt.key, first, count, edit, self.cache_keys.context(level, attempt))
        self.run.record(fresh)
        return fresh


def numbers(choice: Choice | None, tries: Sequence[Attempt]) -> list[int]:
    """The candidates that are needed: the chosen one, or all of the tries."""
    return [n for attempt in tries for n in attempt.candidates] if choice is None else [choice.candidate]
