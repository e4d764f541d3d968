"""Write files so that a reader never sees half of one."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import gethostname

import psutil


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary sibling of ``path`` and rename it when the block succeeds.

    Siblings that processes of this machine left when they were killed are removed.

    Parameters
    ----------
    path
        Final place of the file; missing parent folders are made.

    Yields
    ------
    Path
        Where to write, with the same suffix as ``path``. After an error it is removed
        and whatever stood at ``path`` before is untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    start, end = _around_pid(path)
    partial = path.with_name(f"{start}{os.getpid()}{end}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write ``text`` to ``path`` (UTF-8), atomically."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _around_pid(path: Path) -> tuple[str, str]:
    """Return how the names of temporary siblings start and end on this machine."""
    return f".{path.stem}.{gethostname()}-", f".partial{path.suffix}"


def _remove_abandoned(path: Path) -> None:
    """Remove temporary siblings whose processes are gone."""
    name = re.compile(r"(\d+)".join(map(re.escape, _around_pid(path))))
    for sibling in path.parent.iterdir():
        found = name.fullmatch(sibling.name)
        if found and not psutil.pid_exists(int(found[1])):
            sibling.unlink(missing_ok=True)
