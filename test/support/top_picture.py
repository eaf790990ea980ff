#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draws runtime/cli/top.svg: what `spiritos top` shows of three programs.

usage: unshare --pid --fork --mount-proc /usr/bin/python3 top_picture.py SPIRITOS FILE.svg

Needs Debian's python3-pyte; in a PID namespace of its own, so that nobody else is in the picture.
"""

import contextlib
import fcntl
import html
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time

import pyte

COLUMNS, LINES, SECONDS = 132, 9, 24
CELL_W, CELL_H, MARGIN = 7.8, 17, 10

# One that goes through all its memory, one that goes back to what it had, one that fits.
WALK = "d = bytearray(192 << 20)\nwhile True:\n    for i in range(0, len(d), 4096): d[i] = (d[i] + 1) % 256\n"
HOP = ("import random\nd = bytearray(96 << 20)\nwhile True:\n    at = random.randrange(0, len(d) >> 12) << 12\n"
       "    d[at] = (d[at] + 1) % 256\n    sum(range(500))\n")
FIT = "d = bytearray(32 << 20)\nwhile True: sum(d)\n"


@contextlib.contextmanager
def program(spiritos, local, code):
    process = subprocess.Popen([spiritos, "run", "--quiet", "--local", local, "--", "/usr/bin/python3", "-c", code])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def screen_of(spiritos):
    screen = pyte.Screen(COLUMNS, LINES)
    stream = pyte.ByteStream(screen)
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update({"TERM": "linux", "LC_ALL": "C.UTF-8", "LINES": str(LINES), "COLUMNS": str(COLUMNS)})
        os.execv(spiritos, [spiritos, "top"])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        ready, _, _ = select.select([terminal], [], [], 0.1)
        if ready:
            stream.feed(os.read(terminal, 65536))
    os.write(terminal, b"q")
    os.waitpid(pid, 0)
    return screen


def svg_of(screen):
    width, height = COLUMNS * CELL_W + 2 * MARGIN, LINES * CELL_H + 2 * MARGIN
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
           'font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="13">',
           '<rect width="100%" height="100%" rx="6" fill="#1b1f24"/>']
    for y in range(LINES):
        cells = [screen.buffer[y][x] for x in range(COLUMNS)]
        top = MARGIN + y * CELL_H
        reverse = cells[0].reverse
        if reverse:
            out.append(f'<rect x="{MARGIN}" y="{top}" width="{COLUMNS * CELL_W:.1f}" height="{CELL_H}" fill="#d0d7de"/>')
        text = "".join(cell.data for cell in cells).rstrip()
        if text:
            out.append(f'<text x="{MARGIN}" y="{top + 13}" xml:space="preserve" '
                       f'textLength="{len(text) * CELL_W:.1f}" '
                       f'fill="{"#1b1f24" if reverse else "#d0d7de"}">{html.escape(text)}</text>')
    return "\n".join(out + ["</svg>", ""])


def main():
    spiritos, path = os.path.abspath(sys.argv[1]), sys.argv[2]
    with program(spiritos, "48M", WALK), program(spiritos, "24M", HOP), program(spiritos, "256M", FIT):
        picture = svg_of(screen_of(spiritos))
    with open(path, "w", encoding="utf-8") as file:
        file.write(picture)


main()
