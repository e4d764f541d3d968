"""Files over HTTP: resumed where they stopped, verified, unpacked.

What is not whole yet lies beside its place under another name, ``.<name>.partial``; no
file has its own name before its size and checksum are right.
"""

import os
import shutil
import time
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from getpass import GetPassWarning, getpass
from pathlib import Path
from zipfile import BadZipFile, ZipFile, ZipInfo, is_zipfile

import pooch
import requests

from paperlib.atomic import atomic_path
from paperlib.progress import progress_bar

PAUSE = 1.0  # s before a cut connection is opened again; doubles while nothing comes
_TRIES = 5  # in a row, in which not one byte came
_TIMEOUT = 60  # s without an answer
CHUNK = 2**18  # bytes; so many at most are lost when a connection is cut
_CUT = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
)
_BUSY = (429, 500, 502, 503, 504)

DiskUsage = Callable[[Path], object]
"""As `shutil.disk_usage`: its result has the attribute ``free``, in bytes."""


@dataclass(frozen=True)
class RemoteFile:
    """A file on a server.

    Attributes
    ----------
    url : str
    size : int or None
        Bytes; None where its authors state none.
    sha256 : str or None
        Hexadecimal; None where its authors state none.
    """

    url: str
    size: int | None = None
    sha256: str | None = None


def download(
    remote: RemoteFile, path: Path, *, disk_usage: DiskUsage = shutil.disk_usage
) -> None:
    """Bring a file; one that is there and has the known checksum is left as it is.

    Parameters
    ----------
    remote
        Where it comes from.
    path
        Where it goes. What an earlier, interrupted call brought is kept and continued.
    disk_usage
        Tells the free space.

    Raises
    ------
    FileNotFoundError
        If the server has no such file.
    ValueError
        If size or checksum are not those known; nothing of the file is kept.
    OSError
        If the disk lacks space, or the server cannot be reached.
    """
    partial = partial_path(path)

    def bring(url: str, output_file: str, _: object) -> None:
        _complete(remote, partial, disk_usage)
        os.replace(partial, output_file)

    pooch.get_logger().setLevel("WARNING")
    pooch.retrieve(
        remote.url,
        known_hash=remote.sha256 and f"sha256:{remote.sha256}",
        fname=path.name,
        path=path.parent,
        downloader=bring,
    )


def partial_path(path: Path) -> Path:
    """Return where a file lies until it is whole."""
    return path.with_name(f".{path.name}.partial")


def check_space(
    folder: Path, n_bytes: float, *, disk_usage: DiskUsage = shutil.disk_usage
) -> None:
    """Raise OSError unless there is room for so many bytes.

    Parameters
    ----------
    folder
        Where they shall go; it need not exist yet.
    n_bytes
        How many.
    disk_usage
        Tells the free space.
    """
    there = _existing(folder)
    free = disk_usage(there).free
    if free < n_bytes:
        raise OSError(
            f"{there} has {free / 1e9:.1f} GB of free space; expected room for "
            f"{n_bytes / 1e9:.1f} GB. Make room, ask for fewer participants, or set "
            "data_root of the configuration (of weights: the environment variables "
            "HF_HOME and TORCH_HOME) to another disk."
        )


def disk_of(folder: Path) -> int:
    """Return the number of the disk on which a folder is, or will be."""
    return _existing(folder).stat().st_dev


