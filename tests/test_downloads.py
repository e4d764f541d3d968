import fcntl
import hashlib
import io
import subprocess
import sys
from collections import namedtuple
from zipfile import ZIP_DEFLATED, ZipFile

import pexpect
import pytest
from file_server import encrypted_zip, serving

from paperlib.paths import ROOT
from workflow import downloads
from workflow.downloads import check_space, download, unpack

CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()
FREE = namedtuple("Usage", "free")
SECRET = b"correct horse"


@pytest.fixture(autouse=True)
def small_and_quick(monkeypatch):
    monkeypatch.setattr(downloads, "PAUSE", 0.0)
    monkeypatch.setattr(downloads, "CHUNK", 500)


@pytest.fixture
def server():
    with serving() as files:
        files["/file"] = CONTENT
        yield files


@pytest.fixture
def remote(server):
    return {"url": f"{server.url}/file", "size": len(CONTENT), "sha256": SHA256}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new/file.fif"


@pytest.fixture
def partial(path):
    """Name what an earlier download would leave; its folder is there."""
    path.parent.mkdir()
    return path.with_name(f".{path.name}.partial")


@pytest.fixture
def leave(monkeypatch):
    """Return a function that leaves so many bytes of the disk free."""
    return lambda n: monkeypatch.setattr(
        downloads.shutil, "disk_usage", lambda folder: FREE(n)
    )


def names(path):
    """List what is in the folder of a file."""
    return sorted(p.name for p in path.parent.iterdir()) if path.parent.exists() else []


@pytest.mark.parametrize(
    ("behavior", "starts"),
    [
        ({}, [0]),
        ({"cut": 3000}, [0, 3000, 6000, 9000]),  # opened again where it stopped
        ({"busy": 2}, [0, 0, 0]),
    ],
)
@pytest.mark.parametrize("known", [True, False])
def test_a_file_arrives(server, remote, path, behavior, starts, known):
    vars(server).update(behavior)
    download(path=path, **remote if known else {"url": remote["url"]})
    assert path.read_bytes() == CONTENT and names(path) == [path.name]
    asked = [int(header[6:-1]) if header else 0 for _, header in server.asked]
    assert asked == starts


def test_the_next_call_goes_on_where_this_one_gave_up(server, remote, path, partial):
    partial.write_bytes(CONTENT[:4000])
    server.cut = 0
    with pytest.raises(OSError, match="stops at 4,000 bytes.*Run the same command"):
        download(path=path, **remote)
    assert names(path) == [partial.name]
    server.cut = None
    server.asked.clear()
    download(path=path, **remote)
    assert path.read_bytes() == CONTENT and server.asked == [("/file", "bytes=4000-")]
    assert names(path) == [path.name]


@pytest.mark.parametrize(
    ("there", "ranges", "n_requests"),
    [
        (CONTENT, True, 1),  # whole
        (CONTENT + b"x", True, 2),  # of a longer file
        (b"x" * 4000, False, 1),  # the server sends all again
    ],
)
def test_what_a_partial_file_may_be(server, path, partial, there, ranges, n_requests):
    partial.write_bytes(there)
    server.ranges = ranges
    download(f"{server.url}/file", path)
    assert path.read_bytes() == CONTENT and len(server.asked) == n_requests


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sha256": "0" * 64}, f"expected sha256:{'0' * 64} but got {SHA256}"),
        ({"size": len(CONTENT) + 1}, "sends 10,240 bytes; expected 10,241"),
        ({"url": "http://127.0.0.1:9/file"}, "cannot be reached.*Run the same command"),
        ({"url": "/other"}, "404 Not Found.*downloads.yml"),
    ],
)
def test_another_file_than_expected_or_none(server, remote, path, changes, message):
    if changes.get("url") == "/other":
        changes = {"url": f"{server.url}/other"}
    with pytest.raises((OSError, ValueError), match=message):
        download(path=path, **remote | changes)
    assert names(path) == [] and len(server.asked) <= 1


@pytest.mark.parametrize(("copies", "needed"), [(1, 240), (2, 10480)])
def test_only_what_is_missing_needs_space_and_an_archive_its_content_too(
    remote, path, partial, leave, copies, needed
):
    partial.write_bytes(CONTENT[:10000])
    leave(needed - 1)
    with pytest.raises(OSError, match=r"0.0 GB of free.*room for 0.0 GB. Make room"):
        download(path=path, copies=copies, **remote)
    assert names(path) == [partial.name]
    leave(needed)
    download(path=path, copies=copies, **remote)
    assert path.read_bytes() == CONTENT


def test_space_is_looked_for_where_the_folder_will_be(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        downloads.shutil, "disk_usage", lambda p: asked.append(p) or FREE(10)
    )
    check_space(tmp_path / "a/b", 10)
    assert asked == [tmp_path]


