"""The tree against cases written by hand."""

import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.errors import SegueError
from segue.method.tree import (
    FrameKey,
    GrownTree,
    Midpoint,
    UniformTree,
    descendants,
    find_ends,
    is_growth,
    noise_levels,
)

F = Fraction


def tree(
    num_frames: int, *, pairs: int = 1, branching: int = 2, levels: tuple[float, ...] | None = None
) -> UniformTree:
    depth = UniformTree.depth(num_frames, branching)
    return UniformTree(pairs, num_frames, noise_levels(depth, 0.3, 0.55) if levels is None else levels, branching)


def by_index(grown: UniformTree | GrownTree) -> list[list[tuple[int, int, int]]]:
    """The levels as (index, left, right), asked for one by one."""
    gap = len(grown.frames) - 1
    width = grown.keyframes[-1].pair
    there = set(grown.keyframes)
    levels = []

    def index(key: FrameKey) -> int:
        return int(key.place * gap / width)

    while level := grown.next_level(there):
        levels.append([(index(m.key), index(m.left), index(m.right)) for m in level])
        there |= {m.key for m in level}
    return levels


def test_three_frames() -> None:
    (only,) = tree(3).midpoints()
    assert only.key == FrameKey(0, F(1, 2))
    assert (only.left, only.right) == (FrameKey(0), FrameKey(1))
    assert (only.weight, only.level, only.noise) == (F(1, 2), 0, 0.55)  # a single level uses the upper end


def test_four_frames() -> None:
    assert by_index(tree(4)) == [[(1, 0, 3)], [(2, 1, 3)]]
    first, second = tree(4).midpoints()
    assert (first.weight, second.weight) == (F(1, 3), F(1, 2))  # the weight follows the index
    assert (first.key, second.key) == (FrameKey(0, F(1, 3)), FrameKey(0, F(2, 3)))
    assert (first.noise, second.noise) == (0.55, 0.3)


def test_five_frames() -> None:
    assert by_index(tree(5)) == [[(2, 0, 4)], [(1, 0, 2), (3, 2, 4)]]
    assert [m.key.position for m in tree(5).midpoints()] == [F(1, 2), F(1, 4), F(3, 4)]
    assert all(m.weight == F(1, 2) for m in tree(5).midpoints())


def test_seventeen_frames() -> None:
    assert by_index(tree(17)) == [
        [(8, 0, 16)],
        [(4, 0, 8), (12, 8, 16)],
        [(2, 0, 4), (6, 4, 8), (10, 8, 12), (14, 12, 16)],
        [(i, i - 1, i + 1) for i in range(1, 16, 2)],
    ]
    assert [m.noise for m in tree(17).midpoints()] == pytest.approx(
        [0.55] + [0.55 - 0.25 / 3] * 2 + [0.55 - 0.5 / 3] * 4 + [0.30] * 8
    )


def test_twenty_frames() -> None:
    assert by_index(tree(20)) == [
        [(9, 0, 19)],
        [(4, 0, 9), (14, 9, 19)],
        [(2, 0, 4), (6, 4, 9), (11, 9, 14), (16, 14, 19)],
        [(1, 0, 2), (3, 2, 4), (5, 4, 6), (7, 6, 9), (10, 9, 11), (12, 11, 14), (15, 14, 16), (17, 16, 19)],
        [(8, 7, 9), (13, 12, 14), (18, 17, 19)],
    ]
    weights = {m.key: m.weight for m in tree(20).midpoints()}
    assert weights[FrameKey(0, F(9, 19))] == F(9, 19)
    assert weights[FrameKey(0, F(4, 19))] == F(4, 9)
    assert weights[FrameKey(0, F(14, 19))] == F(1, 2)
    assert weights[FrameKey(0, F(7, 19))] == F(1, 3)


def test_sixty_five_frames() -> None:
    levels = by_index(tree(65))
    assert [len(level) for level in levels] == [1, 2, 4, 8, 16, 32]
    assert levels[5][:2] == [(1, 0, 2), (3, 2, 4)]
    assert sorted(i for level in levels for i, *_ in level) == list(range(1, 64))
    assert [m.level for m in tree(65).midpoints()] == [0] + [1] * 2 + [2] * 4 + [3] * 8 + [4] * 16 + [5] * 32


