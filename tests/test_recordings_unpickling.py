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


class Call:
    """Pickles as a call of a function, whose result may get a state."""

    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


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
def test_pickle_of_every_protocol_and_official_container(load, protocol, module):
    written = pickle.dumps(CONTENT, protocol=protocol)
    if protocol < 4 or module == b"numpy._core":  # later ones store a name's length
        np.testing.assert_equal(
            load(written.replace(b"numpy._core", module)), CONTENT, strict=True
        )
    np.testing.assert_equal(load(npy_bytes(CONTENT)), CONTENT, strict=True)


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("container", ["bare", "npy"])
def test_a_command_is_refused_and_not_run(load, tmp_path, protocol, container):
    marker = tmp_path / "executed"
    hostile = {"data": [Call(os.system, (f"touch {marker}",))]}
    written = pickle.dumps(hostile, protocol=protocol)
    with pytest.raises(ValueError, match=r"file\.npy .*system is refused"):
        load(written if container == "bare" else npy_bytes(hostile))
    assert not marker.exists()
    pickle.loads(written)  # the file does run a command where nobody looks
    assert marker.exists()


DOTTED = b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93."  # into an allowed name


@pytest.mark.parametrize(
    ("written", "message"),
    [
        *(
            (pickle.dumps({"x": content}, protocol=4), "is refused; nothing was run")
            for content in (
                Call(eval, ("1 + 1",)),
                Call(exec, ("pass",)),
                Call(getattr, ("text", "upper")),
                Call(np.load, ("other.npy",)),
                Call(np.fromfile, ("other.npy",)),
                Path("x"),
            )
        ),
        (DOTTED, r"numpy\.ndarray\.tofile is refused"),
        (b"<!DOCTYPE html>", "Expected signals.* or download it again"),
        (b"version https://git-lfs", "Expected signals.* or download it again"),
        (b"\0", "Expected signals.* or download it again"),
        (npy_bytes(np.zeros((3, 4))), r"type float64 and shape \(3, 4\) is refused"),
        (npy_bytes(np.array([{}, {}])), r"\(2,\) is refused.*one dictionary"),
        (pickle.dumps([1, 2]), "it holds a list.* Expected signals"),
    ],
)
def test_other_names_and_what_is_no_dictionary(load, written, message):
    with pytest.raises(ValueError, match=message):
        load(written)


@given(st.data(), st.sampled_from([pickle.dumps(CONTENT, 4), npy_bytes(CONTENT)]))
def test_a_truncated_file_is_reported(tmp_path_factory, data, written):
    n_kept = data.draw(st.integers(0, len(written) - 1))
    path = tmp_path_factory.mktemp("cut") / "cut.npy"
    with pytest.raises(FileNotFoundError, match=r"cut\.npy is missing.*signals"):
        load_dict(path, "signals")
    path.write_bytes(written[:n_kept])
    with pytest.raises(ValueError, match=r"cut\.npy.*download it again"):
        load_dict(path, "signals")


# --- forged content must neither reach numpy, nor crash, nor fill the memory ---

ARRAY = (np.ndarray, (0,), b"b")
TYPE_STATE = (3, "<", None, None, None, -1, -1, 0)
RECONSTRUCT = np.zeros(0).__reduce__()[0]


@pytest.mark.parametrize(
    "forged",
    [
        Call(np.dtype, ("V8", False, True), (3, "|", None, ("a",), {}, 8, 1, 27)),
        Call(np.dtype, ("f8", False, True), (3, "?", None, None, None, -1, -1, 0)),
        Call(np.dtype, ("f8,f8", False, True), TYPE_STATE),
        Call(RECONSTRUCT, ARRAY, (1, (10**12,), np.dtype("f8"), False, b"12345678")),
        Call(RECONSTRUCT, ARRAY, (1, (-1,), np.dtype("f8"), False, b"")),
        Call(RECONSTRUCT, ARRAY, (1, (2,), np.dtype("O"), False, [1, 2])),
        Call(RECONSTRUCT, ARRAY, (1, (1,), np.dtype("O"), False, b"12345678")),
        Call(codecs.encode, ("a" * 99, "punycode"), None),
        Call(codecs.encode, ("a" * 99, "zlib"), None),
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
    kind = Call(np.dtype, ("O8", False, True), (3, "|", None, None, None, -1, -1, 0))
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
    np.testing.assert_equal(load_dict(path, "signals"), CONTENT, strict=True)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"train\.pt.*download it again"):
        load_dict(path, "signals")
    torch.save({"eeg": torch.arange(6).half(), "ch_names": ["Oz"]}, path)
    expected = {"eeg": np.arange(6, dtype=np.float16), "ch_names": ["Oz"]}
    np.testing.assert_equal(load_dict(path, "signals"), expected, strict=True)


@pytest.mark.parametrize("others", [{}, {"eeg": torch.zeros(3)}])
def test_torch_file_with_a_command(tmp_path, others):
    path, marker = tmp_path / "train.pt", tmp_path / "executed"
    torch.save(others | {"x": Call(os.system, (f"touch {marker}",))}, path)
    with pytest.raises(ValueError, match=r"train\.pt"):
        load_dict(path, "signals")
    assert not marker.exists()
