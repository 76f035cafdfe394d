"""The tables: what lies before a visitor for each film, and for the next one that is not begun yet.

One table is on the page; the others wait as they were left. A table is a plain mapping, which ``studio.json`` keeps:
the keyframes, the preset, and what stands in the page's controls, whether it can be read as a setting or not.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import RLock
from typing import Any

from segue.errors import SegueError
from segue.studio.keyframes import Keyframes

__all__ = ["NEW", "Table", "Tables"]

Table = dict[str, Any]

NEW = ""  # the name of the table on which no film is begun yet
PARTS = ("keyframes", "preset", "controls", "film_controls")


class Tables:
    """The tables of one visitor.

    Args:
        folder: where the pictures of the keyframes lie.
        data: what ``studio.json`` keeps: the parts of the table on the page, and "run", the film that it belongs to;
            "tables", those that wait, by film; "cleared", those that were emptied, the last one last.
        lock: held while something changes.
        save: writes ``studio.json``.
        is_film: whether there is, or was begun, a film of a name.
        made: the table of what a film was made of; raises SegueError if that cannot be read.

    Attributes:
        keyframes: those of the table on the page.
    """

    def __init__(
        self,
        folder: Path,
        data: dict[str, Any],
        lock: RLock,
        save: Callable[[], None],
        is_film: Callable[[str], bool],
        made: Callable[[str], Table],
    ) -> None:
        self._folder, self._data, self._lock, self._save = folder, data, lock, save
        self._is_film, self._made = is_film, made
        self.keyframes = self._keyframes(data["keyframes"])

    @property
    def name(self) -> str:
        """The film that the table on the page belongs to."""
        return self._data["run"] or NEW

    @property
    def waiting(self) -> Sequence[str]:
        """The films whose tables wait, but for the new one's."""
        return [name for name in self._data["tables"] if name != NEW]

    @property
    def cleared(self) -> int:
        """How many pictures ``bring_back`` would bring back."""
        return len(self._data["cleared"][-1]["keyframes"]) if self._data["cleared"] else 0

    def keyframes_of(self, name: str | None = None) -> Keyframes:
        """The keyframes on a film's table; those on the page where no film is named."""
        if name is None or name == self.name:
            return self.keyframes
        with self._lock:
            return self._keyframes(self._other(name)["keyframes"])

    def keep(self, part: str, values: Mapping[str, Any], *, name: str | None = None, preset: str = "") -> None:
        """Remember what stands in controls of a film's table, as it is typed.

        Args:
            part: "controls" or "film_controls".
            values: by setting; numbers that are none are left out.
            name: the film; the one on the page if not given.
            preset: the one that was chosen.
        """
        with self._lock:
            table = self._data if name is None or name == self.name else self._other(name)
            table[part] = {**table[part], **{field: value for field, value in values.items() if not _is_nan(value)}}
            if preset:
                table["preset"] = preset
            self._save()

    def lay(self, name: str, *, keep: bool) -> None:
        """Lay another film's table on the page: as it was left, else as what the film was made of.

        Where that cannot be read, the table is empty under the present settings.

        Args:
            name: the film.
            keep: whether the table on the page waits as it is, which is needless where nothing on it is new.
        """
        if keep and (self.name or self.keyframes.entries):
            self._data["tables"][self.name] = self._present()
        self._show(self._data["tables"].pop(name, None) or self._made_or_empty(name))
        self._data["run"] = name or None

    def clear(self) -> None:
        """Empty the new film's table."""
        if self.keyframes.entries:
            self._data["cleared"].append(self._present())
            self.keyframes.replace(())

    def bring_back(self) -> None:
        """Lay the table again that was emptied last; raises SegueError if something lies there, or nothing was."""
        if self.name or self.keyframes.entries or not self._data["cleared"]:
            raise SegueError("there is nothing to bring back to this table")
        self._show(self._data["cleared"].pop())

    def _show(self, table: Table) -> None:
        """Put a table's parts on the page."""
        self.keyframes.replace(table["keyframes"])
        self._data |= {part: table[part] for part in PARTS if part != "keyframes"}

    def _keyframes(self, entries: list[dict[str, Any]]) -> Keyframes:
        return Keyframes(self._folder, entries, self._lock, self._save)

    def _other(self, name: str) -> Table:
        """A table that waits."""
        tables: dict[str, Table] = self._data["tables"]
        if name not in tables and name != NEW and not self._is_film(name):
            raise SegueError(f"there is no film {name}")
        if name not in tables:
            tables[name] = self._made_or_empty(name)
        return tables[name]

    def _present(self) -> Table:
        return {part: copy.deepcopy(self._data[part]) for part in PARTS}

    def _made_or_empty(self, name: str) -> Table:
        if name != NEW:
            try:
                return copy.deepcopy(self._made(name))
            except SegueError:  # the page says what is wrong with the film
                pass
        return {**self._present(), "keyframes": [], "film_controls": {}}


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
