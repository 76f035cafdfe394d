"""More frames between the frames of a film, without a network: cross-dissolves, or motion-compensated by FFmpeg."""

from collections.abc import Iterable, Iterator
from fractions import Fraction

import av
from av.filter import Graph
from PIL import Image

__all__ = ["compensated", "dissolved"]

Timed = Iterable[tuple[Image.Image, float]]

_TICKS = 90_000  # ticks of a second in the filter's clock


def dissolved(frames: Timed, count: int) -> Iterator[tuple[Image.Image, float]]:
    """Put ``count`` cross-dissolves between neighbours; each frame gives its time on screen to those after it.

    Args:
        frames: pictures of one size with their seconds on screen.
        count: pictures between two neighbours.
    """
    before: tuple[Image.Image, float] | None = None
    for image, seconds in frames:
        if before is not None:
            shared = before[1] / (count + 1)
            yield before[0], shared
            for i in range(1, count + 1):
                yield Image.blend(before[0], image, i / (count + 1)), shared
        before = image, seconds
    if before is not None:
        yield before


def compensated(frames: Timed, fps: float) -> Iterator[tuple[Image.Image, float]]:
    """Interpolate along the motion between neighbours, by FFmpeg's filter minterpolate, to an even rate.

    Args:
        frames: pictures of one size with their seconds on screen.
        fps: frames per second of the result.

    Yields:
        Pictures that are each on screen for 1 / fps; together as long as the frames, to one of them.
    """
    graph: Graph | None = None
    last: Image.Image | None = None
    shown, made = 0.0, 0
    for image, seconds in frames:
        graph = graph or _graph(image.size, fps)
        graph.push(_frame(image, shown))
        shown, last = shown + seconds, image
        for picture in _pulled(graph):
            made += 1
            yield picture, 1 / fps
    if graph is None or last is None:
        return
    graph.push(_frame(last, shown))  # the filter needs an end for the last frame's time
    graph.push(None)
    for picture in _pulled(graph):
        made += 1
        yield picture, 1 / fps
    for _ in range(made, round(shown * fps)):
        yield last, 1 / fps


def _graph(size: tuple[int, int], fps: float) -> Graph:
    """The filter's graph for pictures of one size."""
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
