"""The pictures between the frames of a film, without a network: cross-dissolves, or motion-compensated by FFmpeg.

Colours are mixed multiplied by their alpha, so that what is transparent lends none.
"""

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import islice

import av
import numpy as np
from av.filter import Graph
from PIL import Image

from segue.errors import SegueError
from segue.method.timing import Way

__all__ = ["compensate", "dissolve"]

SMALLEST = 32  # pixels along a side of the pictures that FFmpeg's filter takes
_PARTS = 1000  # of a tick, in the filter's clock
_LEAD = 2  # ticks for which the filter sees the first and the last frame stand: it leaves out what it has no more of


def dissolve(frames: Sequence[Image.Image], way: Way) -> Iterator[Image.Image]:
    """The pictures of a film's runs: its frames, and the weighted means of two."""
    for (left, right, share), _ in way.runs(mixes=True):
        yield _mix(frames[left], frames[right], share) if share else frames[left]


def compensate(frames: Sequence[Image.Image], way: Way) -> Iterator[Image.Image]:
    """The pictures of a film's runs: its frames, and what FFmpeg's filter minterpolate makes between two.

    Raises:
        SegueError: the frames are too small for the filter.
    """
    last = way.knots[-1][1]
    knots = [(-_LEAD, way.knots[0][1]), *dict.fromkeys(way.knots), (way.length, last), (way.length + _LEAD, last)]
    made = _interpolate((frames[number], clock + _LEAD) for clock, number in knots)
    for _ in range(_LEAD):
        next(made)
    for (left, _, share), ticks in way.runs(mixes=True):
        pictures = list(islice(made, ticks))
        yield pictures[0] if share else frames[left]


def _interpolate(frames: Iterable[tuple[Image.Image, float]]) -> Iterator[Image.Image]:
    """A picture for each tick, from pictures at their times."""
    graph: Graph | None = None
    mode = "RGB"
    for frame, tick in frames:
        graph, mode = graph or _graph(frame.size), frame.mode
        graph.push(_frame(frame, tick))
        yield from _pull(graph, mode)
    if graph is not None:
        graph.push(None)
        yield from _pull(graph, mode)


def _mix(left: Image.Image, right: Image.Image, share: float) -> Image.Image:
    if left.mode == "RGB":
        return Image.blend(left, right, share)
    return Image.blend(left.convert("RGBa"), right.convert("RGBa"), share).convert("RGBA")


def _graph(size: tuple[int, int]) -> Graph:
    """The filter's graph for pictures of one size; raises SegueError if they are too small for it."""
    if min(size) < SMALLEST:
        raise SegueError(
            f"smooth motion needs frames of {SMALLEST} x {SMALLEST} pixels or more, not {size[0]} x {size[1]}; "
            "smooth dissolve takes any size size"
        )
    graph = Graph()
    # One second of its clock is a tick of the film.
    source = graph.add_buffer(
        width=size[0], height=size[1], format=av.VideoFormat("yuva444p"), time_base=Fraction(1, _PARTS)
    )
    between = graph.add("minterpolate", "fps=1:mi_mode=mci:mc_mode=aobmc:scd=none")
    sink = graph.add("buffersink")
    source.link_to(between)
    between.link_to(sink)
    graph.configure()
    return graph


def _frame(image: Image.Image, tick: float) -> av.VideoFrame:
    """A picture as the filter takes it, at a time."""
    pixels = np.asarray(image.convert("RGBA").convert("RGBa"))
    frame = av.VideoFrame.from_ndarray(pixels, format="rgba").reformat(format="yuva444p")
    frame.pts, frame.time_base = round(tick * _PARTS), Fraction(1, _PARTS)
    return frame


def _pull(graph: Graph, mode: str) -> Iterator[Image.Image]:
    """What the filter has ready."""
    while True:
        try:
            frame = graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
        assert isinstance(frame, av.VideoFrame)
        pixels = frame.to_ndarray(format="rgba")
        yield Image.frombuffer("RGBa", (frame.width, frame.height), pixels.tobytes()).convert("RGBA").convert(mode)
