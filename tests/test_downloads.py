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


def names(path):
    """List what is in the folder of a file."""
    return sorted(p.name for p in path.parent.iterdir()) if path.parent.exists() else []


@pytest.mark.parametrize("known", [True, False])
def test_a_file_arrives(server, remote, path, known):
    download(path=path, **remote if known else {"url": remote["url"]})
    assert path.read_bytes() == CONTENT
    assert names(path) == [path.name] and server.asked == [("/file", None)]


def test_cut_connections_are_opened_again_where_they_stopped(server, remote, path):
    server.cut = 3000
    download(path=path, **remote)
    assert path.read_bytes() == CONTENT
    starts = [asked for _, asked in server.asked]
    assert starts == [None, "bytes=3000-", "bytes=6000-", "bytes=9000-"]


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


def test_a_server_that_knows_no_ranges_sends_all_again(server, remote, path, partial):
    server.ranges = False
    partial.write_bytes(b"x" * 4000)
    download(path=path, **remote)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize(("there", "n_requests"), [(CONTENT, 1), (CONTENT + b"x", 2)])
def test_a_partial_file_that_is_whole_or_longer(
    server, path, partial, there, n_requests
):
    partial.write_bytes(there)
    download(f"{server.url}/file", path)
    assert path.read_bytes() == CONTENT and len(server.asked) == n_requests


def test_a_busy_server_is_asked_again(server, remote, path):
    server.busy = 2
    download(path=path, **remote)
    assert path.read_bytes() == CONTENT and len(server.asked) == 3


def test_an_unreachable_server(path):
    with pytest.raises(OSError, match="cannot be reached.*Run the same command"):
        download("http://127.0.0.1:9/file", path)


@pytest.mark.parametrize(
    ("known", "message"),
    [
        ({"sha256": "0" * 64}, f"expected sha256:{'0' * 64} but got {SHA256}"),
        ({"size": len(CONTENT) + 1}, "sends 10,240 bytes; expected 10,241"),
    ],
)
def test_another_file_than_expected(remote, path, known, message):
    with pytest.raises(ValueError, match=message):
        download(path=path, **remote | known)
    assert names(path) == []


def test_no_such_file(server, path):
    with pytest.raises(FileNotFoundError, match="404 Not Found.*downloads.yml"):
        download(f"{server.url}/other", path)
    assert names(path) == [] and len(server.asked) == 1


@pytest.fixture
def leave(monkeypatch):
    """Return a function that leaves so many bytes of the disk free."""
    return lambda n: monkeypatch.setattr(
        downloads.shutil, "disk_usage", lambda folder: FREE(n)
    )


def test_no_space_left(remote, path, leave):
    leave(len(CONTENT) - 1)
    with pytest.raises(OSError, match=r"0.0 GB of free.*room for 0.0 GB. Make room"):
        download(path=path, **remote)
    assert names(path) == []
    leave(len(CONTENT))
    download(path=path, **remote)


def test_only_what_is_missing_needs_space_in_an_archive_also_its_content(
    remote, path, partial, leave
):
    partial.write_bytes(CONTENT[:10000])
    leave(240)
    with pytest.raises(OSError, match="Make room"):
        download(path=path, copies=2, **remote)
    download(path=path, **remote)
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
def place(tmp_path):
    def below(member):
        is_wanted = member.startswith("top/")
        return tmp_path / "new" / member.removeprefix("top/") if is_wanted else None

    return below


def test_members_go_to_their_places(archive, place, tmp_path):
    unpack(archive, place)
    assert (tmp_path / "new/one.npy").read_bytes() == CONTENT
    assert names(tmp_path / "new/one.npy") == ["one.npy", "two.npy"]


def test_what_is_unpacked_is_left_alone(archive, place, tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new/one.npy").write_bytes(CONTENT[::-1])  # of the same size
    (tmp_path / "new/two.npy").write_bytes(b"tw")
    unpack(archive, place)
    assert (tmp_path / "new/one.npy").read_bytes() == CONTENT[::-1]
    assert (tmp_path / "new/two.npy").read_bytes() == b"two"


def test_a_damaged_archive(archive, place, tmp_path):
    content = archive.read_bytes()
    archive.write_bytes(content.replace(b"two", b"owt", 2))
    with pytest.raises(ValueError, match="a.zip is damaged. Delete it and fetch"):
        unpack(archive, place)
    assert names(tmp_path / "new/one.npy") == ["one.npy"]
    archive.write_bytes(content[:-60])
    with pytest.raises(ValueError, match="not a whole zip archive"):
        unpack(archive, place)


def test_an_archive_of_something_else(archive, tmp_path):
    with pytest.raises(ValueError, match="the first are top/one.npy, top/two.npy"):
        unpack(archive, lambda member: None)
    with pytest.raises(ValueError, match="holds two files for .*one.npy"):
        unpack(archive, lambda member: tmp_path / "one.npy")


def test_no_space_for_what_is_in_an_archive(archive, place, tmp_path, leave):
    leave(len(CONTENT) + 2)
    with pytest.raises(OSError, match="free space"):
        unpack(archive, place)
    assert not (tmp_path / "new").exists()
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


def test_the_password_opens_and_is_kept_nowhere(encrypted, place, tmp_path, capfd):
    unpack(encrypted, place, password=SECRET)
    assert (tmp_path / "new/one.npy").read_bytes() == CONTENT
    written = [p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()]
    shown = "".join(capfd.readouterr())
    assert not any(SECRET in content for content in [*written, shown.encode()])


@pytest.mark.parametrize("password", [b"wrong", b"", None])
def test_a_wrong_password(encrypted, place, tmp_path, password):
    with pytest.raises(
        ValueError, match="the password is wrong, or .*b.zip is damaged"
    ):
        unpack(encrypted, place, password=password)
    assert names(tmp_path / "new/one.npy") == []


def test_encrypted_members_are_read_by_compiled_code(encrypted, place):
    unpack(encrypted, place, password=SECRET)
    with ZipFile(io.BytesIO(encrypted.read_bytes())) as bundle:
        reader = bundle.open("top/one.npy", pwd=SECRET)
    assert type(reader).__module__ == "fast_zip_decryption"


ASK = (
    "from workflow.data import ask_password\n"
    "print('bytes:', len(ask_password('Password: ')))"
)


def test_a_password_is_not_echoed():
    child = pexpect.spawn(sys.executable, ["-c", ASK], cwd=str(ROOT), timeout=30)
    child.expect("Password: ")
    child.sendline(SECRET)
    child.expect("bytes: 13")
    assert SECRET not in child.before
    child.close()


def test_without_a_terminal_no_password_is_asked_for():
    done = subprocess.run(
        [sys.executable, "-c", ASK],
        cwd=ROOT,
        input=SECRET + b"\n",
        capture_output=True,
        start_new_session=True,  # away from the terminal of the tests
        check=False,
    )
    assert b"there is no terminal to ask on" in done.stderr
    assert b"bytes:" not in done.stdout
