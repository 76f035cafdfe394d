"""Feed malformed images to the reader: each is read, or refused in one line; no traceback, no hang, no growth.

    PYTHONPATH=tests python tests/stress/malformed.py [--count N] [--seed N]

Images of every format that Pillow writes are cut off, have bits flipped, and get headers of other formats.
"""

import argparse
import io
import random
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from segue.errors import SegueError
from segue.pictures.images import load

SECONDS = 20  # for one image; a hang ends the program by SIGALRM
GROWTH = 64 << 20  # bytes of memory that half of the images may add after the first half


def main() -> None:
    """Parse the command, feed the images, print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    whole = formats()
    read = refused = half = 0
    with TemporaryDirectory() as folder:
        for number, (name, data) in enumerate(malform(whole, options.count, random.Random(options.seed))):
            path = Path(folder) / "image.png"
            path.write_bytes(data)
            signal.alarm(SECONDS)
            message = refusal(path, f"image {number}, {name}")
            signal.alarm(0)
            read, refused = read + (message is None), refused + (message is not None)
            if message is not None:
                assert len(message.splitlines()) == 1, f"{name}: {message!r}"
                assert str(path) in message, f"{name}: {message!r}"
            half = half or (resident() if number >= options.count // 2 else 0)
    grown = resident() - half
    assert grown < GROWTH, f"memory grew by {grown >> 20} MiB"
    print(f"{read + refused} images of {len(whole)} formats: {read} read, {refused} refused, {grown >> 20} MiB grown")


def refusal(path: Path, what: str) -> str | None:
    """Why an image cannot be used; None where it can."""
    try:
        load(path)
    except SegueError as error:
        return str(error)
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__}") from error
    return None


def formats() -> dict[str, bytes]:
    """One small image in every format and mode that Pillow writes here."""
    Image.init()
    gradient = Image.linear_gradient("L").resize((48, 40))
    colours = Image.merge("RGB", [gradient, gradient.rotate(90), gradient.rotate(180)])
    found: dict[str, bytes] = {}
    for name in sorted(Image.SAVE):
        for mode in ("RGB", "L", "P", "RGBA", "CMYK", "I;16", "F", "1"):
            file = io.BytesIO()
            try:
                colours.convert(mode).save(file, format=name)
            except Exception:  # this format has no such mode, or is written through a program that is not here
                continue
            found[f"{name} {mode}"] = file.getvalue()
    return found


def malform(whole: dict[str, bytes], count: int, chance: random.Random) -> Iterator[tuple[str, bytes]]:
    """So many malformed images: each format in turn, each damage in turn."""
    names = list(whole)
    for number in range(count):
        name = names[number % len(names)]
        data = bytearray(whole[name])
        damage = ("cut off", "bits flipped", "another header", "bytes left out")[(number // len(names) + number) % 4]
        if damage == "cut off":
            del data[chance.randrange(len(data)) :]
        elif damage == "bits flipped":
            for _ in range(chance.randint(1, 16)):
                data[chance.randrange(min(len(data), chance.choice((64, len(data)))))] ^= 1 << chance.randrange(8)
        elif damage == "another header":
            size = chance.randint(4, 32)
            data[:size] = whole[chance.choice(names)][:size]
        else:
            start = chance.randrange(len(data))
            del data[start : start + chance.randint(1, 64)]
        yield f"{name}, {damage}", bytes(data)


def resident() -> int:
    """Bytes of memory that this process has now; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    except OSError:
        return 0


if __name__ == "__main__":
    main()
