"""Tokens on disk: written in batches, read by image id."""

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from paperlib.atomic import write_text
from paperlib.recordings.signals import release_memory
from paperlib.validation import check_file, check_finite, did_you_mean, reading

_CURE = "Delete it and run notebook 03 again."


def write_tokens(
    path: Path,
    items: Mapping[str, Path | str],
    *,
    encode: Callable[[list], np.ndarray],
    batch_size: int,
    made_with: dict,
) -> None:
    """Encode items in batches and stream their tokens to a float16 array on disk.

    Rows are appended to ``<stem>.partial.npy``; an interrupted run of the same items
    and options resumes after the last complete batch. The finished array has
    ``<stem>.json`` beside it, with the image ids of its rows and ``made_with``.

    Parameters
    ----------
    items
        What to encode (an image's path, a caption), by image id.
    encode
        B items to tokens of shape (B, L, D).
    made_with
        The encoder and its options, in words and numbers.
    """
    ids, values = list(items), list(items.values())
    index = {"image_ids": ids, "settings": made_with}
    origin = json.dumps([index, list(map(str, values))])
    started, partial = (path.with_suffix(f".partial.{end}") for end in ("json", "npy"))
    n_done = 0
    if partial.is_file() and started.is_file() and started.read_text("utf-8") == origin:
        n_done = _drop_incomplete(partial, batch_size)
    else:
        partial.unlink(missing_ok=True)
        write_text(started, origin)
    with (
        partial.open("ab") as file,
        tqdm(total=len(ids), initial=n_done, desc=path.stem, unit="item") as bar,
    ):
        for start in range(n_done, len(ids), batch_size):
            tokens = encode(values[start : start + batch_size])  # B L D
            with np.errstate(over="ignore"):  # an overflow is named by the next line
                half = np.ascontiguousarray(tokens, dtype=np.float16)
            check_finite(f"The batch of tokens that begins with {ids[start]!r}", half)
            if start == 0:
                header = {"descr": "<f2", "fortran_order": False}
                header["shape"] = (len(ids), *half.shape[1:])
                np.lib.format.write_array_header_1_0(file, header)
            file.write(half)
            file.flush()
            bar.update(len(half))
        os.fsync(file.fileno())
    path.with_suffix(".json").unlink(missing_ok=True)  # of an earlier array
    os.replace(partial, path)
    write_text(path.with_suffix(".json"), json.dumps(index, indent=1) + "\n")
    started.unlink()


def _drop_incomplete(partial: Path, batch_size: int) -> int:
    """Truncate an array after its last complete batch; return how many rows it has."""
    with partial.open("r+b") as file:
        try:
            np.lib.format.read_magic(file)
            shape, _, _ = np.lib.format.read_array_header_1_0(file)
        except ValueError:  # interrupted before the first batch
            file.truncate(0)
            return 0
        begin, row = file.tell(), 2 * math.prod(shape[1:])  # bytes
        n_rows = (file.seek(0, os.SEEK_END) - begin) // row
        n_rows -= n_rows % batch_size
        file.truncate(begin + n_rows * row if n_rows else 0)
    return n_rows


class Tokens:
    """Tokens that :func:`write_tokens` wrote, read by image id."""

    def __init__(self, path: Path):
        self.path = Path(path)
        index = self.path.with_suffix(".json")
        for file in (self.path, index):
            check_file(file, "Run notebook 03.")
        with reading(index, _CURE):
            content = json.loads(index.read_text(encoding="utf-8"))
            self.image_ids = list(content["image_ids"])
            self.made_with = dict(content["settings"])
            self._rows = {name: row for row, name in enumerate(self.image_ids)}
        with reading(self.path, _CURE):
            self._array = np.lib.format.open_memmap(self.path, mode="r")
        self.shape, dtype = self._array.shape, self._array.dtype  # n_images L D
        n_images = len(self.image_ids)
        if dtype != np.float16 or len(self.shape) != 3 or self.shape[0] != n_images:
            raise ValueError(
                f"{path} must hold tokens of {n_images} images in float16, of shape "
                f"(images, tokens, width); got {dtype} of shape {self.shape}. {_CURE}"
            )

    def __getitem__(self, image_ids: Sequence[str]) -> np.ndarray:
        """Return the tokens of images, float32 of shape (B, L, D)."""
        return self.read(image_ids, columns=slice(None))

    def read(self, image_ids: Sequence[str], *, columns: slice) -> np.ndarray:
        """Return some columns of the tokens, float32 of shape (B, L, columns)."""
        missing = [name for name in image_ids if name not in self._rows]
        if missing:
            raise ValueError(
                f"{self.path.name} has no tokens for {len(missing)} of "
                f"{len(image_ids)} images, such as {missing[0]!r}."
                f"{did_you_mean(missing[0], self._rows)} Run notebook 03 again."
            )
        rows = [self._rows[name] for name in image_ids]
        tokens = self._array[rows, :, columns].astype(np.float32)
        check_finite(str(self.path), tokens)
        release_memory(self._array)
        return tokens
