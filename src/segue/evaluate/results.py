"""What an evaluation finds, as plain values: the table with intervals, the differences, every film's distances."""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import TypeAdapter, ValidationError

from segue.batch.manifest import Pair
from segue.errors import SegueError
from segue.evaluate import measures
from segue.evaluate.catalogue import FILM_MEASURES, film_values
from segue.evaluate.statistics import (
    Interval,
    frechet_of_parts,
    jackknife_interval,
    kernel_of_parts,
    mean_interval,
    paired_interval,
    parts_without,
)
from segue.models.features.distances import Array, SequencePath, path_of_features

__all__ = [
    "NOTES",
    "REPORT_FILE",
    "Cell",
    "Difference",
    "Film",
    "FilmReport",
    "Measured",
    "Report",
    "key_of",
    "read_report",
    "report_of",
    "set_values",
]

REPORT_FILE = "report.json"
NOTES = ".evaluation"  # the folder of the lock, by which an evaluation that is not finished is known


@dataclass(frozen=True)
class Film:
    """One film: its pair, its scheme, its frames by name in a folder, their positions, a digest of its cache key.

    ``texts`` are the prompts of both keyframes that it was made with and its negative prompt, or none.
    """

    pair: Pair
    scheme: str
    folder: Path
    frames: tuple[str, ...]
    positions: Array
    digest: str
    texts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measured:
    """One film as the networks see it: by network its path, its features (F, D) and its texts (3, D)."""

    film: Film
    paths: Mapping[str, SequencePath]
    features: Mapping[str, Array]
    texts: Mapping[str, Array]
    sharpness: Array

    def with_network(self, network: str, seen: Mapping[str, Array]) -> "Measured":
        """With what one more network sees."""
        features = seen.get("features")
        path = (
            path_of_features(features)
            if features is not None
            else SequencePath(seen["steps"], seen["to_first"], seen["to_last"])
        )
        return dataclasses.replace(
            self,
            paths={**self.paths, network: path},
            features=self.features if features is None else {**self.features, network: features},
            texts={**self.texts, network: seen["texts"]} if "texts" in seen else self.texts,
        )

    def with_sharpness(self, values: Array) -> "Measured":
        """With the sharpness of the frames, (F,)."""
        return dataclasses.replace(self, sharpness=values)

    def values(self, networks: Iterable[str]) -> dict[str, float]:
        """All measures of this film by key."""
        found = {"sharpness": measures.relative_sharpness(self.sharpness, self.film.positions)}
        for network in networks:
            found |= {key_of(name, network): value for name, value in film_values(self.paths[network]).items()}
            if network in self.texts:
                first, last, negative = self.texts[network]
                margin = measures.text_margin(self.features[network], first, last, negative, self.film.positions)
                found[key_of("margin", network)] = margin
        return found


@dataclass(frozen=True)
class Cell:
    """One number of the table; None if it is not defined.

    Attributes:
        scheme, measure, network, group: what it is of; the network is empty for measures without one, the group for
            all pairs.
        value, low, high: the value and the ends of its 95 % interval over pairs.
        spread: the standard deviation over pairs.
        pairs: over how many pairs.
    """

    scheme: str
    measure: str
    network: str
    group: str
    value: float | None
    low: float | None
    high: float | None
    spread: float | None
    pairs: int


@dataclass(frozen=True)
class Difference:
    """How two schemes differ over the same pairs: first minus second."""

    first: str
    second: str
    measure: str
    network: str
    value: float | None
    low: float | None
    high: float | None
    pairs: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval does not hold zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class FilmReport:
    """One film: its measures by key, and by network its distances along the sequence."""

    scheme: str
    pair: str
    group: str
    frames: tuple[str, ...]
    positions: tuple[float, ...]
    values: dict[str, float | None]
    distances: dict[str, dict[str, tuple[float, ...]]]


