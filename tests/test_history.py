"""What a journal means: attempts, choices, remakes, undos."""

import json
from fractions import Fraction

import pytest

from segue.errors import SegueError
from segue.method.tree import FrameKey
from segue.run.journal import (
    Attempt,
    Choice,
    Edit,
    Event,
    History,
    Redo,
    Remake,
    Undo,
    event_from_json,
    event_to_json,
)

A = FrameKey(0, Fraction(1, 2))
B = FrameKey(0, Fraction(1, 4))


def context_of(attempt: Attempt, parents: str = "p") -> str:
    return f"{parents}/{attempt.first}/{attempt.edit}"


def now(history: History, key: FrameKey = A, count: int = 2, parents: str = "p") -> tuple[list[range], int | None]:
    """The candidates of the attempts that count, and the one that is chosen."""
    attempts = history.attempts(key, count, lambda attempt: context_of(attempt, parents))
    choice = history.choice(key, context_of(attempts[-1], parents))
    return [attempt.candidates for attempt in attempts], choice.candidate if choice else None


def again(after: Attempt, first: int, count: int = 2, edit: Edit | None = None, parents: str = "p") -> Attempt:
    return Attempt(after.key, first, count, edit or Edit(), context_of(after, parents))


def chosen(after: Attempt, candidate: int, parents: str = "p") -> Choice:
    return Choice(after.key, candidate, context_of(after, parents))


def can_redo(history: History) -> bool:
    return history.redoable


OWN = Attempt(A, 0, 2)


def test_nothing_happened() -> None:
    history = History()
    assert now(history) == ([range(2)], None)
    assert history.edit(A) == Edit()
    assert history.next_candidate(A, 2) == 2
    assert history.undoable is None
    assert not can_redo(history)


def test_a_choice_holds_under_the_parents_that_it_was_made_under() -> None:
    history = History([chosen(OWN, 1)])
    assert now(history) == ([range(2)], 1)
    assert now(history, parents="q") == ([range(2)], None)
    assert now(history, B) == ([range(2)], None)
    history.add(chosen(OWN, 0))
    assert now(history)[1] == 0


def test_again_follows_the_attempt_that_it_was_asked_for() -> None:
    first = again(OWN, 2)
    second = again(first, 4, 3, Edit(prompt="x"))
    history = History([first, second])
    assert now(history) == ([range(2), range(2, 4), range(4, 7)], None)
    assert history.attempt_of(A, 5) == second
    assert history.attempt_of(A, 1).first == 0
    assert history.next_candidate(A, 2) == 7
    assert now(history, parents="q") == ([range(2)], None)
    history.add(chosen(second, 3))
    assert now(history)[1] == 3


def test_a_redo_begins_anew_and_holds_whatever_the_parents_are() -> None:
    remake = Remake(Attempt(A, 2, 2, Edit(prompt="x")))
    history = History([chosen(OWN, 1), remake])
    for parents in ("p", "q"):
        assert now(history, parents=parents) == ([range(2, 4)], None)
    assert history.edit(A) == Edit(prompt="x")
    assert history.undoable == remake
    assert remake.frame == A


def test_a_redo_by_candidate_holds_whatever_the_parents_are() -> None:
    tried = Attempt(A, 2, 2, Edit(noise=0.6))
    history = History([chosen(OWN, 1), Remake(tried), chosen(tried, 3), Remake(key=A, candidate=0)])
    assert now(history)[1] == 0
    assert now(history, parents="q")[1] == 0
    assert history.edit(A) == Edit()  # that of candidate 0
    history.add(Remake(key=A, candidate=2))
    assert (now(history)[1], history.edit(A)) == (2, Edit(noise=0.6))


def test_undo_and_restore() -> None:
    tried = Attempt(A, 2, 2, Edit(prompt="x"))
    history = History([chosen(OWN, 1), Remake(tried), chosen(tried, 3), Undo()])
    assert now(history) == ([range(2)], 1)
    assert history.edit(A) == Edit()
    assert history.undoable is None
    assert can_redo(history)
    assert history.next_candidate(A, 2) == 4  # numbers are never used again
    history.add(Redo())
    assert now(history) == ([range(2, 4)], 3)
    assert not can_redo(history)
    assert history.undoable == Remake(tried)


def test_two_remakes_are_undone_and_redone_in_turn() -> None:
    first, second = Attempt(A, 2, 2), Attempt(A, 4, 2)
    history = History([chosen(OWN, 0), Remake(first), chosen(first, 3), Remake(second), chosen(second, 5)])
    seen = [now(history)[1]]
    for event in (Undo(), Undo(), Redo(), Redo(), Undo(), Redo()):
        history.add(event)
        seen.append(now(history)[1])
    assert seen == [5, 3, 0, 3, 5, 3, 5]


