"""Tensors out of PyTorch's .pth files without unpickling them.

A .pth file holds a pickle, a program that builds objects and may run anything. Here it is never run: its opcodes are
read one by one (``pickletools.genops`` only parses) and followed on a stack of plain values. The few names that a
state dict needs stand for plain values too; any other name ends the reading. Both formats are read: the zip of today
and the older plain stream.
"""

import io
import pickletools
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from segue.errors import SegueError

__all__ = ["read_tensors"]

_KINDS: dict[str, tuple[torch.dtype, int]] = {
    "torch FloatStorage": (torch.float32, 4),
    "torch DoubleStorage": (torch.float64, 8),
    "torch HalfStorage": (torch.float16, 2),
    "torch BFloat16Storage": (torch.bfloat16, 2),
    "torch LongStorage": (torch.int64, 8),
    "torch IntStorage": (torch.int32, 4),
    "torch ByteStorage": (torch.uint8, 1),
}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_MARK = object()
_FAULTS = (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, zipfile.BadZipFile)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict in a .pth file, by name.

    Raises:
        SegueError: the file is none, or its pickle does anything else than list tensors.
    """
    try:
        with path.open("rb") as file:
            return _zipped(file) if zipfile.is_zipfile(path) else _plain(file)
    except _FAULTS as error:
        if isinstance(error, SegueError):
            raise SegueError(f"{path}: {error}") from error
        raise SegueError(f"{path} cannot be read as a .pth file of tensors: {error}") from error


def _zipped(file: BinaryIO) -> dict[str, Tensor]:
    """The format of torch 1.6 and later: a zip of data.pkl and one raw file for each storage."""
    with zipfile.ZipFile(file) as archive:
        pickle = next((name for name in archive.namelist() if name.endswith("data.pkl")), None)
        if pickle is None:
            raise SegueError("a zip without data.pkl")
        folder = pickle.removesuffix("data.pkl")
        if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
            raise SegueError("tensors in big-endian order")
        found = _follow(io.BytesIO(archive.read(pickle)))
        return _tensors(found, lambda key: archive.read(f"{folder}data/{key}"))


def _plain(file: BinaryIO) -> dict[str, Tensor]:
    """The older format: pickles of a magic number, a version, the system and the object, then the raw storages."""
    if _follow(file) != _LEGACY_MAGIC:
        raise SegueError("neither of PyTorch's formats")
    _follow(file), _follow(file)
    found = _follow(file)
    raw: dict[str, bytes] = {}
    sizes = {storage.key: storage.width for storage in _storages(found)}
    for key in _follow(file):
        count = int.from_bytes(file.read(8), "little")
        raw[key] = file.read(count * sizes[key])
    return _tensors(found, raw.__getitem__)


class _Name(str):
    """A global's name, as "module name"; nothing is imported."""


class _Storage:
    """Raw numbers by their key in the file."""

    def __init__(self, kind: str, key: str) -> None:
        self.dtype, self.width = _KINDS[kind]
        self.key = key


class _Layout:
    """A tensor: where it lies in its storage."""

    def __init__(self, storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides


def _follow(file: BinaryIO) -> Any:
    """The value that one pickle describes, of plain values, names, storages and layouts."""
    stack: list[Any] = []
    memo: dict[Any, Any] = {}

    def since_mark() -> list[Any]:
        start = max(i for i, value in enumerate(stack) if value is _MARK)
        values = stack[start + 1 :]
        del stack[start:]
        return values

    for opcode, argument, _ in pickletools.genops(file):
        name = opcode.name
        if name in ("PROTO", "FRAME"):
            continue
        if name == "STOP":
            return stack.pop()
        if name in _VALUES:
            stack.append(_VALUES[name](argument))
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif name == "TUPLE":
            stack.append(tuple(since_mark()))
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            stack[-1][key] = value
        elif name == "SETITEMS":
            values = since_mark()
            stack[-1].update(zip(values[::2], values[1::2], strict=True))
        elif name == "APPENDS":
            values = since_mark()
            stack[-1].extend(values)
        elif name == "APPEND":
            value = stack.pop()
            stack[-1].append(value)
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(_Name(f"{module} {attribute}"))
        elif name == "BINPERSID":
            stack.append(_storage(stack.pop()))
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            stack.append(_called(function, arguments))
        elif name == "BUILD":
            stack.pop()  # attributes of the state dict, such as its metadata
        else:
            raise SegueError(f"its pickle holds {name}, which a file of tensors does not need")
    raise SegueError("its pickle ends too early")


_VALUES: dict[str, Callable[[Any], Any]] = {
    "MARK": lambda _: _MARK,
    "NONE": lambda _: None,
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    "EMPTY_DICT": lambda _: {},
    "EMPTY_LIST": lambda _: [],
    "EMPTY_TUPLE": lambda _: (),
    "GLOBAL": lambda argument: _Name(argument),
    **dict.fromkeys(
        ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "SHORT_BINSTRING"),
        lambda argument: argument,
    ),
}


def _storage(identity: Any) -> _Storage:
    """A storage from its persistent id: ("storage", kind, key, device, size, ...)."""
    if not isinstance(identity, tuple) or identity[0] != "storage" or identity[1] not in _KINDS:
        raise SegueError(f"its pickle refers to {str(identity)[:80]}, which is no storage of numbers")
    if len(identity) > 5 and identity[5] is not None:
        raise SegueError("a view of another storage, which very old files hold; load and save it anew")
    return _Storage(identity[1], identity[2])


def _called(function: Any, arguments: Any) -> Any:
    """What the few known calls mean."""
    if isinstance(function, _Name):
        if function == "collections OrderedDict":
            return dict(arguments[0]) if arguments else {}
        if function == "torch._utils _rebuild_tensor_v2":
            return _Layout(*arguments[:4])
        if function == "torch._utils _rebuild_parameter":
            return arguments[0]
    raise SegueError(f"its pickle calls {str(function)[:80]}; only tensors are read, nothing was run")


def _layouts(found: Any) -> dict[str, _Layout]:
    """The tensors of a state dict by name; of a checkpoint that holds one, its "state_dict"."""
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    if not isinstance(found, Mapping):
        raise SegueError("it holds no state dict of tensors by name")
    return {str(name): value for name, value in found.items() if isinstance(value, _Layout)}


def _storages(found: Any) -> list[_Storage]:
    return [layout.storage for layout in _layouts(found).values()]


def _tensors(found: Any, raw: Callable[[str], bytes]) -> dict[str, Tensor]:
    """Tensors of their own memory from the layouts and the raw storages."""
    tensors = {}
    for name, layout in _layouts(found).items():
        content = raw(layout.storage.key)
        whole = len(content) // layout.storage.width * layout.storage.width
        numbers = torch.tensor(np.frombuffer(content[:whole], dtype=np.uint8))
        flat = numbers.view(layout.storage.dtype) if whole else torch.empty(0, dtype=layout.storage.dtype)
        last = layout.offset + sum((n - 1) * s for n, s in zip(layout.shape, layout.strides, strict=True))
        if 0 not in layout.shape and not 0 <= last < len(flat):
            raise SegueError(f"{name} lies outside its storage; the file is cut off or damaged")
        tensors[name] = flat.as_strided(layout.shape, layout.strides, layout.offset).clone().contiguous()
    return tensors
