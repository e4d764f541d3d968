"""Make ``import torchvision`` work beside a CPU build of torch.

Package registries serve torchvision for Linux with CUDA operators only. Beside a CPU
build of torch their shared library does not load, ``import torchvision`` stops with
"operator torchvision::nms does not exist", and open_clip, timm, transformers and
diffusers stop with it. None of them calls these operators here: declaring their
schemas is enough.
"""

from importlib import metadata

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_library = None  # torch forgets the schemas when the library object is collected


def declare_missing_operators() -> bool:
    """Declare torchvision's operators where its build does not match torch's.

    Returns
    -------
    bool
        True if schemas were declared; False if the two builds match, either package
        is absent, or they had been declared before.
    """
    global _library
    if _library is not None or not _builds_differ():
        return False
    import torch

    _library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        _library.define(schema)
    return True


def _builds_differ() -> bool:
    """Tell whether torch is a CPU build (``+cpu``) and torchvision is not."""
    try:
        builds = metadata.version("torch"), metadata.version("torchvision")
    except metadata.PackageNotFoundError:
        return False
    return builds[0].endswith("+cpu") and not builds[1].endswith("+cpu")
