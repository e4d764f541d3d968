"""Recordings as CTF's acquisition writes them, which MNE reads but cannot write."""

import struct

import numpy as np

KINDS = {"ref_meg": 0, "mag": 5, "stim": 11, "misc": 18}  # CTF's numbers
STEPS = 2.0**56  # of a tesla
THIRD_GRADIENT = int.from_bytes(b"G3BR", "big")
COIL = [("place", ">f8", 4), ("normal", ">f8", 4), ("turns", ">i8"), ("area", ">f8")]
CHANNEL = [
    *(("kind", ">i2"), ("run", ">i2"), ("type", ">i4"), ("proper_gain", ">f8")),
    *(("steps", ">f8"), ("gain", ">f8"), ("offset", ">f8"), ("n_coils", ">i2")),
    *(("gradient", ">i2"), ("", ">i4"), ("coil", COIL, 8), ("head_coil", COIL, 8)),
]
WEIGHTS = [
    *(("sensor", "S32"), ("kind", ">i4"), ("", ">i4"), ("n", ">i2")),
    *(("references", "S31", 50), ("weights", ">f8", 50)),
]


def write_ctf(folder, raw):
    """Write a header (.res4) and integers (.meg4); sensors are third gradients."""
    folder.mkdir()
    kinds = np.array([KINDS[kind] for kind in raw.get_channel_types()])
    sensors, n_channels = np.flatnonzero(kinds == KINDS["mag"]), len(kinds)
    header = bytearray(1846)  # no filters
    header[778:783], header[1033:1043] = b"12:00", b"01/02/2020"
    sizes = raw.n_times, n_channels, raw.info["sfreq"], raw.times[-1], 1
    struct.pack_into(">ih2xddh", header, 1288, *sizes)
    channels, weights = np.zeros(n_channels, CHANNEL), np.zeros(len(sensors), WEIGHTS)
    channels["kind"], channels["proper_gain"] = kinds, 1
    channels["steps"] = np.where(kinds <= KINDS["mag"], STEPS, 1)
    channels["gradient"][sensors] = 3
    channels["coil"]["place"][:, :2, 2] = 10, 15  # cm
    channels["coil"]["normal"][:, :2, 2] = 1
    weights["sensor"] = np.array(raw.ch_names, "S32")[sensors]
    weights["kind"], weights["n"] = THIRD_GRADIENT, 1
    weights["references"][:, 0] = np.array(raw.ch_names, "S31")[kinds == 0]
    weights["weights"][:, 0] = 0.5
    names = [name.encode().ljust(32, b"\0") for name in raw.ch_names]
    count = struct.pack(">h", len(weights))
    parts = header, *names, channels.tobytes(), count, weights.tobytes()
    (folder / f"{folder.stem}.res4").write_bytes(b"".join(parts))
    steps = (raw.get_data() * channels["steps"][:, None]).clip(-(2**31), 2**31 - 1)
    content = b"MEG41CP\0" + np.rint(steps).astype(">i4").tobytes()
    (folder / f"{folder.stem}.meg4").write_bytes(content)
