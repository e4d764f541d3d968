import codecs
import io
import os
import pickle
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paperlib.recordings.unpickling import load_dict

CONTENT = {
    "data": np.arange(6.0).reshape(2, 3),
    "names": ["Fp1", "Oz"],
    "rate": 1000,
    "low": np.float64(0.01),
    "labels": np.array(["a", "bc"]),
    "nested": {"none": None, "pair": (True, 2.5)},
}


class Command:
    """Creates a file when it is unpickled by the standard library."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


def assert_same(loaded):
    assert loaded.keys() == CONTENT.keys()
    np.testing.assert_array_equal(loaded["data"], CONTENT["data"])
    np.testing.assert_array_equal(loaded["labels"], CONTENT["labels"])
    for key in ("names", "rate", "low", "nested"):
        assert loaded[key] == CONTENT[key]


def npy_bytes(content):
    stream = io.BytesIO()
    np.save(stream, content)
    return stream.getvalue()


@pytest.fixture
def load(tmp_path):
    """Load bytes from a file."""

    def load_bytes(written):
        (tmp_path / "file.npy").write_bytes(written)
        return load_dict(tmp_path / "file.npy", "signals")

    return load_bytes


@pytest.mark.parametrize("module", [b"numpy._core", b"numpy.core"])  # numpy 2 and 1
@pytest.mark.parametrize("protocol", range(6))
def test_bare_pickle_of_every_protocol(load, protocol, module):
    written = pickle.dumps(CONTENT, protocol=protocol)
    if protocol < 4 or module == b"numpy._core":  # later ones store a name's length
        assert_same(load(written.replace(b"numpy._core", module)))


def test_official_container(load):
    assert_same(load(npy_bytes(CONTENT)))


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("container", ["bare", "npy"])
def test_a_command_is_refused_and_not_run(load, tmp_path, protocol, container):
    marker = tmp_path / "executed"
    hostile = {"data": [Command(os.system, f"touch {marker}")]}
    written = pickle.dumps(hostile, protocol=protocol)
    with pytest.raises(ValueError, match=r"file\.npy is refused.*system"):
        load(written if container == "bare" else npy_bytes(hostile))
    assert not marker.exists()
    pickle.loads(written)  # the file does run a command where nobody looks
    assert marker.exists()


@pytest.mark.parametrize(
    "command",
    [
        Command(eval, "1 + 1"),
        Command(exec, "pass"),
        Command(getattr, "text", "upper"),
        Command(np.load, "other.npy"),
        Command(np.fromfile, "other.npy"),
        Path("x"),
    ],
    ids=["eval", "exec", "getattr", "np.load", "np.fromfile", "Path"],
)
def test_every_other_name_is_refused(load, command):
    with pytest.raises(ValueError, match="refused.*Nothing was run"):
        load(pickle.dumps({"x": command}, protocol=4))


DOTTED = b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93."  # into an allowed name


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (DOTTED, r"refused.*numpy\.ndarray\.tofile"),
        (b"<!DOCTYPE html>", "not a complete pickle.*expected signals"),
        (b"version https://git-lfs", "not a complete pickle.*expected signals"),
        (b"\0", "not a complete pickle.*expected signals"),
        (npy_bytes(np.zeros((3, 4))), r"'<f8'.*\(3, 4\).*expected"),
        (npy_bytes(np.array([{}, {}])), r"refused.*\(2,\).*one dictionary"),
        (pickle.dumps([1, 2]), "holds a list; expected signals"),
    ],
    ids=["dotted", "html", "git-lfs", "zero", "array", "object array", "list"],
)
def test_what_is_no_pickled_dictionary(load, written, message):
    with pytest.raises(ValueError, match=message):
        load(written)


@given(st.data(), st.sampled_from([pickle.dumps(CONTENT, 4), npy_bytes(CONTENT)]))
def test_a_truncated_file_is_reported(tmp_path_factory, data, written):
    n_kept = data.draw(st.integers(0, len(written) - 1))
    path = tmp_path_factory.mktemp("cut") / "cut.npy"
    path.write_bytes(written[:n_kept])
    with pytest.raises(ValueError, match=r"cut\.npy.*Download the file again"):
        load_dict(path, "signals")


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.npy is missing.*signals"):
        load_dict(tmp_path / "gone.npy", "signals")


# --- forged content must neither reach numpy, nor crash, nor fill the memory ---


class Forged:
    """Pickles as a call of a function whose result gets a state."""

    def __init__(self, function, arguments, state):
        self.reduced = function, arguments, state

    def __reduce__(self):
        return self.reduced


ARRAY = (np.ndarray, (0,), b"b")
TYPE_STATE = (3, "<", None, None, None, -1, -1, 0)
EMPTY = np.zeros(0)
RECONSTRUCT = EMPTY.__reduce__()[0]


@pytest.mark.parametrize(
    "forged",
    [
        Forged(np.dtype, ("V8", False, True), (3, "|", None, ("a",), {}, 8, 1, 27)),
        Forged(np.dtype, ("f8", False, True), (3, "?", None, None, None, -1, -1, 0)),
        Forged(np.dtype, ("f8,f8", False, True), TYPE_STATE),
        Forged(RECONSTRUCT, ARRAY, (1, (10**12,), np.dtype("f8"), False, b"12345678")),
        Forged(RECONSTRUCT, ARRAY, (1, (-1,), np.dtype("f8"), False, b"")),
        Forged(RECONSTRUCT, ARRAY, (1, (2,), np.dtype("O"), False, [1, 2])),
        Forged(RECONSTRUCT, ARRAY, (1, (1,), np.dtype("O"), False, b"12345678")),
        Forged(codecs.encode, ("a" * 99, "punycode"), None),
        Forged(codecs.encode, ("a" * 99, "zlib"), None),
        {("a", "b"): 1},
        {1: 1},
        {"a": frozenset([1])},
        {"a": {1, 2}},
    ],
    ids=range(13),
)
def test_forged_types_sizes_and_codecs(load, forged):
    with pytest.raises(ValueError, match=r"file\.npy"):
        load(pickle.dumps({"x": forged}, protocol=4))


def test_a_type_alone_does_no_harm(load):
    kind = Forged(np.dtype, ("O8", False, True), (3, "|", None, None, None, -1, -1, 0))
    load(pickle.dumps({"x": kind}, protocol=4))


@pytest.mark.parametrize(
    "written",
    [
        b"\x80\x04" + b"(" * 100_000 + b"t" * 100_000 + b".",  # tuples in tuples
        b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b".",  # lists in lists
        b"\x80\x04}\x8c\x01a" * 50_000 + b"N" + b"s" * 50_000 + b".",  # dictionaries
        b"\x80\x04}" + b"(" * 100_000 + b"t" * 100_000 + b"Ns.",  # a tuple as a key
        b"\x80\x04}r\xff\xff\xff\xff.",  # place 2**32 of the memo
        b"\x80\x04}\x8c\x01a\x8e" + b"\xff" * 7 + b"\x7f.",  # 2**63 bytes
        b"\x80\x05}\x8c\x01a\x96" + b"\xff" * 5 + b"\0\0\0.",  # 2**40 of them
        b"\x80\x04c_codecs\nencode\n}b.",  # a state for a function
    ],
    ids=range(8),
)
def test_deep_and_large_announcements(tmp_path, written):
    """In a process of its own: a crash or much memory would be the failure."""
    path = tmp_path / "bomb.npy"
    path.write_bytes(written)
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))\n"
        "from paperlib.recordings.unpickling import load_dict\n"
        f"try: load_dict({str(path)!r}, 'signals')\n"
        "except ValueError as error: assert 'bomb.npy' in str(error)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@given(st.data())
def test_a_changed_byte_never_does_more_than_raise(tmp_path_factory, data):
    written = bytearray(
        data.draw(st.sampled_from([pickle.dumps(CONTENT, 4), npy_bytes(CONTENT)]))
    )
    place = data.draw(st.integers(0, len(written) - 1))
    written[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("changed") / "changed.npy"
    path.write_bytes(written)
    with suppress(ValueError):
        load_dict(path, "signals")


def test_torch_file_of_arrays_and_of_tensors(tmp_path):
    path = tmp_path / "train.pt"
    torch.save(CONTENT, path, pickle_protocol=5)
    assert_same(load_dict(path, "signals"))
    torch.save({"eeg": torch.arange(6).half(), "ch_names": ["Oz"]}, path)
    loaded = load_dict(path, "signals")
    np.testing.assert_array_equal(loaded["eeg"], np.arange(6, dtype=np.float16))
    assert loaded["ch_names"] == ["Oz"]


def test_torch_file_with_a_command_or_cut_short(tmp_path):
    path, marker = tmp_path / "train.pt", tmp_path / "executed"
    torch.save({"eeg": Command(os.system, f"touch {marker}")}, path)
    with pytest.raises(ValueError, match=r"train\.pt is refused.*system"):
        load_dict(path, "signals")
    tensor = {"eeg": torch.zeros(3), "x": Command(os.system, f"touch {marker}")}
    torch.save(tensor, path)
    with pytest.raises(ValueError, match=r"train\.pt"):
        load_dict(path, "signals")
    assert not marker.exists()
    torch.save(CONTENT, path, pickle_protocol=5)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"train\.pt.*Download the file again"):
        load_dict(path, "signals")