def test_branching_three() -> None:
    assert by_index(tree(5, branching=3)) == [[(1, 0, 4), (2, 0, 4)], [(3, 2, 4)]]
    assert by_index(tree(10, branching=3)) == [
        [(3, 0, 9), (6, 0, 9)],
        [(1, 0, 3), (2, 0, 3), (4, 3, 6), (5, 3, 6), (7, 6, 9), (8, 6, 9)],
    ]
    assert [m.weight for m in tree(10, branching=3).midpoints()[:2]] == [F(1, 3), F(2, 3)]
    assert by_index(tree(4, branching=3)) == [[(1, 0, 3), (2, 0, 3)]]
    assert by_index(tree(3, branching=3)) == [[(1, 0, 2)]]  # fewer steps than parts: all inner ones at once
    assert by_index(tree(17, branching=64)) == [[(i, 0, 16) for i in range(1, 16)]]


def test_depth() -> None:
    assert [UniformTree.depth(n) for n in (2, 3, 4, 5, 6, 9, 10, 17, 20, 65, 1025)] == [
        0,
        1,
        2,
        2,
        3,
        3,
        4,
        4,
        5,
        6,
        10,
    ]
    assert [UniformTree.depth(n, 3) for n in (3, 4, 5, 10, 11, 28)] == [1, 1, 2, 2, 3, 3]


def test_several_pairs() -> None:
    film = tree(5, pairs=2)
    assert film.keyframes == (FrameKey(0), FrameKey(1), FrameKey(2))
    assert by_index(film) == [[(2, 0, 4), (6, 4, 8)], [(1, 0, 2), (3, 2, 4), (5, 4, 6), (7, 6, 8)]]
    assert [str(key) for key in film.frames] == ["0", "0.25", "0.5", "0.75", "1", "1.25", "1.5", "1.75", "2"]
    second = film.midpoints()[1]
    assert (second.key, second.left, second.right) == (FrameKey(1, F(1, 2)), FrameKey(1), FrameKey(2))


def test_a_loop_over_n_keyframes_has_n_pairs() -> None:
    """The closing keyframe is FrameKey(n, 0), so that a loop is a film of n gaps like any other."""
    film = tree(3, pairs=3)
    assert film.keyframes[-1] == FrameKey(3)
    assert [(m.left.pair, m.right.pair) for m in film.midpoints()] == [(0, 1), (1, 2), (2, 3)]


def test_the_frames_that_are_made_are_not_handed_out_again() -> None:
    film = tree(9)
    made = {*film.keyframes, FrameKey(0, F(1, 2)), FrameKey(0, F(1, 4))}
    assert [m.key.position for m in film.next_level(made)] == [F(1, 8), F(3, 8), F(3, 4)]
    assert film.next_level(film.frames) == ()


@pytest.mark.parametrize(("before", "after"), [(9, 17), (9, 33), (3, 5), (5, 65)])
def test_growth_makes_only_the_new_frames(before: int, after: int) -> None:
    small, large = tree(before), tree(after)
    grown = GrownTree((small, large))
    levels = by_index(grown)
    assert levels == by_index(large)  # the same frames from the same parents
    there = set(small.frames)
    fresh: list[Midpoint] = []
    while level := grown.next_level(there):
        fresh += level
        there |= {m.key for m in level}
    assert not {m.key for m in fresh} & set(small.frames)
    assert there == set(large.frames)
    new_levels = large.levels[len(small.levels) :]
    assert {m.noise for m in fresh} == set(new_levels)  # the lower end of the range
    assert [grown.next_level(small.frames)[0].level, grown.frames, grown.keyframes] == [
        len(small.levels),
        large.frames,
        large.keyframes,
    ]


def test_growth_of_a_film_that_is_not_finished_finishes_it_first() -> None:
    small, large = tree(9), tree(17)
    grown = GrownTree((small, large))
    first = grown.next_level(grown.keyframes)
    assert first == small.next_level(small.keyframes)
    assert [m.noise for m in first] == [0.55]


def test_growth_where_the_gap_is_odd() -> None:
    small, large = tree(4), tree(7)
    grown = GrownTree((small, large))
    assert by_index(grown) == [[(2, 0, 6)], [(4, 2, 6)], [(1, 0, 2), (3, 2, 4), (5, 4, 6)]]


