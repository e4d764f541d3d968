import codecs
import io
import os
import pickle
import pickletools
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
    np.save(stream, np.array(content, dtype=object), allow_pickle=True)
    return stream.getvalue()


def test_official_container(tmp_path):
    np.save(tmp_path / "raw.npy", CONTENT)
    assert_same(load_dict(tmp_path / "raw.npy", "signals"))


@pytest.mark.parametrize("protocol", range(6))
def test_bare_pickle_of_every_protocol(tmp_path, protocol):
    path = tmp_path / "bare.npy"
    path.write_bytes(pickle.dumps(CONTENT, protocol=protocol))
    assert_same(load_dict(path, "signals"))


@pytest.mark.parametrize("protocol", range(4))
def test_numpy_1_module_path(tmp_path, protocol):
    written = pickle.dumps(CONTENT, protocol=protocol)
    path = tmp_path / "old.npy"
    path.write_bytes(written.replace(b"numpy._core", b"numpy.core"))
    assert b"numpy.core.multiarray" in path.read_bytes()
    assert_same(load_dict(path, "signals"))


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("container", ["bare", "npy"])
def test_a_command_is_refused_and_not_run(tmp_path, protocol, container):
    marker = tmp_path / "executed"
    hostile = {"data": [Command(os.system, f"touch {marker}")]}
    written = pickle.dumps(hostile, protocol=protocol)
    path = tmp_path / "hostile.npy"
    path.write_bytes(written if container == "bare" else npy_bytes(hostile))
    with pytest.raises(ValueError, match=r"hostile\.npy is refused.*system"):
        load_dict(path, "signals")
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
def test_every_other_name_is_refused(tmp_path, command):
    path = tmp_path / "hostile.npy"
    path.write_bytes(pickle.dumps({"x": command}, protocol=4))
    with pytest.raises(ValueError, match="refused.*Nothing was run"):
        load_dict(path, "signals")


def test_dotted_path_into_an_allowed_name_is_refused(tmp_path):
    path = tmp_path / "dotted.npy"
    path.write_bytes(b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.")
    assert "ndarray.tofile" in [
        arg for _, arg, _ in pickletools.genops(path.open("rb"))
    ]
    with pytest.raises(ValueError, match=r"refused.*numpy\.ndarray\.tofile"):
        load_dict(path, "signals")


@given(st.data(), st.sampled_from([pickle.dumps(CONTENT, 4), npy_bytes(CONTENT)]))
def test_a_truncated_file_is_reported(tmp_path_factory, data, written):
    n_kept = data.draw(st.integers(0, len(written) - 1))
    path = tmp_path_factory.mktemp("cut") / "cut.npy"
    path.write_bytes(written[:n_kept])
    with pytest.raises(ValueError, match=r"cut\.npy.*Download the file again"):
        load_dict(path, "signals")


@pytest.mark.parametrize(
    "text", [b"<!DOCTYPE html>", b"version https://git-lfs", b"\0"]
)
def test_not_a_pickle(tmp_path, text):
    path = tmp_path / "page.npy"
    path.write_bytes(text)
    with pytest.raises(ValueError, match=r"not a complete pickle.*expected signals"):
        load_dict(path, "signals")


def test_a_plain_array_is_not_a_dictionary(tmp_path):
    np.save(tmp_path / "plain.npy", np.zeros((3, 4)))
    with pytest.raises(ValueError, match=r"plain.*'<f8'.*\(3, 4\).*expected"):
        load_dict(tmp_path / "plain.npy", "signals")


def test_an_object_array_of_another_shape_is_refused(tmp_path):
    np.save(tmp_path / "list.npy", np.array([{}, {}], dtype=object))
    with pytest.raises(ValueError, match=r"refused.*\(2,\).*one dictionary"):
        load_dict(tmp_path / "list.npy", "signals")


def test_another_object_is_not_a_dictionary(tmp_path):
    (tmp_path / "list.npy").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(ValueError, match="holds a list; expected signals"):
        load_dict(tmp_path / "list.npy", "signals")


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
        Forged(np.dtype, ("O8", False, True), (3, "|", None, None, None, -1, -1, 0)),
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
    ids=range(14),
)
def test_forged_types_sizes_and_codecs(tmp_path, forged):
    path = tmp_path / "forged.npy"
    path.write_bytes(pickle.dumps({"x": forged}, protocol=4))
    if isinstance(forged, Forged) and forged.reduced[1] == ("O8", False, True):
        load_dict(path, "signals")  # a type alone does no harm
        return
    with pytest.raises(ValueError, match=r"forged\.npy"):
        load_dict(path, "signals")


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
