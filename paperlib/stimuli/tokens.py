"""Tokens on disk: written in batches, resumable; read by image id."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from paperlib.atomic import write_text
from paperlib.progress import progress_bar
from paperlib.recordings.signals import release_memory
from paperlib.validation import check_finite, check_shape, did_you_mean

Item = TypeVar("Item")


def write_tokens(
    path: Path,
    items: Mapping[str, Item],
    *,
    encode: Callable[[list[Item]], Tensor],
    batch_size: int,
    settings: dict,
) -> None:
    """Encode items in batches and stream their tokens to a float16 array on disk.

    While it is under way the array is called ``<stem>.partial.npy``; a call after a
    kill goes on behind the last whole batch. When all rows are there, the array gets
    its name, beside ``<stem>.json`` with the ids of its rows and the settings.

    Parameters
    ----------
    path
        Of the finished array, ``.npy``, of shape (n_images, L, D).
    items
        What to encode (an image's path, a caption), by image id.
    encode
        B items -> tokens of shape (B, L, D).
    batch_size
        B.
    settings
        How the tokens are made; kept beside them.

    Raises
    ------
    ValueError
        If the unfinished array belongs to other items or settings, or if tokens are
        not finite or do not fit into float16.
    """
    identity = {
        "image_ids": list(items),
        "settings": settings,
        "items_sha256": _fingerprint(items),
    }
    unfinished = _Unfinished(Path(path), identity)
    todo = list(items.values())
    starts = range(unfinished.n_done, len(todo), batch_size)
    with progress_bar(
        total=len(todo), done=unfinished.n_done, label=unfinished.path.stem, unit="item"
    ) as bar:
        for start in starts:
            batch = todo[start : start + batch_size]
            unfinished.append(_as_half(encode(batch), identity["image_ids"][start]))
            bar.update(len(batch))
    unfinished.finish()


class Tokens:
    """Tokens on disk, read by image id.

    Parameters
    ----------
    path
        Array written by :func:`write_tokens`.

    Attributes
    ----------
    path : Path
    shape : tuple of int
        (n_images, L, D).
    image_ids : list of str
        Of the rows.
    settings : dict
        How the tokens were made.

    Raises
    ------
    FileNotFoundError
        If the array is missing or not finished.
    ValueError
        If the file is truncated, of another type, or does not fit its index.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        index = _read_index(self.path)
        self.image_ids = index["image_ids"]
        self.settings = index["settings"]
        self._array = _map_array(self.path)
        check_shape(str(path), self._array, (len(self.image_ids), None, None))
        self.shape = self._array.shape
        self._rows = {name: row for row, name in enumerate(self.image_ids)}

    def __getitem__(self, image_ids: Sequence[str]) -> np.ndarray:
        """Return the tokens of images, float32 of shape (B, L, D).

        Raises
        ------
        ValueError
            If the array has no tokens for one of the images.
        """
        return self.read(image_ids, columns=slice(None))

    def read(self, image_ids: Sequence[str], *, columns: slice) -> np.ndarray:
        """Return a part of the width of the tokens, float32 of shape (B, L, columns).

        Raises
        ------
        ValueError
            If the array has no tokens for one of the images.
        """
        missing = [name for name in image_ids if name not in self._rows]
        if missing:
            raise ValueError(
                f"{self.path.name} has no tokens for {len(missing)} of "
                f"{len(image_ids)} images, such as {missing[0]!r}."
                f"{did_you_mean(missing[0], self._rows)} Run notebook 03 again."
            )
        rows = [self._rows[name] for name in image_ids]
        tokens = self._array[rows, :, columns].astype(np.float32)
        release_memory(self._array)
        return tokens


class _Unfinished:
    """An array of tokens that is being written, with its progress beside it."""

    def __init__(self, path: Path, identity: dict):
        self.path = path
        self.array_path = path.with_suffix(".partial.npy")
        self.progress_path = path.with_suffix(".partial.json")
        self.identity = identity
        self.array = None
        self.n_done = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.progress_path.is_file() and self.array_path.is_file():
            self._resume()

    def _resume(self) -> None:
        progress = json.loads(self.progress_path.read_text(encoding="utf-8"))
        self.n_done = progress.pop("n_done")
        changed = [key for key in self.identity if progress[key] != self.identity[key]]
        if changed:
            raise ValueError(
                f"{self.array_path} holds {self.n_done} rows made with other "
                f"{', '.join(changed)}. Restore these to go on from there, or delete "
                f"{self.progress_path.name} to start over."
            )
        self.array = _map_array(self.array_path, mode="r+")

    def append(self, tokens: np.ndarray) -> None:
        """Write one batch behind the rows that are there."""
        if self.array is None:
            shape = (len(self.identity["image_ids"]), *tokens.shape[1:])
            self.array = np.lib.format.open_memmap(
                self.array_path, mode="w+", dtype=np.float16, shape=shape
            )
        self.array[self.n_done : self.n_done + len(tokens)] = tokens
        self.array.flush()
        release_memory(self.array)
        self.n_done += len(tokens)
        progress = {**self.identity, "n_done": self.n_done}
        write_text(self.progress_path, json.dumps(progress))

    def finish(self) -> None:
        """Give array and index their final names."""
        index = {key: self.identity[key] for key in ("image_ids", "settings")}
        self.path.with_suffix(".json").unlink(missing_ok=True)  # of an earlier array
        os.replace(self.array_path, self.path)
        write_text(self.path.with_suffix(".json"), json.dumps(index, indent=1) + "\n")
        self.progress_path.unlink()


def _fingerprint(items: Mapping[str, Item]) -> str:
    """Return the SHA-256 of what is to be encoded."""
    text = json.dumps([[name, str(item)] for name, item in items.items()])
    return hashlib.sha256(text.encode()).hexdigest()


def _as_half(tokens: Tensor, first: str) -> np.ndarray:
    """Convert to float16 and check that no value overflows."""
    half = tokens.to(torch.float16).cpu().numpy()
    check_finite(f"The batch of tokens that begins with {first!r}", half)
    return half


def _read_index(path: Path) -> dict:
    index = path.with_suffix(".json")
    if not path.is_file() or not index.is_file():
        raise FileNotFoundError(
            f"{path} or its index {index.name} is missing; expected finished tokens. "
            "Run notebook 03."
        )
    return json.loads(index.read_text(encoding="utf-8"))


def _map_array(path: Path, *, mode: str = "r") -> np.memmap:
    """Map a float16 array into memory; a truncated file is an error."""
    try:
        array = np.lib.format.open_memmap(path, mode=mode)
    except ValueError as error:
        raise ValueError(
            f"{path} is truncated or no array ({error}). Delete it and run notebook 03 "
            "again."
        ) from error
    if array.dtype != np.float16:
        raise ValueError(f"{path} must hold float16; it holds {array.dtype}.")
    return array
