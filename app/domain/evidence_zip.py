"""The container of an evidence pack: a zip whose every byte follows from the names and contents of its files.

Files are stored without compression, in the order given, with a fixed time and fixed attributes. So a pack can be encoded
again from what was read, and any byte that differs lies in a place that can be named, also where no file's content is:
in a local header, in the directory, in front of them or behind them.
"""

import io
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from app.domain.evidence import PackFault

SIZE_MAX: Final = 64 * 2**20
"""Bytes of a pack; a bigger upload is refused before anything is read."""
FILES_MAX: Final = 64
CONTAINER: Final = "(zip)"
"""Name under which a fault of the container itself is reported."""

BLOCK: Final = 4_096
FAR: Final = 100_000
"""Differing bytes from which it does not matter how many more there are."""

_LOCAL: Final = struct.Struct("<4sHHHHHLLLHH")
_CENTRAL: Final = struct.Struct("<4sHHHHHHLLLHHHHHLL")
_END: Final = struct.Struct("<4sHHHHLLH")
_VERSION, _FLAGS, _STORED, _TIME, _DATE = 20, 0x0800, 0, 0, 0x0021
_MADE_BY: Final = 3 << 8 | _VERSION
_ATTRIBUTES: Final = 0o100644 << 16


def write_zip(files: Mapping[str, bytes]) -> bytes:
    """The zip of some files; equal files in equal order give equal bytes."""
    body, directory = bytearray(), bytearray()
    for name, content in files.items():
        raw, crc, size, offset = name.encode(), zlib.crc32(content), len(content), len(body)
        body += _LOCAL.pack(b"PK\x03\x04", _VERSION, _FLAGS, _STORED, _TIME, _DATE, crc, size, size, len(raw), 0) + raw + content
        directory += _CENTRAL.pack(
            b"PK\x01\x02",
            _MADE_BY,
            _VERSION,
            _FLAGS,
            _STORED,
            _TIME,
            _DATE,
            crc,
            size,
            size,
            len(raw),
            0,
            0,
            0,
            0,
            _ATTRIBUTES,
            offset,
        )
        directory += raw
    end = _END.pack(b"PK\x05\x06", 0, 0, len(files), len(files), len(directory), len(body), 0)
    return bytes(body + directory + end)


@dataclass(frozen=True, slots=True)
class Opened:
    """What could be read of a zip, and what is wrong with the container itself."""

    files: dict[str, bytes]
    faults: tuple[PackFault, ...]


def read_zip(data: bytes) -> Opened:
    """Read a pack; total over any bytes. A container that differs from what `write_zip` makes of its files has a fault."""
    if len(data) > SIZE_MAX:
        return Opened({}, (PackFault(CONTAINER, "too_large"),))
    walked = _by_headers(data)
    if walked and write_zip(walked) == data:
        return Opened(walked, ())
    readings = [found for found in (walked, _by_directory(data)) if found]
    best = min(readings, key=lambda files: _distance(files, data), default=None)
    if best is not None and len(write_zip(best)) == len(data):
        return Opened(best, _container_faults(best, data))
    other = _by_library(data)
    files = other if other is not None else (best or {})
    return Opened(files, (PackFault(CONTAINER, "rewritten" if files else "not_a_pack"),))


def _by_headers(data: bytes) -> dict[str, bytes]:
    """Files by walking the local headers from the first byte."""
    files: dict[str, bytes] = {}
    at = 0
    while data[at : at + 4] == b"PK\x03\x04" and at + _LOCAL.size <= len(data) and len(files) < FILES_MAX:
        fields = _LOCAL.unpack_from(data, at)
        size, name_size = fields[8], fields[9]
        start = at + _LOCAL.size + name_size
        name = _name(data[at + _LOCAL.size : start])
        if name is None or start + size > len(data) or name in files:
            return files
        files[name] = data[start : start + size]
        at = start + size
    return files


def _by_directory(data: bytes) -> dict[str, bytes]:
    """Files by the directory at the end."""
    files: dict[str, bytes] = {}
    if len(data) < _END.size:
        return files
    end = _END.unpack_from(data, len(data) - _END.size)
    at, stop = end[6], len(data) - _END.size
    while at + _CENTRAL.size <= stop and data[at : at + 4] == b"PK\x01\x02" and len(files) < FILES_MAX:
        fields = _CENTRAL.unpack_from(data, at)
        size, name_size, offset = fields[9], fields[10], fields[16]
        name = _name(data[at + _CENTRAL.size : at + _CENTRAL.size + name_size])
        start = offset + _LOCAL.size + name_size
        if name is None or start + size > len(data) or name in files:
            return files
        files[name] = data[start : start + size]
        at += _CENTRAL.size + name_size
    return files


def _name(raw: bytes) -> str | None:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None


def _by_library(data: bytes) -> dict[str, bytes] | None:
    """Files as any zip program sees them, of a container that is not ours any more."""
    files: dict[str, bytes] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            if len(infos) > FILES_MAX or sum(info.file_size for info in infos) > SIZE_MAX:
                return None
            for info in infos:
                files[info.filename] = archive.read(info)
    except (
        zipfile.BadZipFile,
        zlib.error,
        OSError,
        EOFError,
        NotImplementedError,
        RuntimeError,
        ValueError,
        UnicodeError,
        struct.error,
    ):
        return None
    return files


def _distance(files: Mapping[str, bytes], data: bytes) -> int:
    """How many bytes differ from the container that these files would have."""
    again = write_zip(files)
    found = 1_000 * abs(len(again) - len(data))
    for at in range(0, min(len(again), len(data)), BLOCK):
        ours, theirs = again[at : at + BLOCK], data[at : at + BLOCK]
        if ours != theirs:
            found += sum(a != b for a, b in zip(ours, theirs, strict=False))
        if found > FAR:
            break
    return found


def _container_faults(files: Mapping[str, bytes], data: bytes) -> tuple[PackFault, ...]:
    """Names what differs outside the contents: `header_changed` or `directory_changed`, at most once a file."""
    again = write_zip(files)
    faults: dict[PackFault, None] = {}
    at = 0
    for name, content in files.items():
        head = at + _LOCAL.size + len(name.encode())
        if again[at:head] != data[at:head]:
            faults[PackFault(name, "header_changed")] = None
        at = head + len(content)
    for name in files:
        stop = at + _CENTRAL.size + len(name.encode())
        if again[at:stop] != data[at:stop]:
            faults[PackFault(name, "directory_changed")] = None
        at = stop
    if again[at:] != data[at:]:
        faults[PackFault(CONTAINER, "directory_changed")] = None
    return tuple(faults)
