"""Data, part one: illustrations in many styles, from npm packages of open icon sets, with captions from their names.

Fetches `@iconify-json/SET` with `npm pack`, rasterises each icon at 128 x 128 with resvg and writes `icons.npy` (what
pocket learns from) and `openmoji.npy` (a style that it never sees, for measuring only). Skin-tone variants, country
flags and copies are left out. Run: `python -m training.icons`.
"""

import hashlib
import io
import json
import re
import subprocess
import tarfile
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import resvg_py
from PIL import Image

from training.store import CACHE, command

# Package version and the words for its style in captions.
SETS = {
    "noto": ("1.2.9", "noto"),
    "noto-v1": ("1.2.5", "noto v1"),
    "fluent-emoji": ("1.2.7", "fluent emoji"),
    "fluent-emoji-flat": ("1.2.6", "fluent emoji flat"),
    "twemoji": ("1.2.5", "twemoji"),
    "emojione": ("1.2.3", "emojione"),
    "fxemoji": ("1.2.2", "fxemoji"),
    "streamline-emojis": ("1.2.4", "streamline emojis"),
    "flat-color-icons": ("1.2.3", "flat color icons"),
    "streamline-ultimate-color": ("1.2.2", "ultimate color"),
    "streamline-plump-color": ("1.2.2", "plump color"),
    "streamline-kameleon-color": ("1.2.2", "kameleon color"),
}
MEASURED = {"openmoji": ("1.2.29", "openmoji")}
VARIANTS = {"-flat": ("plump color", "plump flat"), "-duo": ("kameleon color", "kameleon duo")}
SIZE = 128
HELD_OUT = 0.05
TONES = ("light", "medium-light", "medium", "medium-dark", "dark", "default")


def main() -> None:
    command(__doc__).parse_args()
    CACHE.mkdir(parents=True, exist_ok=True)
    icons = read_all()
    concepts = {icon["concept"] for icon in icons}
    write("icons", icons)
    write("openmoji", [i for i in read("openmoji", *MEASURED["openmoji"]) if i["concept"] in concepts])


def read_all() -> list[dict[str, Any]]:
    """The icons of all sets that pocket learns from, held-out ones too, each with its SVG."""
    return split_words([icon for name in SETS for icon in read(name, *SETS[name])])


def read(name: str, version: str, style: str) -> list[dict[str, Any]]:
    """The icons of one set that we take, each with its SVG."""
    archive = CACHE / "npm" / f"iconify-json-{name}-{version}.tgz"
    if not archive.exists():
        archive.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "pack", "--silent", f"@iconify-json/{name}@{version}"], cwd=archive.parent, check=True)
    with tarfile.open(archive) as packed:
        file = packed.extractfile("package/icons.json")
        assert file is not None
        data = json.load(file)
    icons: list[dict[str, Any]] = []
    bodies: set[str] = set()
    for key, icon in data["icons"].items():
        if icon.get("hidden") or icon["body"] in bodies or is_left_out(key, data["icons"]):
            continue
        bodies.add(icon["body"])
        key_style = style
        for ending, (whole, variant) in VARIANTS.items():
            if key.endswith(ending) and style == whole:
                key, key_style = key.removesuffix(ending), variant
        concept = re.sub(r"(?<=[a-z])-\d+$", "", key).replace("-", " ")
        share = int(hashlib.sha256(f"{concept}|{key_style}".encode()).hexdigest()[:8], 16) / 16**8
        width, height = icon.get("width", data.get("width", 16)), icon.get("height", data.get("height", 16))
        box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
        icons.append(
            {
                "name": f"{name}/{key}",
                "concept": concept,
                "style": key_style,
                "held_out": share < HELD_OUT,
                "svg": f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
                f'viewBox="{box}" width="{SIZE}" height="{SIZE}">{icon["body"]}</svg>',
            }
        )
    return icons


def is_left_out(key: str, icons: dict[str, Any]) -> bool:
    """Whether an icon is a skin-tone variant or a country's flag."""
    for tone in TONES:
        base = key.removesuffix(f"-{tone}")
        if "skin-tone" in key or (base != key and any(f"{base}-{t}" in icons for t in TONES if t != tone)):
            return True
    return (key.startswith("flag-") and key not in ("flag-in-hole", "flag-plain")) or key.startswith(
        "regionalindicator"
    )


def split_words(icons: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The set fxemoji writes its names in one word ("catface"): takes the other sets' spelling where there is one."""
    spelling = {icon["concept"].replace(" ", ""): icon["concept"] for icon in icons if icon["style"] != "fxemoji"}
    return [{**icon, "concept": spelling.get(icon["concept"], icon["concept"])} for icon in icons]


def write(name: str, icons: list[dict[str, Any]]) -> None:
    """Rasterises the icons to `NAME.npy` (N, 128, 128, 4) and writes `NAME.json`, one record for each."""
    with ProcessPoolExecutor() as pool:
        pictures = list(pool.map(rasterise, [icon["svg"] for icon in icons], chunksize=64))
    whole = [i for i, picture in enumerate(pictures) if picture is not None and picture[..., 3].mean() > 4]
    np.save(CACHE / f"{name}.npy", np.stack([p for i in whole if (p := pictures[i]) is not None]))
    records = [{key: value for key, value in icons[i].items() if key != "svg"} for i in whole]
    for record in records:
        record["caption"] = f"{record['concept']}, {record['style']}"
    (CACHE / f"{name}.json").write_text(json.dumps(records))
    held_out = sum(record["held_out"] for record in records)
    print(f"{name}: {len(records)} pictures, {held_out} held out, {len({r['concept'] for r in records})} concepts")


def rasterise(svg: str, size: int = SIZE) -> np.ndarray[Any, np.dtype[np.uint8]] | None:
    """One picture (size, size, 4) of a square SVG, or None where resvg cannot read it."""
    try:
        png = resvg_py.svg_to_bytes(svg_string=svg, skip_system_fonts=True, width=size, height=size)
    except ValueError:
        return None
    return np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGBA"))


if __name__ == "__main__":
    main()
