"""Import paperlib first: it makes vision libraries importable beside a CPU torch."""

import paperlib  # noqa: F401