@dataclass(frozen=True)
class Report:
    """Everything that an evaluation found.

    Attributes:
        version: of Segue; model: name, fingerprint and parts; settings: those that all films share.
        networks: the fingerprint of each feature network by name.
        schemes, pairs, groups: their names, in order.
        floors: by network, FID of independent samples of one and the same Gaussian, at these numbers of frames.
        cells, differences, films: the numbers.
        seconds: of all films, of the networks, and of everything else in the last call.
        digests: by pair, of its pictures, prompts and poses.
    """

    version: str
    model: dict[str, Any]
    settings: dict[str, Any]
    networks: dict[str, str]
    schemes: tuple[str, ...]
    pairs: tuple[str, ...]
    groups: tuple[str, ...]
    floors: dict[str, dict[str, float]]
    cells: tuple[Cell, ...]
    differences: tuple[Difference, ...]
    films: tuple[FilmReport, ...]
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    digests: dict[str, str] = dataclasses.field(default_factory=dict)

    def with_seconds(self, **seconds: float) -> Self:
        """With the shares of time."""
        return dataclasses.replace(self, seconds={name: round(value, 3) for name, value in seconds.items()})

    def cell(self, scheme: str, measure: str, network: str, group: str = "") -> Cell | None:
        """One number of the table; None if it was not measured."""
        wanted = (scheme, measure, network, group)
        return next((c for c in self.cells if (c.scheme, c.measure, c.network, c.group) == wanted), None)

    @property
    def columns(self) -> tuple[tuple[str, str], ...]:
        """The measures of the table with their networks, in order."""
        return tuple(dict.fromkeys((cell.measure, cell.network) for cell in self.cells if not cell.group))


def key_of(measure: str, network: str) -> str:
    """The key of a measure: its name, with the network that it stands on."""
    return f"{measure}@{network}" if network else measure


def read_report(path: Path) -> Report:
    """The report of an evaluation's folder, or of its report.json.

    Raises:
        SegueError: it is missing.
    """
    file = path / REPORT_FILE if path.is_dir() else path
    try:
        return TypeAdapter(Report).validate_json(file.read_bytes())
    except OSError as error:
        raise SegueError(f"{path} is not an evaluation: {file} cannot be read") from error
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(map(str, fault["loc"])) or "the file"
        raise SegueError(f"{file} is not a report of this version of segue: {where}: {fault['msg']}") from error


def report_of(
    measured: Sequence[Measured],
    schemes: Sequence[str],
    networks: Mapping[str, str],
    *,
    model: Mapping[str, Any],
    settings: Mapping[str, Any],
    digests: Mapping[str, str] | None = None,
) -> Report:
    """The table, the differences and the films of what was measured: all schemes on the same pairs."""
    by_scheme = {scheme: [m for m in measured if m.film.scheme == scheme] for scheme in schemes}
    pairs = [m.film.pair for m in by_scheme[schemes[0]]]
    values = {m.film.scheme + "/" + m.film.pair.name: m.values(networks) for m in measured}
    columns = _film_columns(networks, values.values())
    table = {
        (scheme, *column): np.array([values[f"{scheme}/{p.name}"].get(key_of(*column), math.nan) for p in pairs])
        for scheme in schemes
        for column in columns
    }
    groups = tuple(dict.fromkeys(pair.group for pair in pairs if pair.group))
    set_cells, set_differences = _over_sets(by_scheme, [n for n in networks if n in measured[0].features])
    cells = [
        _cell(scheme, *column, group, mean_interval(table[scheme, *column][_members(pairs, group)]))
        for group in ("", *groups)
        for scheme in schemes
        for column in columns
    ]
    contrasts = [
        _difference(first, second, *column, paired_interval(table[first, *column], table[second, *column]))
        for first, second in itertools.combinations(schemes, 2)
        for column in columns
    ]
    return Report(
        version=version("segue"),
        model=dict(model),
        settings=dict(settings),
        networks=dict(networks),
        schemes=tuple(schemes),
        pairs=tuple(pair.name for pair in pairs),
        groups=groups,
        floors={
            n: found for n in networks if n in measured[0].features and (found := _floors(by_scheme[schemes[0]], n))
        },
        cells=(*set_cells, *cells),
        differences=(*set_differences, *contrasts),
        films=tuple(_film_report(m, values[f"{m.film.scheme}/{m.film.pair.name}"]) for m in measured),
        digests=dict(digests or {}),
    )


def _film_columns(networks: Iterable[str], values: Iterable[Mapping[str, float]]) -> list[tuple[str, str]]:
    """The measures of single films that anything was found for, with their networks."""
    there = {key for found in values for key in found}
    columns = [(measure.name, n) for n in networks for measure in FILM_MEASURES if measure.network]
    return [*(column for column in columns if key_of(*column) in there), ("sharpness", "")]


