"""Does the running Python satisfy the pins? ``python paperlib/environment.py FILE``.

Uses the standard library only and is run as a script, before anything is installed.
"""

import sys
from importlib import metadata
from pathlib import Path


def read_pins(path: Path) -> dict[str, str]:
    """Return name -> version of every ``name==version`` line."""
    lines = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    return dict(line.split("==") for line in lines if line)


def unsatisfied(pins: dict[str, str]) -> dict[str, str | None]:
    """Return the installed version, or None, of each package that differs from its pin.

    A build's local tag (``+cpu``, ``+cu130``) does not count.
    """
    installed = {name: _installed_version(name) for name in pins}
    return {
        name: version
        for name, version in installed.items()
        if version is None or version.split("+")[0] != pins[name]
    }


def _installed_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.exit(bool(unsatisfied(read_pins(Path(sys.argv[1])))))
