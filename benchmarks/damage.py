"""Damaged, wrong and hostile versions of a file, for benchmarks/malformed.py."""

import io
import json
import os
import pickle
import random
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import numpy as np
import pandas as pd
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save

Version = tuple[str, bytes | str | None]  # name; content, target of a link, or a folder
WRONG = (None, "text", [], {}, -1, 1e30, 0.5, float("nan"), [[None]])
DEEP = b"[" * 100_000
BLIND = ("cut", "flip", "twice")  # may leave a file as its format demands
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n"
BOMB = "a0: &a0 [x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
)


class Command:
    """Runs a shell command where a pickle is loaded without care."""

    def __reduce__(self):
        return os.system, ("touch ran",)


PROGRAMS = {  # of the machine that reads pickles
    "codec": b"\x80\x02c_codecs\nencode\nX\x01\0\0\0aX\x08\0\0\0punycode\x86R.",
    "type of objects": b"\x80\x02cnumpy\ndtype\nX\x03\0\0\0O10\x85R.",
    "far memo": b"\x80\x04}r\xff\xff\xff\x7f.",
    "long bytes": b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x0f.",
    "long text": b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x0f.",
    "long frame": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f}.",
    "name with dots": b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.",
    "eval": b"cbuiltins\neval\n(S'1'\ntR.",
    "deep tuples": b"\x80\x04)" + b"\x85" * 100_000 + b".",
    "deep lists": b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "dictionary in itself": b"\x80\x04}\x94X\x01\0\0\0ah\0s.",
    "extension": b"\x80\x02\x82\x01.",
    "persistent name": b"\x80\x04Pname\n.",
    "command": pickle.dumps({"x": Command()}),
}