def ask_password(prompt: str) -> bytes:
    """Ask for a password on the terminal, without showing what is typed.

    Raises
    ------
    OSError
        If there is no terminal, or none that can hide what is typed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", GetPassWarning)
        try:
            return getpass(prompt).encode()
        except (GetPassWarning, EOFError) as error:
            raise OSError(
                "A password must be typed, and there is no terminal to ask on; run "
                "this command in one."
            ) from error


def unpack(
    archive: Path,
    place: Callable[[str], Path | None],
    *,
    password: bytes | None = None,
    disk_usage: DiskUsage = shutil.disk_usage,
) -> None:
    """Unpack files of a zip archive, each complete or not at all.

    Those that are there in their full size are left as they are.

    Parameters
    ----------
    archive
        The zip file.
    place
        Where a member of this name goes; None leaves it out.
    password
        If the archive is encrypted.
    disk_usage
        Tells the free space.

    Raises
    ------
    ValueError
        If the file is damaged or no zip archive, has no member with a place, or the
        password is wrong.
    OSError
        If the disk lacks space.
    """
    if password is not None:
        import fast_zip_decryption  # noqa: F401  zipfile then decrypts in compiled code
    if not is_zipfile(archive):
        raise ValueError(
            f"{archive} is not a whole zip archive; if it is small, it may hold a "
            "message of the server. Delete it and fetch it again."
        )
    with ZipFile(archive) as bundle:
        files = [info for info in bundle.infolist() if not info.is_dir()]
        members = {path: info for info in files if (path := place(info.filename))}
        if not members:
            named = ", ".join(info.filename for info in files[:5])
            raise ValueError(
                f"{archive} holds none of the files expected in it; the first are "
                f"{named}. Its authors may have changed it: unpack it by hand."
            )
        left = {path: info for path, info in members.items() if not _there(path, info)}
        total = sum(info.file_size for info in left.values())
        check_space(archive.parent, total, disk_usage=disk_usage)
        with progress_bar(
            total=total, label=f"Unpacking {archive.name}", unit="B"
        ) as bar:
            for path, info in left.items():
                _extract(bundle, info, path, password, bar.update)


def _existing(folder: Path) -> Path:
    return next(p for p in (folder, *folder.absolute().parents) if p.exists())


def _complete(remote: RemoteFile, partial: Path, disk_usage: DiskUsage) -> None:
    """Continue a file until it is whole; open cut connections again."""
    idle = 0
    while True:
        before = _size(partial)
        try:
            return _continue(remote, partial, disk_usage)
        except _CUT as error:
            idle = idle + 1 if _size(partial) <= before else 0
            if idle == _TRIES:
                raise OSError(
                    f"{remote.url} cannot be reached, or stops at {before:,} bytes "
                    f"({error}). Run the same command again to go on from there."
                ) from error
            time.sleep(PAUSE * 2**idle)


def _continue(remote: RemoteFile, partial: Path, disk_usage: DiskUsage) -> None:
    """Ask for what is missing of a file and write it, as far as it comes."""
    start = _size(partial)
    if start and start == remote.size:
        return
    headers = {"Accept-Encoding": "identity"}  # as it is, so that bytes can be counted
    if start:
        headers["Range"] = f"bytes={start}-"
    with requests.get(
        remote.url, headers=headers, stream=True, timeout=_TIMEOUT
    ) as answer:
        if answer.status_code == 416:  # nothing behind `start`
            return _check_end(answer, partial, start)
        _check_status(answer)
        start = start if answer.status_code == 206 else 0
        total = _total(answer, start)
        _check_size(remote, total, partial)
        check_space(partial.parent, (total or start) - start, disk_usage=disk_usage)
        _append(answer, partial, start, total)


def _append(
    answer: requests.Response, partial: Path, start: int, total: int | None
) -> None:
    """Write an answer behind the first ``start`` bytes of a file."""
    label = partial.name.removeprefix(".").removesuffix(".partial")
    bar = progress_bar(total=total, done=start, label=label, unit="B")
    with bar, partial.open("ab" if start else "wb") as stream:
        for chunk in answer.iter_content(CHUNK):
            stream.write(chunk)
            bar.update(len(chunk))
    if total is not None and _size(partial) != total:
        raise requests.ConnectionError(f"{_size(partial):,} of {total:,} bytes came")


def _check_status(answer: requests.Response) -> None:
    """Raise unless the server sends the file."""
    if answer.ok:
        return
    said = f"{answer.url} answered {answer.status_code} {answer.reason}"
    if answer.status_code in _BUSY:
        raise requests.ConnectionError(said)
    raise FileNotFoundError(
        f"{said}; expected a file. Look it up where it is published and correct its "
        "address in config/downloads.yml."
    )


def _check_end(answer: requests.Response, partial: Path, start: int) -> None:
    """After 416: return if the file is whole, else give up what is there of it."""
    total = answer.headers.get("Content-Range", "").rpartition("/")[2]
    if total != str(start):
        partial.unlink()
        raise requests.ConnectionError(f"{start:,} bytes are there, of {total or '?'}")


def _total(answer: requests.Response, start: int) -> int | None:
    """Return the size of the whole file, if the server tells."""
    length = answer.headers.get("Content-Length")
    return start + int(length) if length else None


def _check_size(remote: RemoteFile, total: int | None, partial: Path) -> None:
    """Raise, and give up what is there, if another file is sent than that known."""
    if None in (remote.size, total) or total == remote.size:
        return
    partial.unlink(missing_ok=True)
    raise ValueError(
        f"{remote.url} sends {total:,} bytes; expected {remote.size:,}. The file was "
        "replaced, or the address (config/downloads.yml) leads elsewhere."
    )


def _extract(
    bundle: ZipFile,
    info: ZipInfo,
    path: Path,
    password: bytes | None,
    advance: Callable[[int], object],
) -> None:
    """Write one member of an archive; reading to its end compares its CRC-32."""
    try:
        with bundle.open(info, pwd=password) as source, atomic_path(path) as partial:
            with partial.open("wb") as target:
                while chunk := source.read(CHUNK):
                    advance(target.write(chunk))
    except (BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        wrong = "the password is wrong, or " if info.flag_bits & 1 else ""
        raise ValueError(
            f"{info.filename} cannot be unpacked ({error}): {wrong}{bundle.filename} "
            f"is damaged. {'Try again; else d' if wrong else 'D'}elete it and fetch it "
            "again."
        ) from error


def _there(path: Path, info: ZipInfo) -> bool:
    return path.is_file() and path.stat().st_size == info.file_size


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
