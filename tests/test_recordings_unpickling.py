import codecs
import io
import os
import pickle
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


# --- forged content must not reach numpy ---

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
    ],
    ids=range(9),
)
def test_forged_types_sizes_and_codecs(load, forged):
    with pytest.raises(ValueError, match=r"file\.npy"):
        load(pickle.dumps({"x": forged}, protocol=4))


def test_a_type_alone_does_no_harm(load):
    kind = Call(np.dtype, ("O8", False, True), (3, "|", None, None, None, -1, -1, 0))
    load(pickle.dumps({"x": kind}, protocol=4))


def test_a_state_for_a_function_is_refused(load):
    with pytest.raises(ValueError, match="the state of an object is refused"):
        load(b"\x80\x04c_codecs\nencode\n}b.")


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