def damaged(path: Path) -> Iterator[Version]:
    """Yield versions of a file that are not what it was."""
    data, rng = path.read_bytes(), random.Random(path.name)
    size = len(data)
    for length in (0, 1, 20, size // 4, size // 2, size - 20, size - 1):
        yield f"cut to {length} bytes", data[: max(0, length)]
    for _ in range(8):  # more of them near the beginning
        place = int(size * rng.random() ** rng.choice((1, 4)))
        flipped = bytearray(data)
        flipped[place] ^= 1 << rng.randrange(8)
        yield f"flip in byte {place}", bytes(flipped)
    yield "twice", data + data
    yield "zeros", bytes(size)
    yield "noise", rng.randbytes(size)
    yield "web page", b"<!DOCTYPE html><p>Not there"
    yield "git-lfs", POINTER
    yield "pickle", pickle.dumps(Command())
    yield from [("folder", None), ("link to nothing", "nothing")]
    yield from [("link outside", "/etc/passwd"), ("endless link", "/dev/zero")]
    kinds = {".json": _json, ".jsonl": _lines, ".yaml": _yaml, ".zip": _archives}
    kinds |= {".csv": _tables, ".tsv": _tables, ".npy": _npy, ".pt": _torch}
    kinds |= {".pth": _torch, ".bin": _torch, ".safetensors": _safetensors}
    kinds |= {".png": _pictures}
    yield from kinds.get(path.suffix, lambda _: ())(path)


def _wrong(value: dict | list, n: int, place: str = "") -> Iterator[tuple[str, object]]:
    """Yield copies of nested values, each with one part missing or wrong."""
    for key in value if isinstance(value, dict) else range(min(1, len(value))):
        rest = deepcopy(value)
        del rest[key]
        yield f"without {place}{key}", rest
        for item in random.Random(f"{place}{key}").sample(WRONG, n):
            yield f"{place}{key} = {item!r}", _with(value, key, item)
        if isinstance(value[key], dict | list):
            for name, inner in _wrong(value[key], n, f"{place}{key}."):
                yield name, _with(value, key, inner)


def _with(value: dict | list, key: object, item: object) -> dict | list:
    changed = deepcopy(value)
    changed[key] = item
    return changed


def _texts(path: Path) -> Iterator[Version]:
    data = path.read_bytes()
    yield "in UTF-16", data.decode().encode("utf-16")
    yield "with Latin-1", data + b"\xe9\n"
    yield "with NUL", data + b"\0"
    yield "deep", DEEP
    yield "byte-order mark", b"\xef\xbb\xbf" + data
    yield "lines of Windows", data.replace(b"\n", b"\r\n")


def _json(path: Path) -> Iterator[Version]:
    yield from _texts(path)
    for name, changed in _wrong(json.loads(path.read_bytes()), 3):
        yield name, json.dumps(changed).encode()


def _lines(path: Path) -> Iterator[Version]:
    yield from _texts(path)
    first, _, rest = path.read_bytes().partition(b"\n")
    lines = {"blank": b"", "a line twice": first, "null": b"null", "list": b"[]"}
    lines |= {
        "number": b"7",
        "deep line": DEEP,
        "half a pair": b'{"caption": "\\ud800"}',
    }
    for name, line in lines.items():
        yield name, b"\n".join([first, line, rest])
    for name, changed in _wrong(json.loads(first), len(WRONG)):
        yield name, json.dumps(changed).encode() + b"\n" + rest


def _yaml(path: Path) -> Iterator[Version]:
    yield from _texts(path)
    text = path.read_text()
    yield "anchors", (text + BOMB).encode()
    yield "object", (text + "x: !!python/object/apply:os.system [touch ran]").encode()
    yield "section twice", (text + "\nsampling: {steps: 3}\n").encode()
    yield "extends itself", text.replace("mini", str(path.resolve()), 1).encode()
    yield "extends another file", text.replace("mini", "/etc/passwd", 1).encode()
    yield "with tabs", text.replace("  ", "\t").encode()
    for name, changed in _wrong(yaml.safe_load(text), 1):
        yield name, yaml.safe_dump(changed).encode()


def _tables(path: Path) -> Iterator[Version]:
    yield from _texts(path)
    style = {"sep": "," if path.suffix == ".csv" else "\t", "index": False}
    table, lines = pd.read_csv(path, sep=style["sep"], dtype=str), path.read_bytes()
    yield "open quote", lines + b'"'
    yield "header only", lines.splitlines()[0]
    yield "other separator", lines.replace(style["sep"].encode(), b";")
    yield "last row twice", lines + lines.splitlines()[-1]
    yield "reversed", table[::-1].to_csv(**style).encode()
    for column in table:
        yield f"without {column}", table.drop(columns=column).to_csv(**style).encode()
        for cell in ("", "x", "-1", "11.5", "1e30", "nan", "../../x.jpg"):
            changed = table.copy()
            changed.loc[0, column] = cell
            yield f"{column} = {cell}", changed.to_csv(**style).encode()


def _arrays(array: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    for kind in ("<f8", ">f8", "<i4", "<c16", "?", "<U3", "<M8[s]", "O"):
        yield f"type {kind}", array.astype(kind)
    yield "by column", np.asfortranarray(array)
    yield "narrower", array[..., :-1]
    yield from [("deeper", array[None]), ("flatter", array[0]), ("empty", array[:0])]
    for item in (np.nan, np.inf):
        changed = array.copy()
        changed.flat[len(changed.flat) // 2] = item
        yield f"a value {item}", changed


def _npy(path: Path) -> Iterator[Version]:
    data = path.read_bytes()
    if not data.startswith(b"\x93NUMPY") or b"'|O'" in data[:128]:
        yield from _dictionaries(path)
        return
    for name, changed in _arrays(np.load(path)):
        yield name, _written(np.save, changed)
    for shape in ("(-1,)", "(10**9,)", "(99999999999,)", "('a',)", "7", "None"):
        header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"
        begin = data[:8] + len(header).to_bytes(2, "little") + header.encode()
        yield f"shape {shape}", begin + data[128:]


def _dictionaries(path: Path) -> Iterator[Version]:
    bare = path.read_bytes()[:1] == b"\x80"
    content = np.load(path, allow_pickle=True)
    content = content if bare else content.item()

    def written(value):
        return pickle.dumps(value) if bare else _written(np.save, value)

    for key, value in content.items():
        for name, changed in _arrays(value) if isinstance(value, np.ndarray) else ():
            yield f"{key}: {name}", written(content | {key: changed})
    for name, changed in _wrong(content, 4):
        yield name, written(changed)
    yield "command within", written(content | {"x": Command()})
    yield from PROGRAMS.items()


def _written(save_as, content: object) -> bytes:
    """Return what ``np.save`` or ``torch.save`` writes."""
    stream = io.BytesIO()
    save_as(*((stream, content) if save_as is np.save else (content, stream)))
    return stream.getvalue()


def _tensors(content: dict) -> Iterator[tuple[str, dict]]:
    names = [name for name, value in content.items() if torch.is_tensor(value)]
    for name in {names[0]: 0, names[-1]: 0}:
        tensor, rest = content[name], {k: v for k, v in content.items() if k != name}
        yield f"without {name}", rest
        yield f"{name} renamed", rest | {"x." + name: tensor}
        versions = {"doubles": tensor.double(), "whole": tensor.int()}
        versions |= {"complex": tensor + 0j, "8 bits": tensor.to(torch.float8_e4m3fn)}
        versions |= {"deeper": tensor[None], "empty": tensor.flatten()[:0]}
        versions |= {"NaN": tensor * torch.nan, "infinite": tensor + torch.inf}
        for version, changed in versions.items():
            yield f"{name}: {version}", rest | {name: changed}
    yield "one tensor more", content | {"x.y": torch.zeros(2)}
    yield "no tensor", {}


def _safetensors(path: Path) -> Iterator[Version]:
    for name, changed in _tensors(load_file(path)):
        yield name, save(changed)
    data = path.read_bytes()
    for length in (0, 2**40, 2**63):
        yield f"header of {length} bytes", length.to_bytes(8, "little") + data[8:]
    yield "deep header", len(DEEP).to_bytes(8, "little") + DEEP
    yield "offsets", data.replace(b'"data_offsets":[0,', b'"data_offsets":[9,', 1)


def _torch(path: Path) -> Iterator[Version]:
    content = torch.load(path, weights_only=True)
    nested = isinstance(content.get("model"), dict)  # of MiniGPT-4
    for name, changed in _tensors(content["model"] if nested else content):
        yield name, _written(torch.save, {"model": changed} if nested else changed)
    wrong = {"list": [1], "tensor": torch.zeros(2), "None": None, "within": Command()}
    for name, value in (wrong | {"texts": dict.fromkeys(content, "x")}).items():
        yield name, _written(torch.save, value)


def _archives(path: Path) -> Iterator[Version]:
    link = ZipInfo("images/link")
    link.external_attr = 0o120777 << 16
    members = {
        "climbs": ["images/../../../evil"],
        "climbs twice": ["../images/../../evil"],
    }
    members |= {
        "absolute": ["/images/evil"],
        "device": ["images/x\0y"],
        "none": ["x/y"],
    }
    members |= {
        "file as folder": ["images/a", "images/a/b"],
        "link": [link, "images/link/x"],
    }
    members |= {"two for one": ["images/a.jpg", "top/images/a.jpg"], "empty": []}
    members |= {
        "long name": ["images/" + "x" * 300],
        "backslashes": ["images\\..\\evil"],
    }
    for name, files in members.items():
        stream = io.BytesIO()
        with ZipFile(stream, "w", ZIP_DEFLATED) as archive:
            for file in files:
                archive.writestr(file, "/etc/passwd")
        yield name, stream.getvalue()
    data = path.read_bytes()
    for name, old, new in (("deflate64", 0, 9), ("unknown method", 0, 77)):
        yield (
            name,
            data.replace(
                b"PK\1\2\x14\3\x14\0\0\0%c" % old, b"PK\1\2\x14\3\x14\0\0\0%c" % new
            ),
        )


def _pictures(path: Path) -> Iterator[Version]:
    yield (
        "PostScript",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(ran) (w) file\n",
    )
    yield "SVG", b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>"
    data = path.read_bytes()
    yield "huge", data[:16] + (10**5).to_bytes(4, "big") * 2 + data[24:]
    image = Image.open(path)
    for name, options in {
        "profile": {"icc_profile": b"x" * 99},
        "EXIF": {"exif": b"Exif\0\0x"},
    }.items():
        stream = io.BytesIO()
        image.save(stream, "PNG", **options)
        yield f"damaged {name}", stream.getvalue()
