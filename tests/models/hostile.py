"""Files written byte by byte, as no honest program would."""

import pickle
import struct
import zipfile

import torch

STORAGE = b"ctorch\nFloatStorage\n"
VIEW = b"\x97"  # a mark for the sixth part of a storage's name, which only old files have


def text(value):
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value):
    return pickle.dumps(value, 2)[2:-1]


def tensor(key="0", declared=4, shape=(4,), stride=(1,), offset=0, rebuild="_rebuild_tensor_v2"):
    """The pickle of one float tensor on the storage ``key``, sizes as declared."""
    persistent = (
        b"(" + text("storage") + STORAGE + text(key) + text("cpu") + number(declared) + VIEW + b"tQ"
    )
    arguments = b"(" + persistent + number(offset) + number(shape) + number(stride)
    return b"ctorch._utils\n" + rebuild.encode() + b"\n" + arguments + b"\x89}tR"


def state(**entries):
    """The pickle of a dict of pickled values."""
    items = b"".join(text(key) + value for key, value in entries.items())
    return b"\x80\x02}(" + items + b"u."


def archive(path, pickled, storages=None, compression=zipfile.ZIP_STORED):
    """A file in PyTorch's zip format with that pickle and those storages."""
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", pickled.replace(VIEW, b""))
        file.writestr("archive/byteorder", "little")
        for key, values in (storages or {"0": [1.0, 2.0, 3.0, 4.0]}).items():
            data = values if isinstance(values, bytes) else struct.pack(f"<{len(values)}f", *values)
            file.writestr(f"archive/data/{key}", data)
        file.writestr("archive/version", "3\n")
    return path


def legacy(path, pickled, keys=("0",), values=(1.0, 2.0, 3.0, 4.0), declared=None):
    """The same in the format before."""
    head = [torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION]
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    with path.open("wb") as file:
        for item in [*head, system]:
            pickle.dump(item, file, 2)
        file.write(pickled.replace(VIEW, b"N"))
        pickle.dump(list(keys), file, 2)
        for _ in keys:
            file.write(struct.pack("<q", len(values) if declared is None else declared))
            file.write(struct.pack(f"<{len(values)}f", *values))
    return path