def test_which_films_grow() -> None:
    assert all(is_growth(9, after) for after in (17, 33, 65))
    assert not any(is_growth(9, after) for after in (3, 5, 9, 16, 18, 25))
    assert is_growth(4, 10, branching=3)
    assert not is_growth(4, 7, branching=3)
    assert is_growth(4, 7)


def test_noise_levels() -> None:
    assert noise_levels(4, 0.2, 0.5) == pytest.approx((0.5, 0.4, 0.3, 0.2))
    assert noise_levels(1, 0.3, 0.55) == (0.55,)
    assert noise_levels(0, 0.3, 0.55) == ()


def test_explicit_levels() -> None:
    levels = (0.6, 0.5, 0.4, 0.35)
    assert [m.noise for m in tree(9, levels=levels).midpoints()] == [0.6] + [0.5] * 2 + [0.4] * 4
    with pytest.raises(SegueError, match=r"17 frames need 4 noise levels.*but 3 are given"):
        tree(17, levels=levels[:3])


def test_descendants() -> None:
    midpoints = tree(9).midpoints()
    eighth = [FrameKey(0, F(i, 8)) if i < 8 else FrameKey(1) for i in range(9)]
    assert descendants(eighth[4], midpoints) == {eighth[i] for i in (1, 2, 3, 5, 6, 7)}
    assert descendants(eighth[2], midpoints) == {eighth[1], eighth[3]}
    assert descendants(eighth[3], midpoints) == frozenset()
    assert descendants(FrameKey(0), midpoints) == set(eighth[1:8])
    two = tree(5, pairs=2).midpoints()
    assert descendants(FrameKey(0, F(1, 2)), two) == {FrameKey(0, F(1, 4)), FrameKey(0, F(3, 4))}


def test_around() -> None:
    anchors = [F(0), F(1, 2), F(2)]
    assert find_ends(F(0), anchors) == (0, 0, F(0))
    assert find_ends(F(1, 4), anchors) == (0, 1, F(1, 2))
    assert find_ends(F(1, 2), anchors) == (1, 2, F(0))
    assert find_ends(F(1), anchors) == (1, 2, F(1, 3))
    assert find_ends(F(2), anchors) == (2, 2, F(0))
    assert find_ends(F(3), anchors) == (2, 2, F(0))


def test_frame_keys() -> None:
    key = FrameKey.at(F(5, 4))
    assert key == FrameKey(1, F(1, 4))
    assert (key.place, key.name, str(key), key.is_keyframe) == (F(5, 4), "001.2500000", "1.25", False)
    assert FrameKey(2).is_keyframe
    assert FrameKey(0, F(2, 8)) == FrameKey(0, F(1, 4))  # by position, whatever the number of frames
    for wrong in (F(1), F(-1, 2)):
        with pytest.raises(ValueError, match="position"):
            FrameKey(0, wrong)


def test_names_sort_like_the_film_and_are_all_different() -> None:
    frames = tree(1025, pairs=2).frames
    names = [key.name for key in frames]
    assert len(set(names)) == 2049
    assert names == sorted(names)
    assert list(frames) == sorted(frames)


def test_many_frames_are_fast() -> None:
    began = time.process_time()
    assert len(tree(1025, pairs=2).midpoints()) == 2 * 1023
    assert time.process_time() - began < 5  # seconds; it takes a fraction of one


@settings(max_examples=60, deadline=None)
@given(st.integers(3, 120), st.integers(2, 5), st.integers(1, 3))
def test_every_tree(num_frames: int, branching: int, pairs: int) -> None:
    """Each frame is made once, between parents that are there, in as many levels as the tree is deep."""
    film = tree(num_frames, pairs=pairs, branching=branching)
    made = set(film.keyframes)
    count = 0
    while level := film.next_level(made):
        keys = [m.key for m in level]
        assert len(set(keys)) == len(keys)
        assert not made & set(keys)
        for m in level:
            assert {m.left, m.right} <= made
            assert m.left.place < m.key.place < m.right.place
            assert m.weight == (m.key.place - m.left.place) / (m.right.place - m.left.place)
            assert (m.level, m.noise) == (count, film.levels[count])
        made |= set(keys)
        count += 1
    assert made == set(film.frames)
    assert count == len(film.levels)
