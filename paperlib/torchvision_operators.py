"""Make ``import torchvision`` work beside a CPU build of torch.

Beside a CPU build of torch, the shared library of a CUDA build does not load: ``import
torchvision`` stops with "operator torchvision::nms does not exist", and open_clip,
timm, transformers and diffusers stop with it. None of them calls these operators here:
declaring their schemas is enough.
"""

import sys
from collections.abc import Sequence
from importlib import metadata
from importlib.abc import MetaPathFinder

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


class _OperatorsFirst(MetaPathFinder):
    """Declares the operators when torchvision is about to be imported, not before.

    torch takes seconds to import, and much of the work here needs no torch.
    """

    library = None

    def find_spec(self, name: str, path: Sequence[str] | None, target=None) -> None:
        """Leave every module, torchvision too, to the finders that come after."""
        if name == "torchvision" and self.library is None:
            self.library = _declare()


def prepare_for_torchvision() -> bool:
    """See to it that torchvision finds its operators, if its build is not torch's.

    Returns
    -------
    bool
        Whether anything had to be done; not if the builds match, either package is
        absent, or this was called before.
    """
    prepared = any(isinstance(finder, _OperatorsFirst) for finder in sys.meta_path)
    if prepared or "torchvision" in sys.modules or not _builds_differ():
        return False
    sys.meta_path.insert(0, _finder)
    return True


def _declare():
    """Return the library of schemas; torch forgets them when it is collected."""
    import torch

    library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        library.define(schema)
    return library


def _builds_differ() -> bool:
    """Tell whether torch is a CPU build (``+cpu``) and torchvision is not."""
    try:
        builds = metadata.version("torch"), metadata.version("torchvision")
    except metadata.PackageNotFoundError:
        return False
    return builds[0].endswith("+cpu") and not builds[1].endswith("+cpu")


_finder = _OperatorsFirst()
