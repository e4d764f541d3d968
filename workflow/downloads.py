"""Files over HTTP, continued where they stopped; zip archives, unpacked safely."""

import fcntl
import os
import shutil
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from zipfile import BadZipFile, ZipFile, ZipInfo

import pooch
import requests
from tqdm import tqdm

from paperlib.atomic import atomic_path

PAUSE = 1.0  # s before a cut connection is opened again; doubles while nothing comes
CHUNK = 2**18  # bytes
_TRIES = 5  # in a row that bring nothing
_BUSY = (429, 500, 502, 503, 504)
_DAMAGE = (BadZipFile, zlib.error, EOFError, RuntimeError, FileExistsError)
_DEFLATE64 = 9


def download(
    url: str,
    path: Path,
    *,
    size: int | None = None,
    sha256: str | None = None,
    copies: int = 1,
) -> None:
    """Download a file, or the rest of it, to ``.<name>.partial``; rename it when whole.

    Size (bytes) and checksum are compared where they are known, and a file that has the
    checksum already is left as it is. There must be space for ``copies`` of the file:
    2 for an archive.
    """
    partial = path.with_name(f".{path.name}.partial")

    def resume(url: str, output_file: str, _) -> None:
        idle = 0
        while idle < _TRIES:
            before = _size(partial)
            try:
                _continue(url, partial, size, copies)
                os.replace(partial, output_file)
                return
            except requests.RequestException as error:
                idle = idle + 1 if _size(partial) <= before else 0
                reason = error
            time.sleep(PAUSE * 2**idle)
        raise OSError(
            f"{url} cannot be reached, or stops at {before:,} bytes ({reason}). Run "
            "the same command again to continue from there."
        )

    pooch.get_logger().setLevel("WARNING")
    known = f"sha256:{sha256}" if sha256 else None
    pooch.retrieve(url, known, path.name, path.parent, downloader=resume)


def _continue(url: str, partial: Path, size: int | None, copies: int) -> None:
    """Append what is missing of a file, as far as it comes."""
    start = _size(partial)
    headers = {"Accept-Encoding": "identity"}  # so that bytes can be counted
    headers |= {"Range": f"bytes={start}-"} if start else {}
    with requests.get(url, headers=headers, stream=True, timeout=60) as answer:
        if answer.status_code == 416:  # nothing follows byte `start`
            if answer.headers.get("Content-Range", "").endswith(f"/{start}"):
                return
            partial.unlink()
            raise requests.ConnectionError("another file was there before")
        if answer.status_code in _BUSY:
            raise requests.ConnectionError(f"{answer.status_code} {answer.reason}")
        if not answer.ok:
            raise FileNotFoundError(
                f"{answer.url} answered {answer.status_code} {answer.reason}; expected "
                "a file. Correct its address in config/downloads.yml."
            )
        start = start if answer.status_code == 206 else 0
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length else size
        if size not in (None, total):
            partial.unlink(missing_ok=True)
            raise ValueError(
                f"{url} sends {total:,} bytes; expected {size:,}. The file was "
                "replaced, or the address (config/downloads.yml) leads elsewhere."
            )
        check_space(partial.parent, copies * (total or start) - start)
        label = partial.name.removeprefix(".").removesuffix(".partial")
        with partial.open("ab") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OSError(f"{partial} is being written by another fetch.") from None
            stream.truncate(start)
            bar = {"unit": "B", "unit_scale": True, "desc": label, "mininterval": 1}
            with tqdm(total=total, initial=start, **bar) as progress:
                for chunk in answer.iter_content(CHUNK):
                    progress.update(stream.write(chunk))
    if total is not None and _size(partial) != total:
        raise requests.ConnectionError(f"{_size(partial):,} of {total:,} bytes came")


def unpack(
    archive: Path, place: Callable[[str], Path | None], password: bytes | None = None
) -> None:
    """Unpack a zip archive; each file appears when it is whole and its CRC-32 right.

    ``place`` says where a member of a name goes, None leaves it out. Files that are
    there in full size stay as they are.
    """
    if password is not None:
        import fast_zip_decryption  # noqa: F401  compiled code for zipfile
    try:
        bundle = ZipFile(archive)
    except Exception as error:  # a damaged list of files can raise almost anything
        raise ValueError(
            f"{archive} is not a whole zip archive ({error}); if it is small, it may "
            "hold a message of the server. Delete it and fetch it again."
        ) from error
    with bundle:
        files = [info for info in bundle.infolist() if not info.is_dir()]
        members: dict[Path, ZipInfo] = {}
        for info in files:
            path = place(info.filename)
            if path in members:
                raise ValueError(
                    f"{archive} holds two files for {path}: {members[path].filename} "
                    f"and {info.filename}. Unpack the right one by hand."
                )
            if path:
                members[path] = info
        if not members:
            names = ", ".join(info.filename for info in files[:5])
            raise ValueError(
                f"{archive} holds none of the files expected in it; the first are "
                f"{names}. Its authors may have changed it: unpack it by hand."
            )
        left = {
            path: info
            for path, info in members.items()
            if not path.is_file() or _size(path) != info.file_size
        }
        if any(info.compress_type == _DEFLATE64 for info in left.values()):
            raise ValueError(
                f"{archive} is whole, but compressed with Deflate64 (as Windows "
                "Explorer does above 2 GB), which Python cannot unpack. Unpack it with "
                "7z or unzip, pack it again with zip, and run the same command again."
            )
        total = sum(info.file_size for info in left.values())
        check_space(archive.parent, total)
        label = f"Unpacking {archive.name}"
        with tqdm(total=total, unit="B", unit_scale=True, desc=label) as progress:
            for path, info in left.items():
                _extract(bundle, info, path, password, progress)


def _extract(
    bundle: ZipFile, info: ZipInfo, path: Path, password: bytes | None, progress: tqdm
) -> None:
    try:
        with bundle.open(info, pwd=password) as source, atomic_path(path) as partial:
            with partial.open("wb") as target:
                while chunk := source.read(CHUNK):
                    progress.update(target.write(chunk))
    except _DAMAGE as error:
        is_open = not info.flag_bits & 1  # not encrypted
        cause = "" if is_open else "the password is wrong, or "
        raise ValueError(
            f"{info.filename} cannot be unpacked ({error}): {cause}{bundle.filename} "
            f"is damaged. {'D' if is_open else 'Try again; else d'}elete it and fetch "
            "it again."
        ) from error


_CURE = (
    "Make room, ask for fewer participants, or set data_root of the configuration to "
    "another disk."
)


def check_space(folder: Path, n_bytes: float, cure: str = _CURE) -> None:
    """Raise OSError unless a folder has room; it need not exist yet."""
    there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(there).free
    if free < n_bytes:
        raise OSError(
            f"{there} has {free / 1e9:.1f} GB of free space; expected room for "
            f"{n_bytes / 1e9:.1f} GB. {cure}"
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
