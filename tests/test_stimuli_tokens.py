import sys
from pathlib import Path

import numpy as np
import pytest

from paperlib.stimuli.tokens import Tokens, write_tokens


def encode(numbers):
    """Return tokens of shape (B, 2, 3) that hold the number of their item."""
    return np.array(numbers, dtype=np.float32)[:, None, None].repeat(2, 1).repeat(3, 2)


ITEMS = {f"image_{i:02d}": i for i in range(10)}
SETTINGS = {"model": "tiny"}


def write(path, items=ITEMS, *, encode=encode, settings=SETTINGS):
    write_tokens(path, items, encode=encode, batch_size=4, settings=settings)


def interrupt_after(n_batches):
    """Return an encoder that is killed when it is called once more."""
    calls = []

    def dying(numbers):
        calls.append(numbers)
        if len(calls) > n_batches:
            raise KeyboardInterrupt
        return encode(numbers)

    return dying


def test_tokens_are_read_by_image_id(tmp_path):
    write(tmp_path / "image.npy")
    tokens = Tokens(tmp_path / "image.npy")
    assert tokens.shape == (10, 2, 3)
    assert tokens.settings == SETTINGS
    chosen = tokens[["image_07", "image_02"]]
    assert chosen.dtype == np.float32
    np.testing.assert_array_equal(chosen[:, 0, 0], [7, 2])
    assert np.load(tmp_path / "image.npy", mmap_mode="r").dtype == np.float16


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

    def looking(numbers):
        mapped.append(resident("image.partial.npy"))
        return encode(numbers)

    write(tmp_path / "image.npy", encode=looking)
    tokens = Tokens(tmp_path / "image.npy")
    np.testing.assert_array_equal(tokens[list(ITEMS)][:, 0, 0], range(10))
    assert mapped == [0, 0, 0]
    assert resident("image.npy") == 0


@pytest.mark.parametrize("n_batches", [0, 1, 2])
def test_killed_run_ends_with_the_files_of_an_unbroken_one(tmp_path, n_batches):
    write(tmp_path / "whole/image.npy")
    broken = tmp_path / "broken/image.npy"
    with pytest.raises(KeyboardInterrupt):
        write(broken, encode=interrupt_after(n_batches))
    assert not broken.exists()
    rest = interrupt_after(3 - n_batches)  # not one batch is encoded again
    write(broken, encode=rest)
    for name in ("image.npy", "image.json"):
        whole = (tmp_path / "whole" / name).read_bytes()
        assert (tmp_path / "broken" / name).read_bytes() == whole
    assert len(list(broken.parent.iterdir())) == 2


@pytest.mark.parametrize("cut", [0, 5, 64, 130, 140])  # header: 128 bytes
def test_a_batch_that_was_cut_short_is_encoded_again(tmp_path, cut):
    path, partial = tmp_path / "image.npy", tmp_path / "image.partial.npy"
    with pytest.raises(KeyboardInterrupt):
        write(path, encode=interrupt_after(2))
    partial.write_bytes(partial.read_bytes()[:cut])
    write(path)
    np.testing.assert_array_equal(Tokens(path)[list(ITEMS)][:, 0, 0], range(10))


@pytest.mark.parametrize(
    "changes",
    [
        {"settings": {"model": "other"}},
        {"items": {**ITEMS, "image_03": 5}},
        {"items": dict(list(ITEMS.items())[:9])},
    ],
)
def test_unfinished_tokens_of_something_else_start_over(tmp_path, changes):
    path = tmp_path / "image.npy"
    with pytest.raises(KeyboardInterrupt):
        write(path, encode=interrupt_after(1))
    write(path, **changes)
    items, tokens = changes.get("items", ITEMS), Tokens(path)
    assert tokens.settings == changes.get("settings", SETTINGS)
    np.testing.assert_array_equal(tokens[list(items)][:, 0, 0], list(items.values()))


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e6])  # 1e6 overflows float16
def test_tokens_that_are_not_finite(tmp_path, bad):
    def broken(numbers):
        tokens = encode(numbers)
        tokens[1, 0, 0] = bad
        return tokens

    with pytest.raises(ValueError, match="begins with 'image_00'.*NaN or infinite"):
        write(tmp_path / "image.npy", encode=broken)
    assert not (tmp_path / "image.npy").exists()


@pytest.mark.parametrize("size", [0, 5, 64, 200])
def test_truncated_tokens(tmp_path, size):
    path = tmp_path / "image.npy"
    write(path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match="image.npy or its index is truncated or dam"):
        Tokens(path)


@pytest.mark.parametrize("index", ["", "{}", "null", "[" * 100_000, '{"image_ids": 3}'])
def test_damaged_index(tmp_path, index):
    path = tmp_path / "image.npy"
    write(path)
    path.with_suffix(".json").write_text(index)
    with pytest.raises(ValueError, match="image.npy or its index is truncated or dam"):
        Tokens(path)


def test_tokens_that_are_not_numbers(tmp_path):
    path = tmp_path / "image.npy"
    write(path)
    array = np.load(path)
    array[2, 1, 1] = np.nan
    np.save(path, array)
    tokens = Tokens(path)
    tokens[["image_01"]]
    with pytest.raises(ValueError, match="image.npy holds 1 values that are NaN"):
        tokens[["image_01", "image_02"]]


def test_tokens_of_another_type(tmp_path):
    path = tmp_path / "image.npy"
    write(path)
    np.save(path, np.zeros((10, 2, 3)))
    with pytest.raises(ValueError, match="in float16.*got float64 of shape"):
        Tokens(path)


def test_tokens_and_index_that_disagree(tmp_path):
    path = tmp_path / "image.npy"
    write(path)
    np.save(path, np.zeros((9, 2, 3), dtype=np.float16))
    with pytest.raises(ValueError, match=r"tokens of 10 images.*of shape \(9, 2, 3\)"):
        Tokens(path)


def test_missing_tokens(tmp_path):
    with pytest.raises(FileNotFoundError, match="Run notebook 03"):
        Tokens(tmp_path / "image.npy")


def test_image_without_tokens(tmp_path):
    write(tmp_path / "image.npy")
    tokens = Tokens(tmp_path / "image.npy")
    with pytest.raises(ValueError, match="1 of 2 images, such as 'image_11'. Did you"):
        tokens[["image_01", "image_11"]]
