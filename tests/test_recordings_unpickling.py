import io
import os
import pickle
import pickletools
from pathlib import Path

import numpy as np
import pytest
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
    with pytest.raises(ValueError, match=r"array of shape \(3, 4\) and type float64"):
        load_dict(tmp_path / "plain.npy", "signals")


def test_an_object_array_of_another_shape_is_refused(tmp_path):
    np.save(tmp_path / "list.npy", np.array([{}, {}], dtype=object))
    with pytest.raises(ValueError, match=r"array of shape \(2,\)"):
        load_dict(tmp_path / "list.npy", "signals")


def test_another_object_is_not_a_dictionary(tmp_path):
    (tmp_path / "list.npy").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(ValueError, match="holds a list; expected signals"):
        load_dict(tmp_path / "list.npy", "signals")


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.npy is missing.*signals"):
        load_dict(tmp_path / "gone.npy", "signals")