def test_two_downloads_of_a_file_do_not_mix(remote, path, partial):
    with partial.open("wb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(OSError, match="written by another fetch"):
            download(path=path, **remote)


@pytest.mark.parametrize(("there", "n"), [(CONTENT, 0), (CONTENT[:-1] + b"x", 1)])
def test_only_a_damaged_file_is_replaced(server, remote, path, there, n):
    path.parent.mkdir()
    path.write_bytes(there)
    download(path=path, **remote)
    assert path.read_bytes() == CONTENT and len(server.asked) == n


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "a.zip"
    with ZipFile(path, "w") as bundle:
        bundle.writestr("top/one.npy", CONTENT)
        bundle.writestr("top/two.npy", b"two")
        bundle.writestr("__MACOSX/._one.npy", b"no")
    return path


@pytest.fixture
def place(path):
    def below(member):
        is_wanted = member.startswith("top/")
        return path.parent / member.removeprefix("top/") if is_wanted else None

    return below


def test_members_go_to_their_places_and_what_is_there_is_left_alone(
    archive, place, path
):
    unpack(archive, place)
    one, two = path.with_name("one.npy"), path.with_name("two.npy")
    assert (one.read_bytes(), two.read_bytes()) == (CONTENT, b"two")
    assert names(path) == ["one.npy", "two.npy"]
    one.write_bytes(CONTENT[::-1])  # of the same size
    two.write_bytes(b"tw")
    unpack(archive, place)
    assert (one.read_bytes(), two.read_bytes()) == (CONTENT[::-1], b"two")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda x: x.replace(b"two", b"owt", 2), "a.zip is damaged. Delete it and fe"),
        (lambda x: x[:-60], "not a whole zip archive"),
    ],
)
def test_a_damaged_archive(archive, place, path, damage, message):
    archive.write_bytes(damage(archive.read_bytes()))
    with pytest.raises(ValueError, match=message):
        unpack(archive, place)
    assert set(names(path)) <= {"one.npy"}


def test_a_member_that_is_both_file_and_folder(archive, path):
    with ZipFile(archive, "w") as bundle:
        bundle.writestr("top/one", "x")
        bundle.writestr("top/one/two", "x")
    with pytest.raises(ValueError, match="top/one/two cannot be unpacked"):
        unpack(archive, lambda member: path / member)


def test_an_archive_of_something_else(archive, path):
    with pytest.raises(ValueError, match="the first are top/one.npy, top/two.npy"):
        unpack(archive, lambda member: None)
    with pytest.raises(ValueError, match="holds two files for .*file.fif"):
        unpack(archive, lambda member: path)


def test_no_space_for_what_is_in_an_archive(archive, place, path, leave):
    leave(len(CONTENT) + 2)
    with pytest.raises(OSError, match="free space"):
        unpack(archive, place)
    assert names(path) == []
    leave(len(CONTENT) + 3)
    unpack(archive, place)


def test_deflate64_is_not_called_damaged(archive, place):
    with ZipFile(archive, "w", ZIP_DEFLATED) as bundle:
        bundle.writestr("top/one.npy", CONTENT)
    content = bytearray(archive.read_bytes())
    directory = content.index(b"PK\1\2")
    content[8], content[directory + 10] = 9, 9  # the method of the member
    archive.write_bytes(content)
    with pytest.raises(ValueError, match="is whole, but.*Deflate64.*7z"):
        unpack(archive, place)


@pytest.fixture
def encrypted(tmp_path):
    path = tmp_path / "b.zip"
    path.write_bytes(encrypted_zip({"top/one.npy": CONTENT, "top/two": b"2"}, SECRET))
    return path


def test_encrypted_members_are_read_by_compiled_code(encrypted, place, path):
    unpack(encrypted, place, password=SECRET)
    assert path.with_name("one.npy").read_bytes() == CONTENT
    with ZipFile(io.BytesIO(encrypted.read_bytes())) as bundle:
        reader = bundle.open("top/one.npy", pwd=SECRET)
    assert type(reader).__module__ == "fast_zip_decryption"


@pytest.mark.parametrize("password", [b"wrong", b"", None])
def test_a_wrong_password(encrypted, place, path, password):
    message = "the password is wrong, or .*b.zip is damaged"
    with pytest.raises(ValueError, match=message):
        unpack(encrypted, place, password=password)
    assert names(path) == []


ASK = [
    *(sys.executable, "-c"),
    "from workflow.data import ask_password\n"
    "print('bytes:', len(ask_password('Password: ')))",
]


def test_a_password_is_not_echoed():
    child = pexpect.spawn(ASK[0], ASK[1:], cwd=str(ROOT), timeout=30)
    child.expect("Password: ")
    child.sendline(SECRET)
    child.expect("bytes: 13")
    assert SECRET not in child.before
    child.close()


def test_without_a_terminal_no_password_is_asked_for():
    piped = {"input": SECRET + b"\n", "capture_output": True}
    away = {"start_new_session": True}  # from the terminal of the tests
    done = subprocess.run(ASK, cwd=ROOT, check=False, **piped, **away)
    assert b"there is no terminal to ask on" in done.stderr
    assert b"bytes:" not in done.stdout
