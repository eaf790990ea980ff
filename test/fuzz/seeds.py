#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the corpus: real frames and greetings, and conversations as commands.

usage: seeds.py [FOLDER]     (default: corpus/ beside this file)

What fuzzing has added to the corpus stays; seeds have names, finds have hashes.
"""

import pathlib
import struct
import sys

HELLO, PLACE, RELEASE, SHARE, READ, WRITE, FORGET, FENCE, PING, ADOPT = range(1, 11)
FRAME, RAW, TAKE, PIECE, TURN_TO, REOPEN, FILE = range(7)
VICTIM, OWN, OTHER, PLACED = range(1, 5)
REPLY, TRAILERS = 1, 2
PAGE, TRAILER = 4096, 8
BAD_LENGTH, BAD_BYTE, SEALED_BYTE, BAD_PAGE, BAD_PAYLOAD = 1, 2, 4, 8, 16


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def header(op, flags=0, status=0, pages=0, payload=0, version=2, slab=OWN):
    body = struct.pack("<IHBBIIQQIIIIQI", 0x314D5053, version, op, flags, status, 0, 7, slab, 1,
                       3, pages, payload, 0, 0)
    return body + struct.pack("<I", crc32c(body))


def hello(role, tenant=b"batch-7"):
    return struct.pack("<HHI16s16s64s", 1, 2, role, b"c" * 16, b"t" * 16, tenant).ljust(128, b"\0")


def welcome():
    return struct.pack("<HHI16s16s16sQQQI", 2, 0, 60000, b"s" * 16, b"h" * 16, b"t" * 16, 8, 1, 0,
                       64).ljust(128, b"\0")


def frame(op, slab=OWN, first=0, pages=0, flags=0, id=1, epoch=1, spoil=0, value=9):
    coded = pages if pages < 4 else pages + 190
    return struct.pack("<BBBBBBHBBB", FRAME, op, flags, id, slab, epoch, first, coded, spoil, value)


def turn(to):
    return bytes([TURN_TO, to])


def take(n=0xFFFF):
    return struct.pack("<BH", TAKE, n)


def piece(n):
    return struct.pack("<BH", PIECE, n)


def raw(data):
    return b"".join(bytes([RAW, len(part)]) + part
                    for part in (data[i:i + 255] for i in range(0, len(data), 255)))


FRAMES = {
    "ping": header(PING),
    "read": header(READ, flags=TRAILERS, pages=4),
    "read_reply": header(READ, flags=REPLY, pages=2, payload=2 * PAGE),
    "write": header(WRITE, pages=3, payload=3 * (PAGE + TRAILER)),
    "refused": header(RELEASE, flags=REPLY, status=4),
    "old": header(FORGET, pages=1, version=1),
    "share_when_old": header(SHARE, version=1),
    "hello_header": header(HELLO, payload=128),
    "hello": hello(0),
    "hello_lane": hello(2),
    "hello_long_name": hello(0, b"x" * 64),
    "welcome": welcome(),
}

SESSIONS = {
    "write_read": frame(WRITE, pages=3) + frame(READ, pages=4, flags=TRAILERS) + take(),
    "pieces": piece(6) + frame(WRITE, pages=1) + frame(READ, pages=1) + take(100) + piece(4096)
    + frame(READ, pages=2),
    "place_use_release": frame(PLACE, slab=0, id=1) + frame(WRITE, slab=PLACED, pages=2)
    + frame(READ, slab=PLACED, pages=2) + frame(RELEASE, slab=PLACED, id=2)
    + frame(READ, slab=PLACED, pages=1),
    "asked_again": frame(PLACE, slab=0, id=5) + bytes([REOPEN]) + frame(PLACE, slab=0, id=5)
    + frame(PLACE, slab=0, id=4),
    "theft": b"".join(frame(op, slab=slab, pages=1, id=op) for slab in (VICTIM, OTHER)
                      for op in (READ, WRITE, FORGET, RELEASE, SHARE, FENCE)),
    "shared": frame(SHARE, id=1) + frame(RELEASE, id=2) + frame(READ, pages=1)
    + frame(RELEASE, id=3) + frame(READ, pages=1),
    "fenced": frame(FENCE, epoch=3) + frame(WRITE, pages=1) + frame(READ, pages=1, epoch=3),
    "held": frame(READ, pages=64) + frame(RELEASE, id=1) + take(5000),
    "written_while_released": piece(200) + frame(WRITE, pages=2) + turn(1)
    + frame(RELEASE, id=1) + frame(READ, pages=1),
    "overtaken": frame(WRITE, pages=1, value=9) + turn(1) + frame(WRITE, pages=3, value=5)
    + frame(READ, pages=3),
    "edges": frame(READ, first=16383, pages=1) + frame(READ, first=16383, pages=2)
    + frame(READ, first=16384, pages=1) + frame(READ, pages=0) + frame(READ, pages=64)
    + frame(WRITE, first=65535, pages=64),
    "too_many": frame(READ, pages=65),
    "full": frame(READ, pages=1) * 70 + take() + frame(PING) * 70,
    "full_then_nonsense": frame(READ, pages=1) * 64 + frame(PING, spoil=BAD_BYTE) + take(),
    "spoilt_length": frame(WRITE, pages=1, spoil=BAD_LENGTH),
    "spoilt_byte": frame(READ, pages=1, spoil=BAD_BYTE),
    "spoilt_and_sealed": frame(READ, pages=1, spoil=SEALED_BYTE, value=6),
    "spoilt_page": frame(WRITE, pages=2, spoil=BAD_PAGE) + frame(READ, pages=1),
    "spoilt_trailers": frame(WRITE, pages=2, spoil=BAD_PAYLOAD) + frame(READ, pages=1),
    "adopt": bytes([FILE, 0]) + frame(ADOPT, id=1) + frame(READ, slab=PLACED, pages=1)
    + bytes([FILE, 1]) + frame(ADOPT, id=2) + frame(ADOPT, id=3),
    "quota": b"".join(frame(PLACE, slab=0, id=i) for i in range(1, 7)),
    "greeting_again": frame(HELLO),
    "reply": frame(READ, pages=1, flags=REPLY),
    "raw": raw(header(PING) + header(READ, pages=1)) + take(),
    "raw_nonsense": raw(b"GET / HTTP/1.1\r\n\r\n" + b"x" * 100),
    "forget": frame(WRITE, pages=4) + frame(FORGET, pages=2) + frame(READ, pages=4, flags=TRAILERS),
}


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent
                          / "corpus")
    for target, seeds in ("frame", FRAMES), ("session", SESSIONS):
        (folder / target).mkdir(parents=True, exist_ok=True)
        for name, data in seeds.items():
            (folder / target / name).write_bytes(data)


if __name__ == "__main__":
    main()