def _over_sets(
    by_scheme: Mapping[str, Sequence[Measured]], networks: Sequence[str]
) -> tuple[list[Cell], list[Difference]]:
    """FID and KID of each scheme with their intervals, and the differences between schemes over the same parts."""
    cells: list[Cell] = []
    contrasts: list[Difference] = []
    for network in networks:
        found = {scheme: set_values(films, network) for scheme, films in by_scheme.items()}
        pairs = len(next(iter(by_scheme.values())))
        for scheme, of_scheme in found.items():
            cells += [
                _cell(scheme, name, network, "", jackknife_interval(value, without, pairs))
                for name, (value, without) in of_scheme.items()
            ]
        for first, second in itertools.combinations(found, 2):
            contrasts += [
                _difference(
                    first,
                    second,
                    name,
                    network,
                    jackknife_interval(value - found[second][name][0], without - found[second][name][1], pairs),
                )
                for name, (value, without) in found[first].items()
                if name in found[second]
            ]
    return cells, contrasts


def _has_set_values(films: Sequence[Measured], network: str) -> bool:
    """Whether films can be measured together: two or more, all of one number of frames, with some in between."""
    counts = {len(m.features[network]) for m in films}
    return len(films) > 1 and len(counts) == 1 and min(counts) > 2


def set_values(films: Sequence[Measured], network: str) -> dict[str, tuple[float, Array]]:
    """FID, FID over all frames and KID of one scheme, each with its values where pairs are left out."""
    if not _has_set_values(films, network):
        return {}
    features = np.stack([m.features[network] for m in films])  # (pairs, F, D)
    inputs, between = features[:, [0, -1]], features[:, 1:-1]
    chosen = measures.random_frames([m.film.pair.name for m in films], features.shape[1])  # (choices, pairs, k)
    two = features[np.arange(len(films))[None, :, None], chosen]  # (choices, pairs, k, D)
    parts = parts_without(len(films))

    def flat(x: Array) -> Array:
        return x.reshape(-1, x.shape[-1])

    return {
        "fid": (
            float(np.mean([measures.frechet_distance(flat(x), flat(inputs)) for x in two])),
            frechet_of_parts(two, inputs, parts),
        ),
        "fid_all": (measures.frechet_distance(flat(between), flat(inputs)), frechet_of_parts(between, inputs, parts)),
        "kid": (measures.kernel_distance_of_pairs(between, inputs), kernel_of_parts(between, inputs, parts)),
    }


def _floors(films: Sequence[Measured], network: str) -> dict[str, float]:
    """The bias of both FIDs at these numbers of frames, if there are any."""
    if not _has_set_values(films, network):
        return {}
    inputs = np.concatenate([m.features[network][[0, -1]] for m in films])
    frames = len(films[0].film.positions) - 2
    return {
        name: measures.frechet_floor(inputs, len(films) * each, len(inputs))
        for name, each in (("fid", min(2, frames)), ("fid_all", frames))
    }


def _members(pairs: Sequence[Pair], group: str) -> Any:
    return np.array([not group or pair.group == group for pair in pairs])


def _cell(scheme: str, measure: str, network: str, group: str, interval: Interval) -> Cell:
    value, low, high = map(_finite, (interval.value, interval.low, interval.high))
    return Cell(scheme, measure, network, group, value, low, high, _finite(interval.spread), interval.pairs)


def _difference(first: str, second: str, measure: str, network: str, interval: Interval) -> Difference:
    value, low, high = map(_finite, (interval.value, interval.low, interval.high))
    return Difference(first, second, measure, network, value, low, high, interval.pairs)


def _film_report(measured: Measured, values: Mapping[str, float]) -> FilmReport:
    film = measured.film
    return FilmReport(
        scheme=film.scheme,
        pair=film.pair.name,
        group=film.pair.group,
        frames=film.frames,
        positions=tuple(film.positions.tolist()),
        values={key: _finite(value) for key, value in values.items()},
        distances={
            network: {
                name: tuple(round(float(d), 6) for d in getattr(path, name))
                for name in ("steps", "to_first", "to_last")
            }
            for network, path in measured.paths.items()
        },
    )


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
