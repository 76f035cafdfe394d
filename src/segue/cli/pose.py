"""What the command ``segue pose`` does: find people, show, draw and write their poses, or a film of the skeletons."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from PIL import Image

from segue.errors import SegueError
from segue.files import check_apart, check_writable, file_of, writing
from segue.film.outputs import check_film
from segue.film.writers import write_film
from segue.pictures.images import load
from segue.pose.detect import Detector, detector_of
from segue.pose.drawing import draw
from segue.pose.keypoints import KEYPOINTS, Pose
from segue.pose.matching import Matching
from segue.pose.path import PosePath

__all__ = ["draw_over", "show_poses", "skeleton_film"]

FPS = 12.0


def show_poses(
    images: Sequence[Path], *, detector: Detector | None, download: bool, output: Path | None, drawing: Path | None
) -> None:
    """Print the poses of pictures; write that of a single one as OpenPose JSON, or drawn over the picture.

    Raises:
        SegueError: a picture or a place to write is wrong, several pictures for one output, no detector. Nothing is
            written then.
    """
    if len(images) > 1 and (output or drawing):
        raise SegueError("--output and --draw take one picture at a time")
    for path, ending in ((output, ".json"), (drawing, ".png")):
        if path:
            _check(path, ending, images)
    if files := [image for image in images if image.suffix.lower() == ".json"]:
        raise SegueError(f"{files[0]} is a pose file, which only --between takes; give a picture")
    pictures = [load(image) for image in images]
    detect = detector_of(detector, download=download)
    for name, picture in zip(images, pictures, strict=True):
        pose = detect(picture)
        print(f"{name}: {picture.width} x {picture.height}, {_people(len(pose.people))}")
        for number, person in enumerate(pose.people, 1):
            shown = zip(KEYPOINTS, person.points, person.visible, strict=True)
            points = [f"{point} ({x:.0f}, {y:.0f}) {c:.2f}" for point, (x, y, c), visible in shown if visible]
            print(f"  person {number}: " + "; ".join(points))
        for place in filter(None, (output, drawing)):
            place.parent.mkdir(parents=True, exist_ok=True)
        if output:
            pose.save(output)
        if drawing:
            with writing(drawing) as temporary:
                draw_over(picture, pose).save(temporary, format="PNG")


def skeleton_film(
    images: Sequence[Path],
    output: Path,
    *,
    num_frames: int,
    detector: Detector | None,
    download: bool,
    matching: Matching,
) -> None:
    """Write a film of the skeletons on the way from one picture's (or pose file's) pose to the next one's.

    Raises:
        SegueError: fewer than two, somebody cannot be guided, or what is wrong with a file.
    """
    if len(images) < 2:
        raise SegueError(f"--between takes two pictures or more, not {len(images)}")
    check_film(output)
    check_apart(output, map(file_of, images))
    poses = [_pose_of(path, detector, download) for path in images]
    size = poses[0].size
    if any(pose.size != size for pose in poses):
        raise SegueError("--between takes pictures of one size")
    path = PosePath(poses, matching=matching, given=True)
    gap = num_frames - 1
    places = [Fraction(i, gap) for i in range(gap * (len(poses) - 1) + 1)]
    skeletons = (draw(path(place) or Pose((), *size)) for place in places)
    write_film(output, skeletons, [1] * len(places), FPS)
    print(f"{output}: {len(places)} skeletons")


def _check(path: Path, ending: str, images: Sequence[Path]) -> None:
    """Check that a file can be written, and that its name says what it holds."""
    if path.suffix.lower() != ending:
        raise SegueError(f"{path}: the name of what is written here ends in {ending}")
    check_apart(path, map(file_of, images))
    check_writable(path)


def _pose_of(path: Path, detector: Detector | None, download: bool) -> Pose:
    """The pose of a pose file, or detected in a picture."""
    if path.suffix.lower() == ".json":
        return Pose.load(path)
    return detector_of(detector, download=download)(load(path))


def draw_over(picture: Image.Image, pose: Pose) -> Image.Image:
    """The skeleton over a dimmed picture."""
    skeleton = draw(pose)
    dimmed = Image.blend(picture, Image.new("RGB", picture.size, "white"), 0.5)
    drawn = skeleton.convert("L").point(lambda value: 255 if value else 0)
    return Image.composite(skeleton, dimmed, drawn)


def _people(count: int) -> str:
    return "nobody" if not count else "1 person" if count == 1 else f"{count} people"
