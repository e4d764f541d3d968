import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side

import paperlib  # noqa: E402, F401  makes torchvision work before any test imports it


def pytest_collection_modifyitems(items):
    """Start with the longest: the pipeline runs beside the other tests."""
    items.sort(key=lambda item: item.get_closest_marker("pipeline") is None)
