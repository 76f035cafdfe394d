from fractions import Fraction

from segue.method.perceptual import PerceptualTree
from segue.method.tree import FrameKey

LEVELS = (0.55, 0.45, 0.35)


def _grow(tree: PerceptualTree, changes: dict[Fraction, float]) -> list[set[Fraction]]:
    """The places of each level, where frames look as far apart as the given measure says (interpolated linearly)."""
    points = sorted(changes)

    def measure(place: Fraction) -> float:
        right = next(p for p in points if p >= place)
        left = max((p for p in points if p <= place), default=right)
        share = 0.0 if left == right else float((place - left) / (right - left))
        return changes[left] + share * (changes[right] - changes[left])

    made = set(tree.keyframes)
    levels = []
    while level := tree.next_level(made, lambda a, b: abs(measure(a.place) - measure(b.place))):
        levels.append({midpoint.key.place for midpoint in level})
        assert all(m.weight == Fraction(1, 2) and m.left in made and m.right in made for m in level)
        made |= {midpoint.key for midpoint in level}
    return levels


def test_even_distances_give_the_uniform_tree() -> None:
    levels = _grow(PerceptualTree(1, 9, LEVELS), {Fraction(0): 0.0, Fraction(1): 1.0})
    eighths = [Fraction(i, 8) for i in range(9)]
    assert levels == [{eighths[4]}, {eighths[2], eighths[6]}, {eighths[i] for i in (1, 3, 5, 7)}]


def test_a_rush_in_the_first_quarter_gets_the_frames() -> None:
    # All of the change happens before 1/4: beyond it nothing is split.
    changes = {Fraction(0): 0.0, Fraction(1, 4): 1.0, Fraction(1): 1.0}
    levels = _grow(PerceptualTree(1, 9, LEVELS), changes)
    assert levels[:2] == [{Fraction(1, 2)}, {Fraction(1, 4)}]
    assert all(place < Fraction(1, 4) for place in set.union(*levels[2:]))
    assert sum(map(len, levels)) == 7


def test_the_largest_distance_ends_the_splitting() -> None:
    levels = _grow(PerceptualTree(1, 1025, LEVELS, max_distance=0.25), {Fraction(0): 0.0, Fraction(1): 1.0})
    assert sum(map(len, levels)) == 3


def test_noise_follows_the_depth_and_frames_are_shared_between_pairs() -> None:
    tree = PerceptualTree(2, 5, LEVELS)
    made = set(tree.keyframes)
    far = {FrameKey(0): 0.0, FrameKey(1): 3.0, FrameKey(2): 3.5}
    first = tree.next_level(made, lambda a, b: far[b] - far[a])
    assert [(m.key.place, m.noise, m.level) for m in first] == [(Fraction(1, 2), 0.55, 0)]
    made |= {FrameKey.at(Fraction(1, 2))}
    far[FrameKey.at(Fraction(1, 2))] = 1.5
    second = tree.next_level(made, lambda a, b: far[b] - far[a])
    assert {(m.key.place, m.noise, m.level) for m in second} >= {(Fraction(1, 4), 0.45, 1), (Fraction(3, 4), 0.45, 1)}
