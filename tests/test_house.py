"""The rooms of the house: each imports only what lies below it, and takes only what is offered there."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import segue

HOME = Path(segue.__file__).parent
GROUND = ["errors", "files", "lock", "machine", "pictures"]
ROOMS = ["method", "settings", "pose", "models", "words", "run", "film", "engine", "batch", "evaluate", "studio"]
ORDER = [GROUND, *([room] for room in ROOMS), ["__init__"], ["cli"]]  # from the ground up; __init__ is `import segue`
FLOOR = {room: floor for floor, rooms in enumerate(ORDER) for room in rooms}
NEVER = {("models", "settings")} | {("method", room) for room in GROUND if room != "errors"}


def imports(file: Path) -> Iterator[tuple[str, str]]:
    """All imports of a file, wherever they stand: the module, and the name that is taken from it, if any."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            yield from (("." * node.level + (node.module or ""), name.name) for name in node.names)
        elif isinstance(node, ast.Import):
            yield from ((name.name, "") for name in node.names)


@cache
def offered(file: Path) -> list[str] | None:
    """The names in a module's __all__; None if it has none."""
    found = re.search(r"^__all__ = (\[.*?\])", file.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return ast.literal_eval(found[1]) if found else None


def test_each_room_imports_only_rooms_below_it() -> None:
    wrong = []
    for file in HOME.rglob("*.py"):
        room = file.relative_to(HOME).parts[0].removesuffix(".py")
        assert room in FLOOR, f"{file} is in no room"
        for module, name in imports(file):
            package, _, path = f"{module}.{name}".partition(".")
            other = path.partition(".")[0] if path.partition(".")[0] in FLOOR else "__init__"
            is_below = FLOOR[other] < FLOOR[room] or other == room or {other, room} <= set(GROUND)
            if package == "segue" and ((room, other) in NEVER or not is_below):
                wrong.append(f"{file.relative_to(HOME)}: {module}, {name}")
            if not package or (package in ("typer", "rich") and room != "cli"):
                wrong.append(f"{file.relative_to(HOME)}: {module}, {name}")
    assert wrong == []


def test_names_are_taken_only_where_they_are_offered() -> None:
    files = {".".join(file.relative_to(HOME.parent).with_suffix("").parts): file for file in HOME.rglob("*.py")}
    wrong = []
    for file in [*files.values(), *Path(__file__).parent.rglob("*.py")]:
        for module, name in imports(file):
            path = files.get(module) or files.get(f"{module}.__init__")
            names = path and offered(path)
            is_offered = not names or f"{module}.{name}" in files or name in names
            if path and (re.match("_[a-z]", name) or (file in files.values() and not is_offered)):
                wrong.append(f"{file.name}: {module}, {name}")
    assert wrong == []
