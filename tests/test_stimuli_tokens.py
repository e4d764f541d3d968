import sys
from pathlib import Path

import numpy as np
import pytest

from paperlib.stimuli.tokens import Tokens, write_tokens


def encode(numbers):
    """Return tokens of shape (B, 2, 3) that hold the number of their item."""
    return np.array(numbers, dtype=np.float32)[:, None, None].repeat(2, 1).repeat(3, 2)


ITEMS = {f"image_{i:02d}": i for i in range(10)}
MADE_WITH = {"model": "tiny"}


def write(path, items=ITEMS, *, encode=encode, made_with=MADE_WITH):
    write_tokens(path, items, encode=encode, batch_size=4, made_with=made_with)
    return path


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "image.npy")


def interrupt_after(n_batches):
    """Return an encoder that is killed when it is called once more."""
    left = iter(range(n_batches))

    def dying(numbers):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return encode(numbers)

    return dying


def interrupted(path, n_batches):
    with pytest.raises(KeyboardInterrupt):
        write(path, encode=interrupt_after(n_batches))
    assert not path.exists()
    return path


def test_tokens_are_read_by_image_id(path):
    tokens = Tokens(path)
    assert (tokens.shape, tokens.made_with) == ((10, 2, 3), MADE_WITH)
    chosen = tokens[["image_07", "image_02"]]
    assert chosen.dtype == np.float32
    np.testing.assert_array_equal(chosen[:, 0, 0], [7, 2])
    assert np.load(path, mmap_mode="r").dtype == np.float16


def resident(path):
    """Memory of this process that maps a file, in kB."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    found = [
        next(s for s in lines if s[:4] == "Rss:") for line in lines if path in line
    ]
    return sum(int(line.split()[1]) for line in found)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_files_larger_than_memory_are_written_and_read(tmp_path):
    mapped = []

    def measuring(numbers):
        mapped.append(resident("image.partial.npy"))
        return encode(numbers)

    tokens = Tokens(write(tmp_path / "image.npy", encode=measuring))
    np.testing.assert_array_equal(tokens[list(ITEMS)][:, 0, 0], range(10))
    assert mapped == [0, 0, 0] and resident("image.npy") == 0


@pytest.mark.parametrize("n_batches", [0, 1, 2])
def test_killed_run_ends_with_the_files_of_an_unbroken_one(tmp_path, path, n_batches):
    broken = interrupted(tmp_path / "broken/image.npy", n_batches)
    write(broken, encode=interrupt_after(3 - n_batches))  # no batch is encoded again
    assert broken.read_bytes() == path.read_bytes()
    index = broken.with_suffix(".json")
    assert index.read_bytes() == path.with_suffix(".json").read_bytes()
    assert sorted(broken.parent.iterdir()) == [index, broken]


@pytest.mark.parametrize("cut", [0, 5, 64, 130, 140])  # header: 128 bytes
def test_a_batch_that_was_cut_short_is_encoded_again(tmp_path, cut):
    path = interrupted(tmp_path / "image.npy", 2)
    partial = tmp_path / "image.partial.npy"
    partial.write_bytes(partial.read_bytes()[:cut])
    tokens = Tokens(write(path))
    np.testing.assert_array_equal(tokens[list(ITEMS)][:, 0, 0], range(10))


@pytest.mark.parametrize(
    "changes",
    [
        {"made_with": {"model": "other"}},
        {"items": {**ITEMS, "image_03": 5}},
        {"items": dict(list(ITEMS.items())[:9])},
    ],
)
def test_unfinished_tokens_of_something_else_start_over(tmp_path, changes):
    tokens = Tokens(write(interrupted(tmp_path / "image.npy", 1), **changes))
    items = changes.get("items", ITEMS)
    assert tokens.made_with == changes.get("made_with", MADE_WITH)
    np.testing.assert_array_equal(tokens[list(items)][:, 0, 0], list(items.values()))


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e6])  # 1e6 overflows float16
def test_tokens_that_are_not_finite(tmp_path, bad):
    with pytest.raises(ValueError, match="begins with 'image_00'.*NaN or infinite"):
        write(tmp_path / "image.npy", encode=lambda numbers: encode(numbers) + bad)
    assert not (tmp_path / "image.npy").exists()


NO_NAMES = b'{"image_ids": [[], 3, null], "settings": {}}'


@pytest.mark.parametrize(
    ("ending", "content"),
    [
        *((".npy", size) for size in (0, 5, 64, 200)),
        *((".json", text) for text in (b"", b"{}", b"null", b"[" * 100_000, NO_NAMES)),
    ],
)
def test_damaged_and_missing_files(path, ending, content):
    file = path.with_suffix(ending)
    if isinstance(content, int):
        content = file.read_bytes()[:content]
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"image{ending} is damaged.*notebook 03"):
        Tokens(path)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=f"image{ending} is missing. Run note"):
        Tokens(path)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((10, 2, 3)), "in float16.*got float64"),
        (np.zeros((9, 2, 3), np.float16), r"tokens of 10 images.*shape \(9, 2, 3\)"),
        (np.zeros((10, 6), np.float16), r"\(images, tokens, width\).*shape \(10, 6\)"),
    ],
)
def test_arrays_that_do_not_fit_the_index(path, array, message):
    np.save(path, array)
    with pytest.raises(ValueError, match=message):
        Tokens(path)


def test_tokens_that_are_not_numbers_or_not_there(path):
    array = np.load(path)
    array[2, 1, 1] = np.nan
    np.save(path, array)
    tokens = Tokens(path)
    tokens[["image_01"]]
    with pytest.raises(ValueError, match="image.npy holds 1 values that are NaN"):
        tokens[["image_01", "image_02"]]
    with pytest.raises(ValueError, match="1 of 2 images, such as 'image_11'. Did you"):
        tokens[["image_01", "image_11"]]
