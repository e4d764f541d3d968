"""Make ``import torchvision`` work beside a CPU build of torch.

Beside a CPU build of torch, the operators of a CUDA build of torchvision do not load:
``import torchvision`` stops with "operator torchvision::nms does not exist", and
open_clip, transformers and diffusers stop with it. None of them calls these operators
here, so declaring their schemas is enough.
"""

import sys
from importlib import metadata
from importlib.abc import MetaPathFinder

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


class _OperatorsFirst(MetaPathFinder):
    """Declares the operators when torchvision is imported: torch takes seconds."""

    library = None  # torch forgets the schemas when this is collected

    def find_spec(self, name, path, target=None) -> None:
        """Leave every module, torchvision too, to the finders that come after."""
        if name == "torchvision" and self.library is None:
            import torch

            self.library = torch.library.Library("torchvision", "DEF")
            for schema in _SCHEMAS:
                self.library.define(schema)


def prepare_for_torchvision() -> bool:
    """Declare torchvision's operators if its build is not torch's, once; say if so."""
    prepared = any(type(finder) is _OperatorsFirst for finder in sys.meta_path)
    if prepared or "torchvision" in sys.modules:
        return False
    try:
        builds = metadata.version("torch"), metadata.version("torchvision")
    except metadata.PackageNotFoundError:
        return False
    if builds[1].endswith("+cpu") or not builds[0].endswith("+cpu"):
        return False
    sys.meta_path.insert(0, _OperatorsFirst())
    return True
