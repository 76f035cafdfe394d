"""Make the films of all pairs with all schemes, measure them, and put intervals on what comes out.

    OUTPUT/runs/SCHEME/NAME/       the run folder of each film, as segue morph makes it
    OUTPUT/films/SCHEME/NAME.json  what it was made from, and in how many seconds
    OUTPUT/features/NETWORK/...    what each network saw in it

All of these are kept: what is there is not made again, so a stopped evaluation continues where it was, and one more
scheme, pair or network costs only itself.
"""

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from segue.batch.manifest import Pair
from segue.batch.rows import Row, values_of
from segue.batch.work import make_row
from segue.engine.interpolator import Interpolator
from segue.errors import SegueError
from segue.evaluate.measures import sharpness
from segue.evaluate.results import NOTES, Film, Measured, Report, report_of
from segue.files import write_bytes, write_json
from segue.models.features.distances import Array
from segue.models.features.networks import Network
from segue.pictures.files import digest_of_source
from segue.settings.kinds import MorphSettings, parse_settings
from segue.settings.presets import with_preset
from segue.settings.text import as_json, differences, model_differences

__all__ = ["Stage", "evaluate"]


@dataclass(frozen=True)
class Stage:
    """Where an evaluation is; handed to the callback.

    Attributes:
        stage: "films", "features" or "report".
        what: the scheme, or the network.
        pair: the pair's name.
        done, total: finished films of this stage, and all.
        kept: whether this one was there already.
    """

    stage: str
    what: str = ""
    pair: str = ""
    done: int = 0
    total: int = 0
    kept: bool = False


Callback = Callable[[Stage], None]


def evaluate(
    interpolator: Interpolator,
    pairs: Sequence[Pair],
    schemes: Sequence[str],
    output: Path,
    *,
    networks: Sequence[Network],
    settings: Mapping[str, Any] | None = None,
    preset: str = "balanced",
    callback: Callback | None = None,
) -> Report:
    """Measure schemes on pairs.

    Args:
        interpolator: the model that makes the films.
        pairs: what ``read_pairs`` gives.
        schemes: names of schemes.
        output: the folder of the evaluation; one that holds another evaluation of the same settings is added to.
        networks: the feature networks.
        settings: fields of MorphSettings and ComputeSettings; scheme, prompts and poses come from elsewhere.
        preset: values to begin with; what of it a scheme does not know is left out there.
        callback: is handed a Stage after each film and each measurement.

    Returns:
        All numbers, with intervals; ``report.write_report`` writes them.

    Raises:
        SegueError: a setting is wrong, or the folder holds films that were made with other settings.
    """
    begun, clock, report = time.perf_counter(), _Clock(), callback or (lambda _stage: None)
    parts = dict(interpolator.backbone.parts())
    model = {"name": interpolator.name, "fingerprint": interpolator.backbone.fingerprint(), "parts": parts}
    name, marks = interpolator.name, interpolator.backbone.marks
    by_scheme = [with_preset(preset, {**(settings or {}), "scheme": scheme}, name, marks) for scheme in schemes]
    digest_of = cache(digest_of_source)  # of files that several films are made of
    jobs = [_job(parts, pair, of_scheme, digest_of) for of_scheme in by_scheme for pair in pairs]

    (output / NOTES).mkdir(parents=True, exist_ok=True)

    # Make the films.
    films = []
    for i, job in enumerate(jobs, 1):
        film, kept = _film(interpolator, job, output, clock)
        films.append(film)
        report(Stage("films", job.scheme, job.pair.name, i, len(jobs), kept))

    # See them through the networks.
    measured = [Measured(film, {}, {}, {}, np.array([])) for film in films]
    for network in networks:
        for i, film in enumerate(films):
            seen, kept = _observe(network, film, output, clock)
            measured[i] = measured[i].with_network(network.name, seen)
            report(Stage("features", network.name, film.pair.name, i + 1, len(films), kept))
    for i, film in enumerate(films):
        measured[i] = measured[i].with_sharpness(_sharpness(film, output))

    # Put intervals on what comes out.
    report(Stage("report"))
    found = report_of(
        measured,
        schemes,
        {network.name: network.fingerprint for network in networks},
        model=model,
        settings=_shared_settings(jobs),
        digests={pair.name: _digest_of_pair(pair, digest_of) for pair in pairs},
    )
    rest = time.perf_counter() - begun - clock.spent["films"] - clock.spent["features"]
    return found.with_seconds(films=clock.known["films"], features=clock.known["features"], rest=rest)