def test_undo_takes_the_candidates_of_again_away_with_the_redo() -> None:
    remake = Attempt(A, 2, 2)
    events: list[Event] = [again(OWN, 6, 1), Remake(remake), again(remake, 4, 2, Edit(prompt="dog"))]
    assert History(events).candidates(A, 2, context_of) == [0, 1, 2, 3, 4, 5, 6]
    assert History([*events, Undo()]).candidates(A, 2, context_of) == [0, 1, 6]
    assert History([*events, Undo(), Redo()]).candidates(A, 2, context_of) == [0, 1, 2, 3, 4, 5, 6]
    assert History([*events, Undo()]).next_candidate(A, 2) == 7


def test_undo_takes_again_and_its_choice_away_with_the_redo() -> None:
    """An "again" while picking a remake's candidates, or those of its descendants, belongs to that remake."""
    tried = Attempt(A, 2, 2)
    more = again(tried, 4)
    own = Attempt(B, 0, 2)
    below = again(own, 2, parents="made again")
    before = History([chosen(OWN, 1), chosen(own, 0)])
    after: list[Event] = [Remake(tried), more, chosen(more, 4), below, chosen(below, 3, "made again")]
    history = History([*before.events, *after])
    assert now(history) == ([range(2, 4), range(4, 6)], 4)
    assert now(history, B, parents="made again") == ([range(2), range(2, 4)], 3)
    history.add(Undo())
    assert now(history) == now(before) == ([range(2)], 1)
    assert now(history, B) == now(before, B) == ([range(2)], 0)
    history.add(Redo())
    assert now(history) == ([range(2, 4), range(4, 6)], 4)
    assert now(history, B, parents="made again") == ([range(2), range(2, 4)], 3)


def test_again_of_the_level_comes_back_after_an_undo() -> None:
    more = again(OWN, 2)
    tried = Attempt(A, 4, 2)
    history = History([more, chosen(more, 3), Remake(tried), chosen(tried, 4), Undo()])
    assert now(history) == ([range(2), range(2, 4)], 3)


def test_a_remake_after_an_undo_cannot_be_redone_over() -> None:
    history = History([Remake(Attempt(A, 2, 2)), Undo(), Remake(Attempt(B, 2, 2))])
    assert not can_redo(history)
    assert history.undoable == Remake(Attempt(B, 2, 2))
    assert now(history) == ([range(2)], None)


def test_choices_after_an_undo_stay() -> None:
    history = History([Remake(Attempt(A, 2, 2)), Undo(), Choice(B, 1, context_of(Attempt(B, 0, 2)))])
    assert now(history, B) == ([range(2)], 1)
    history.add(Redo())
    assert now(history, B) == ([range(2)], 1)
    assert now(history) == ([range(2, 4)], None)


@pytest.mark.parametrize(
    "event",
    [
        Attempt(FrameKey(2, Fraction(3, 7)), 3, 2, Edit(prompt="ein Löwe\n\U0001f981", seed=2**63 - 1, noise=0.4), "c"),
        Choice(A, 2, "context", "rank", {0: 0.25, 2: 0.5}),
        Remake(Attempt(A, 1, 4, Edit(negative_prompt="", pose="p.json"))),
        Remake(key=A, candidate=3),
        Undo(),
        Redo(),
    ],
)
def test_events_are_the_same_after_json(event: Event) -> None:
    line = json.dumps(event_to_json(event))
    assert "\n" not in line
    assert event_from_json(json.loads(line)) == event


@pytest.mark.parametrize(
    "line",
    [{}, {"event": "choice"}, {"event": "remake", "frame": "1/2"}, {"event": "dance", "frame": "1/2"},
     {"event": "attempt", "frame": "half", "first": 0, "count": 1, "edit": {}, "context": ""},
     {"event": "attempt", "frame": "1/2", "first": 0, "count": 1, "edit": {"colour": 3}, "context": ""}],
)  # fmt: skip
def test_broken_lines_are_errors(line: dict[str, object]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        event_from_json(line)


def test_edits_are_checked() -> None:
    with pytest.raises(SegueError, match="noise level lies between 0 and 1, not at 1"):
        Edit(noise=1.0)
    with pytest.raises(SegueError, match="prompt: an empty text"):
        Edit(prompt=" ")


def test_journals_of_earlier_versions_are_read() -> None:
    """There "redo" made a frame again, and "restore" took an undo back."""
    attempt = {"frame": "1/2", "first": 2, "count": 2, "edit": {}, "context": ""}
    lines: list[dict[str, object]] = [
        {"event": "redo", **attempt},
        {"event": "redo", "frame": "1/2", "candidate": 0},
        {"event": "undo"},
        {"event": "restore"},
    ]
    remade = Remake(Attempt(A, 2, 2)), Remake(key=A, candidate=0)
    assert [event_from_json(line) for line in lines] == [*remade, Undo(), Redo()]
