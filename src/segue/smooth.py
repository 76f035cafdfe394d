"""More frames between the frames of a film, without a network: cross-dissolves, or motion-compensated by FFmpeg."""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import NamedTuple

import av
from av.filter import Graph
from PIL import Image

from segue.errors import SegueError

__all__ = ["Shown", "compensated", "dissolved"]


class Shown(NamedTuple):
    """A frame of a film that moves on.

    Attributes:
        image: its picture; all of a film are of one size.
        still: seconds for which it stands.
        way: seconds of the way to the next frame; of the last one, to the first, or 0 where the film ends.
    """

    image: Image.Image
    still: float
    way: float


SMALLEST = 32  # pixels along a side of the pictures that FFmpeg's filter takes
_TICKS = 90_000  # ticks of a second in the filter's clock


def dissolved(frames: Iterable[Shown], count: int) -> Iterator[tuple[Image.Image, float]]:
    """Put ``count`` cross-dissolves on each way; the film lasts as long as before.

    Args:
        frames: the film.
        count: pictures between two neighbours.
    """
    for frame, after in _with_next(frames):
        slot = frame.way / (count + 1)
        yield frame.image, frame.still + slot
        if after is not None:
            for i in range(1, count + 1):
                yield Image.blend(frame.image, after.image, i / (count + 1)), slot


def compensated(frames: Iterable[Shown], fps: float) -> Iterator[tuple[Image.Image, float]]:
    """Interpolate along the motion between neighbours, by FFmpeg's filter minterpolate, to an even rate.

    Args:
        frames: the film.
        fps: frames per second of the result.

    Yields:
        Pictures that are each on screen for 1 / fps; together as long as the film, to one of them.
    """
    graph: Graph | None = None
    last: Image.Image | None = None
    clock, made = 0.0, 0
    for frame, after in _with_next(frames):
        graph = graph or _graph(frame.image.size, fps)
        graph.push(_frame(frame.image, clock))
        clock += frame.still
        if frame.still and frame.way:  # the filter is shown where that ends
            graph.push(_frame(frame.image, clock))
        clock, last = clock + frame.way, after.image if after else frame.image
        for picture in _pulled(graph):
            made += 1
            yield picture, 1 / fps
    if graph is None or last is None:
        return
    for later in (0.0, 2 / fps):  # where the last way leads to, and beyond: the filter leaves out what comes last
        graph.push(_frame(last, clock + later))
    graph.push(None)
    whole = round(clock * fps)
    for picture in _pulled(graph):
        made += 1
        if made <= whole:
            yield picture, 1 / fps
    for _ in range(made, whole):
        yield last, 1 / fps


def _with_next(frames: Iterable[Shown]) -> Iterator[tuple[Shown, Shown | None]]:
    """Each frame with the one that its way leads to: the next; from the last the first, or none where it has no way."""
    first: Shown | None = None
    before: Shown | None = None
    for frame in frames:
        first = first or frame
        if before is not None:
            yield before, frame
        before = frame
    if before is not None:
        yield before, first if before.way else None


def _graph(size: tuple[int, int], fps: float) -> Graph:
    """The filter's graph for pictures of one size; SegueError where they are too small for it."""
    if min(size) < SMALLEST:
        raise SegueError(
            f"smooth motion needs frames of {SMALLEST} x {SMALLEST} pixels or more, not {size[0]} x {size[1]}; "
            "smooth dissolve takes any"
        )
    graph = Graph()
    source = graph.add_buffer(
        width=size[0], height=size[1], format=av.VideoFormat("yuv444p"), time_base=Fraction(1, _TICKS)
    )
    rate = Fraction(fps).limit_denominator(1001)
    between = graph.add("minterpolate", f"fps={rate.numerator}/{rate.denominator}:mi_mode=mci:mc_mode=aobmc:scd=none")
    sink = graph.add("buffersink")
    source.link_to(between)
    between.link_to(sink)
    graph.configure()
    return graph


def _frame(image: Image.Image, seconds: float) -> av.VideoFrame:
    """A picture as the filter takes it, at a time."""
    frame = av.VideoFrame.from_image(image).reformat(format="yuv444p")
    frame.pts, frame.time_base = round(seconds * _TICKS), Fraction(1, _TICKS)
    return frame


def _pulled(graph: Graph) -> Iterator[Image.Image]:
    """What the filter has ready."""
    while True:
        try:
            frame = graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
        assert isinstance(frame, av.VideoFrame)
        yield frame.to_image()