@dataclass(frozen=True)
class _Job:
    """One film to make: its pair, its scheme, all settings and what they make of it."""

    pair: Pair
    scheme: str
    values: Mapping[str, Any]
    cache_key: Mapping[str, Any]


@dataclass
class _Clock:
    """Seconds by share: spent in this call, and known of everything that the report stands on."""

    spent: dict[str, float] = field(default_factory=lambda: {"films": 0.0, "features": 0.0})
    known: dict[str, float] = field(default_factory=lambda: {"films": 0.0, "features": 0.0})

    @contextmanager
    def measuring(self, share: str) -> Iterator[Callable[[], float]]:
        begun = time.perf_counter()
        yield lambda: time.perf_counter() - begun
        self.spent[share] += time.perf_counter() - begun


def _job(parts: Mapping[str, str], pair: Pair, settings: Mapping[str, Any], digest_of: Callable[[Path], str]) -> _Job:
    """What one film is made from, as plain values that can be compared."""
    values = values_of(pair, settings)
    images = {name: value for name, value in values.items() if name in MorphSettings.model_fields}
    cache_key = {
        "settings": as_json(parse_settings(MorphSettings, images)),
        "parts": parts,
        "a": digest_of(pair.a),
        "b": digest_of(pair.b),
        "poses": [digest_of(path) for path in Row(pair.name, (pair.a, pair.b), Path(), values).inputs[2:]],
    }
    return _Job(pair, settings["scheme"], values, cache_key)


def _film(interpolator: Interpolator, job: _Job, output: Path, clock: _Clock) -> tuple[Film, bool]:
    """One film, made where it is not there; and whether it was there."""
    record_path = output / "films" / job.scheme / f"{job.pair.name}.json"
    record = _record(record_path, job, output)
    kept = record is not None
    if record is None:
        with clock.measuring("films") as seconds:
            folder = output / "runs" / job.scheme / job.pair.name
            morph = make_row(interpolator, Row(job.pair.name, (job.pair.a, job.pair.b), folder, job.values))
            frames = {str(key.place): path for key, path in zip(morph.keys, morph.frames.paths, strict=True)}
            record = {
                "cache_key": job.cache_key,
                "seconds": round(seconds(), 3),
                "frames": {place: path.relative_to(output.absolute()).as_posix() for place, path in frames.items()},
            }
            record_path.parent.mkdir(parents=True, exist_ok=True)
            write_json(record_path, record)
    clock.known["films"] += record["seconds"]
    film = Film(
        pair=job.pair,
        scheme=job.scheme,
        folder=output,
        frames=tuple(record["frames"].values()),
        positions=np.array([float(Fraction(place)) for place in record["frames"]]),
        digest=_digest_of_film(job, [output / name for name in record["frames"].values()]),
        texts=_texts(job.cache_key["settings"]),
    )
    return film, kept


