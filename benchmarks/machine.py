"""What a benchmark ran on."""

from pathlib import Path


def processor() -> str:
    """Return the name of the processor, on Linux."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next(line.split(": ")[1] for line in lines if line.startswith("model name"))
