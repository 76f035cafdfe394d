"""The files that a film is made of, read and checked before torch is imported."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from segue.engine.plan import check_plan
from segue.engine.points import points_of_gaps
from segue.errors import SegueError, hearing
from segue.pictures.images import LEAST_SIDE, film_size, load, shown_size
from segue.pose.keypoints import Pose
from segue.run.journal import Edit
from segue.run.schema import RUN_FILE, read_part
from segue.settings.kinds import MorphSettings

__all__ = ["check_edit", "check_files", "check_images", "check_inputs", "check_number"]


def check_inputs(images: Sequence[Path], settings: MorphSettings) -> None:
    """Raise SegueError if an image, or another file that settings name, is wrong, or the settings do not fit them."""
    pictures = check_images(images, settings.background)
    with hearing():  # what is to be known is told when the film is made
        check_plan(settings, len(images))
        check_files(settings, [shown_size(image) for image in images])
    if settings.film_size:
        film_size(pictures, (1, 1), settings.film_size)


def check_edit(folder: Path, edit: Edit) -> None:
    """Raise SegueError if a file of an edit in a run cannot be read."""
    if edit.image is not None:
        check_images([Path(edit.image)])
    run = read_part(folder, RUN_FILE)
    if edit.pose is not None and run is not None:
        width, height = run["size"]
        Pose.load(edit.pose, (width, height))


def check_images(images: Sequence[Path], background: str = "white") -> list[Image.Image]:
    """The pictures of files; raises SegueError if one cannot be read."""
    with hearing():
        return [load(image, background=background, least=LEAST_SIDE) for image in images]


def check_files(settings: MorphSettings, sizes: Sequence[tuple[int, int]]) -> None:
    """Check the files that settings name, for keyframes of these sizes.

    Raises:
        SegueError: there are too many or too few, or one is missing or broken.
    """
    poses = settings.pose.split(",") if settings.pose not in ("auto", "off") else []
    for name, paths in (("pose", poses), ("control_image", settings.control_image)):
        if paths:
            check_number(paths, name, len(sizes))
    for path, size in zip(poses, sizes, strict=False):
        Pose.load(path, size)
    for path in settings.control_image:
        load(path, least=LEAST_SIDE)
    if settings.points:
        points_of_gaps(Path(settings.points), len(sizes) - 1 + settings.loop)


def check_number(paths: Sequence[str], setting: str, count: int) -> None:
    """Raise SegueError for a wrong number of files."""
    if len(paths) != count:
        raise SegueError(f"{setting}: {len(paths)} files for {count} keyframes; give one for each")
