import paperlib  # noqa: F401  makes torchvision work before any test imports it


def pytest_collection_modifyitems(items):
    """Start with the longest: the pipeline runs beside the other tests."""
    items.sort(key=lambda item: item.get_closest_marker("pipeline") is None)