def _texts(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The prompts of both keyframes that a film is made with and its negative prompt; none where they are found."""
    prompts = settings["prompt"]
    return (prompts[0], prompts[-1], settings["negative_prompt"]) if prompts else ()


def _record(path: Path, job: _Job, output: Path) -> dict[str, Any] | None:
    """What is known of a film that is there; None if it is to be made; raises SegueError if it is another one."""
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        before, frames = record["cache_key"], record["frames"]
    except (FileNotFoundError, ValueError, KeyError):
        return None
    if before != job.cache_key:
        changes = differences(before["settings"], job.cache_key["settings"])
        if (parts := before.get("parts", {})) != job.cache_key["parts"]:
            changes.append(f"another model: {model_differences(parts, job.cache_key['parts'])}")
        names = {
            "a": "another a",
            "b": "another b",
            "poses": "pose files or control images with other content",
        }
        changes += [text for name, text in names.items() if before.get(name) != job.cache_key[name]]
        raise SegueError(f"{path} is for a film made with other settings ({'; '.join(changes)}); choose another output")
    return record if all((output / name).is_file() for name in frames.values()) else None


def _observe(network: Network, film: Film, output: Path, clock: _Clock) -> tuple[dict[str, Array], bool]:
    """What a network sees in a film: features, distances, the texts of its prompts; and whether it was there."""
    path = output / "features" / _folder(network) / film.scheme / f"{film.pair.name}.safetensors"
    stamp = {"network": network.fingerprint, "film": film.digest, "texts": json.dumps(film.texts)}
    there = _read_stored(path, stamp)
    if there is not None:
        clock.known["features"] += there[1]
        return there[0], True
    with clock.measuring("features") as seconds:
        seen = _run_network(network, film, _pictures(film))
        cost = seconds()
    _store(path, seen, {**stamp, "seconds": f"{cost:.3f}"})
    clock.known["features"] += cost
    return seen, False


def _run_network(network: Network, film: Film, pictures: Sequence[Image.Image]) -> dict[str, Array]:
    seen: dict[str, Array] = {}
    if network.features is None:
        path = network.path(pictures)
        seen |= {"steps": path.steps, "to_first": path.to_first, "to_last": path.to_last}
    else:
        seen["features"] = network.features(pictures)
    if network.texts is not None and film.texts:
        seen["texts"] = network.texts(film.texts)
    return seen


def _sharpness(film: Film, output: Path) -> Array:
    """The sharpness of each frame, (F,)."""
    path = output / "features" / "sharpness" / film.scheme / f"{film.pair.name}.safetensors"
    stamp = {"film": film.digest}
    there = _read_stored(path, stamp)
    if there is not None:
        return there[0]["sharpness"]
    values = np.array([sharpness(np.asarray(picture, dtype=np.float64) / 255) for picture in _pictures(film)])
    _store(path, {"sharpness": values}, stamp)
    return values


def _pictures(film: Film) -> list[Image.Image]:
    pictures = []
    for name in film.frames:
        with Image.open(film.folder / name) as image:
            pictures.append(image.convert("RGB"))
    return pictures


def _read_stored(path: Path, stamp: Mapping[str, str]) -> tuple[dict[str, Array], float] | None:
    """Arrays that were kept, and the seconds they took; None if there are none of that stamp."""
    try:
        with safe_open(path, framework="numpy") as file:
            known = file.metadata() or {}
            if any(known.get(name) != value for name, value in stamp.items()):
                return None
            return {name: file.get_tensor(name) for name in file.keys()}, float(known.get("seconds", 0))  # noqa: SIM118
    except (FileNotFoundError, SafetensorError):
        return None


def _store(path: Path, arrays: Mapping[str, Array], stamp: Mapping[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, dict(stamp)))


def _folder(network: Network) -> str:
    """A folder's name of a network: its own, made safe, with its fingerprint where it is a file or checkpoint."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", network.name).strip("_.") or "network"
    return safe if ":" not in network.name else f"{safe[-60:]}-{network.fingerprint[:8]}"


def _shared_settings(jobs: Sequence[_Job]) -> dict[str, Any]:
    """The settings that all films share."""
    settings = [job.cache_key["settings"] for job in jobs]
    return {name: value for name, value in settings[0].items() if all(s[name] == value for s in settings)}


def _digest_of_pair(pair: Pair, digest_of: Callable[[Path], str]) -> str:
    """What a pair is: its pictures, and the words and poses that the manifest gives it."""
    files = [path for path in (pair.a, pair.b, pair.pose_a, pair.pose_b) if path is not None]
    words = [pair.prompts, pair.negative_prompt]
    return hashlib.sha256(json.dumps([[digest_of(file) for file in files], words]).encode()).hexdigest()[:16]


def _digest_of_film(job: _Job, frames: Sequence[Path]) -> str:
    """What a film was made from, and its frames as they are: a remake in its run folder makes others."""
    found = hashlib.sha256(json.dumps(job.cache_key, sort_keys=True).encode())
    for frame in frames:
        found.update(frame.read_bytes())
    return found.hexdigest()[:16]
