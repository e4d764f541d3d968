"""Read the dictionaries of THINGS-EEG2 without running what a pickle may ask for.

The public files come in two containers: ``np.save`` of a dictionary (an NPY header,
then the pickle of a 0-d object array that holds it) and a bare pickle. Both are opened
here with an allow-list: arrays, array scalars, and Python's own containers, strings and
numbers. Everything else that a pickle can name is refused before it is imported.
"""

import codecs
import os
import pickle
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy._core.multiarray import _reconstruct, scalar
from numpy._core.numeric import _frombuffer

_ALLOWED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): codecs.encode,  # bytes, as pickle protocols 0-2 write them
}
for _core in ("numpy.core", "numpy._core"):  # as numpy 1 and numpy 2 write them
    _ALLOWED[f"{_core}.multiarray", "_reconstruct"] = _reconstruct
    _ALLOWED[f"{_core}.multiarray", "scalar"] = scalar
    _ALLOWED[f"{_core}.numeric", "_frombuffer"] = _frombuffer


class _ForbiddenNameError(pickle.UnpicklingError):
    """The pickle names an object that is not on the allow-list."""


class _AllowListUnpickler(pickle.Unpickler):
    """Unpickler that knows the names of ``_ALLOWED`` only."""

    def find_class(self, module: str, name: str) -> object:
        """Return the allowed object of this name; nothing is ever imported."""
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise _ForbiddenNameError(f"{module}.{name}") from None


def load_dict(path: Path, content: str) -> dict:
    """Load the dictionary stored in a ``.npy`` file or in a bare pickle.

    The whole file is read into memory: a pickled array cannot be memory-mapped.

    Parameters
    ----------
    path
        File written by ``np.save(path, dictionary)`` or by ``pickle.dump``.
    content
        What the file should hold, for messages ("a raw session of THINGS-EEG2").

    Returns
    -------
    dict
        As stored: arrays, numbers, strings and containers of these.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, is not a pickled dictionary, or names an object other
        than arrays and numbers. Nothing that it names has been run.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; expected {content}.")
    with path.open("rb") as file:
        _skip_npy_header(file, path, content)
        loaded = _unpickle(file, path, content)
    if isinstance(loaded, np.ndarray) and loaded.shape == ():
        loaded = loaded.item()
    if not isinstance(loaded, dict):
        raise ValueError(
            f"{path} holds a {type(loaded).__name__}; expected {content}, that is a "
            f"dictionary. Check that it is the file you meant."
        )
    return loaded


def check_container(path: Path, content: str) -> None:
    """Check the beginning and the end of a file that `load_dict` would read.

    A file that was cut short does not end as a pickle does (but for one in 256).

    Parameters
    ----------
    path
        A file that is there.
    content
        What it should hold, for messages.

    Raises
    ------
    ValueError
        If it is neither an NPY file of a dictionary nor a bare pickle, or was cut.
    """
    with path.open("rb") as file:
        _skip_npy_header(file, path, content)
        ends = [file.read(1)]
        file.seek(-len(ends[0]), os.SEEK_END)  # an empty file has no last byte
        ends.append(file.read(1))
        if ends != [pickle.PROTO, pickle.STOP]:
            raise ValueError(
                f"{path} ({path.stat().st_size:,} bytes) is not a complete pickle; "
                f"expected {content}. Download the file again."
            )


def _skip_npy_header(file: BinaryIO, path: Path, content: str) -> None:
    """Move behind the NPY header if there is one; check that it announces objects."""
    magic = file.read(len(np.lib.format.MAGIC_PREFIX))
    file.seek(0)
    if magic != np.lib.format.MAGIC_PREFIX:
        return
    shape, dtype = _npy_header(file, path)
    if not dtype.hasobject or shape != ():
        raise ValueError(
            f"{path} is an array of shape {shape} and type {dtype}; expected "
            f"{content}, that is a dictionary in an object array of shape (). "
            f"Check that it is the file you meant."
        )


def _npy_header(file: BinaryIO, path: Path) -> tuple[tuple[int, ...], np.dtype]:
    """Read shape and type from an NPY header."""
    try:
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, _, dtype = read(file)
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"{path} begins like an .npy file but its header is damaged ({error}). "
            f"Download the file again."
        ) from error
    return shape, dtype


def _unpickle(file: BinaryIO, path: Path, content: str) -> object:
    """Unpickle the rest of the file; every failure becomes a ValueError."""
    try:
        return _AllowListUnpickler(file).load()
    except _ForbiddenNameError as error:
        raise ValueError(
            f"{path} is refused: its pickle asks for {error}, and {content} needs "
            f"only arrays, numbers, strings and containers. Nothing was run. The file "
            f"is not what the authors published; get it from the source again."
        ) from error
    except Exception as error:  # a damaged pickle can raise almost anything
        size = path.stat().st_size
        raise ValueError(
            f"{path} ({size:,} bytes) is not a complete pickle "
            f"({type(error).__name__}: {error}); expected {content}. "
            f"Download the file again and compare its size with the source."
        ) from error
