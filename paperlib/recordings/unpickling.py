"""Read the dictionaries of THINGS-EEG2 without running what a pickle may ask for.

The public files are pickles in three containers: ``np.save`` of a dictionary (a header,
then a 0-d object array that holds it), a bare pickle, and the zip of ``torch.save``.
Of all that a pickle can name, only arrays, their scalars and Python's own containers,
strings and numbers are made here; numpy's own constructors never see unchecked values,
because a forged type or size can crash the process or fill the memory.
"""

import math
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np

from paperlib.validation import check_file, reading

_SIMPLE_TYPE = re.compile(r"[biufSUO]\d+")


class _RefusedError(pickle.UnpicklingError):
    """The pickle asks for something that no file of recordings needs."""

    def __init__(self, content: str):
        super().__init__(f"{content} is refused; nothing was run")


class _Type:
    """Stands for a numpy.dtype until its byte order is known."""

    def __init__(self, code: str, *_):
        if not _SIMPLE_TYPE.fullmatch(code):
            raise _RefusedError(f"an array of type {code!r}")
        self.dtype = np.dtype(code)


def _encode(text: str, codec: str) -> bytes:
    """Bytes as the pickle protocols 0 to 2 write them."""
    if codec != "latin1":
        raise _RefusedError(f"the codec {codec!r}")
    return text.encode("latin1")


def _scalar(kind: _Type, value: bytes) -> np.generic:
    return _from_buffer(value, kind, (1,), "C")[0]


def _from_buffer(data: bytes, kind: _Type, shape: tuple, order: str) -> np.ndarray:
    if kind.dtype.hasobject or not isinstance(data, bytes | bytearray):
        raise _RefusedError("an array of objects made of bytes")
    return np.frombuffer(data, kind.dtype).reshape(shape, order=order)


def _fill(array: np.ndarray, _, shape: tuple, kind: _Type, by_column: bool, data):
    """Give a new array its content, whose size must be that of its shape."""
    size = math.prod(shape) * (1 if kind.dtype.hasobject else kind.dtype.itemsize)
    holder = list if kind.dtype.hasobject else bytes
    if kind.dtype.hasobject and shape != ():
        raise _RefusedError("an array of objects")
    if array.size or min(shape, default=0) < 0 or len(data) != size:
        raise ValueError(f"{len(data)} bytes do not fill an array of shape {shape}")
    array.__setstate__((1, shape, kind.dtype, bool(by_column), holder(data)))


_ALLOWED = {
    ("numpy", "ndarray"): "ndarray",  # always an argument of _reconstruct
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _encode,
}
for _core in ("numpy.core", "numpy._core"):  # as numpy 1 and numpy 2 write them
    _ALLOWED[f"{_core}.multiarray", "_reconstruct"] = lambda *_: np.empty(0)
    _ALLOWED[f"{_core}.multiarray", "scalar"] = _scalar
    _ALLOWED[f"{_core}.numeric", "_frombuffer"] = _from_buffer


class _Unpickler(pickle._Unpickler):
    """The unpickler in Python: that in C fills the memory for a large memo index."""

    dispatch = {
        code: load
        for code, load in pickle._Unpickler.dispatch.items()
        if bytes([code]) not in (pickle.EMPTY_SET, pickle.FROZENSET)  # deep hashes
    }

    def find_class(self, module: str, name: str) -> object:
        """Return the allowed object of this name; nothing is ever imported."""
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        raise _RefusedError(f"{module}.{name}")

    def load_build(self):
        """Set the state of an array or a type; of nothing else."""
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, np.ndarray):
            _fill(target, *state)
        elif isinstance(target, _Type) and state[1] in ("<", ">", "|", "="):
            target.dtype = target.dtype.newbyteorder(state[1])
        else:
            raise _RefusedError("the state of an object")

    dispatch[pickle.BUILD[0]] = load_build

    def load_setitems(self):
        """Fill a dictionary, whose keys must be strings."""
        items = self.pop_mark()
        keys, values = items[::2], items[1::2]
        if type(self.stack[-1]) is not dict or not all(type(k) is str for k in keys):
            raise _RefusedError("a key that is not a string")
        self.stack[-1].update(zip(keys, values, strict=True))

    dispatch[pickle.SETITEMS[0]] = load_setitems

    def load_setitem(self):
        """Put one item into a dictionary."""
        self.metastack.append(self.stack[:-2])
        self.stack = self.stack[-2:]
        self.load_setitems()

    dispatch[pickle.SETITEM[0]] = load_setitem

    def load_bytearray8(self):
        """Read as many bytes as there are, before memory is set aside for them."""
        self.append(bytearray(self.read(int.from_bytes(self.read(8), "little"))))

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8


def load_dict(path: Path, content: str) -> dict:
    """Load the dictionary of a ``.npy`` file, of a bare pickle or of ``torch.save``.

    The whole file is read into memory: a pickled array cannot be memory-mapped.
    Messages say that ``content`` ("a raw session") was expected.
    """
    expected = f"Expected {content}, that is one dictionary of arrays and texts."
    check_file(path, expected)
    with reading(
        path, f"{expected} Check that it is the file you meant, or download it again."
    ):
        loaded = _load(path)
        if isinstance(loaded, np.ndarray) and loaded.shape == ():
            loaded = loaded.item()
        if not isinstance(loaded, dict):
            raise TypeError(f"it holds a {type(loaded).__name__}")
    return loaded


def _load(path: Path) -> object:
    """Open the container and unpickle its content."""
    with path.open("rb") as file:
        start = file.read(6)
        file.seek(0)
        if not start.startswith(b"PK\3\4"):
            if start == np.lib.format.MAGIC_PREFIX:
                np.lib.format.read_magic(file)
                shape, _, kind = np.lib.format.read_array_header_1_0(file)
                if shape != () or kind.char != "O":
                    raise _RefusedError(f"an array of type {kind} and shape {shape}")
            return _Unpickler(file).load()
    with zipfile.ZipFile(path) as archive:
        [name] = [n for n in archive.namelist() if n.endswith("data.pkl")]
        if archive.getinfo(name).file_size > path.stat().st_size:
            raise _RefusedError("a compressed pickle")
        if not any("/data/" in n for n in archive.namelist()):  # values of tensors
            with archive.open(name) as file:
                return _Unpickler(file).load()
    import torch  # takes seconds, and few files need it

    loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return loaded | {k: v.numpy() for k, v in loaded.items() if torch.is_tensor(v)}
