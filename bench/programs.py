#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What unmodified programs pay: for the shim while all is local, and for memory that is far.

usage: programs.py SPIRITOS ZRAM_RUN [--part cost|far] [--runs N] [--small] [--json FILE] [NAME...]

  cost   a program with jemalloc preloaded, and by `spiritos run` with a budget above its set;
         with huge pages as the system has them and without
  far    a quarter of what it uses at most in local memory: by `spiritos run` over a memory
         server of this machine (shm), and in a memory cgroup of that size with swap on zram
         (LZ4; the better of page-cluster 0 and 3); excess is the time beyond that of the
         program as it is

Runs take turns; figures are medians of ratios within a turn, with the quartiles. CPU seconds
are the program's own; a kernel thread's are nobody's. Exits with 77 where this cannot run.
"""

import argparse
import contextlib
import glob
import json
import os
import pathlib
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "test" / "e2e"))
import memory_server  # noqa: E402
import programs_test  # noqa: E402
import redis_test  # noqa: E402

HUGE_PAGES = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
COST_PROGRAMS = ("sort", "xz", "gcc", "perl", "sqlite", "python dict", "redis")
FAR_PROGRAMS = ("redis", "sqlite", "sort", "python dict")
CLIENT_CPU = 1
MOST_REPEATS = 3


def redis(folder, scale):
    """GETs of keys by Zipf's law (exponent 0.99), 16 at a time; the client has a CPU of its own."""
    keys, size, batches = (300_000, 1000, 15_000) if scale else (20_000, 1000, 3_000)
    chance = random.Random(9)
    weights = [1 / rank ** 0.99 for rank in range(1, keys + 1)]
    order = list(range(keys))
    chance.shuffle(order)
    asked = chance.choices(order, weights, k=batches * 16)

    def value(key):
        return (b"%d:" % key * size)[:size]
    requests = [b"".join(b"*2\r\n$3\r\nGET\r\n$7\r\n%07d\r\n" % key for key in asked[i:i + 16])
                for i in range(0, len(asked), 16)]
    reply_size = 16 * (len(b"$%d\r\n" % size) + size + 2)
    path = pathlib.Path(folder, "redis.sock")
    program = pathlib.Path(folder, "redis-server")
    program.symlink_to(redis_test.REDIS)

    def job(run):
        path.unlink(missing_ok=True)
        server = run.start(["taskset", "-c", "0", program, "--port", "0", "--unixsocket", path, "--save", ""],
                           stdout=subprocess.DEVNULL)
        mine = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {CLIENT_CPU})
        try:
            while True:
                if server.poll() is not None:
                    raise programs_test.Failure(f"redis ended with {server.returncode}")
                with contextlib.suppress(OSError):
                    client = redis_test.Client(path)
                    break
                time.sleep(0.02)  # Until it listens.
            for first in range(0, keys, 500):
                client.batch([[b"SET", b"%07d" % key, value(key)] for key in range(first, min(first + 500, keys))])
            buffer = bytearray(reply_size)
            wrong = 0
            begin = time.monotonic()
            for i, request in enumerate(requests):
                client.socket.sendall(request)
                at = 0
                while at < reply_size:
                    at += client.socket.recv_into(memoryview(buffer)[at:])
                wrong += value(asked[16 * i]) != bytes(buffer[len(b"$%d\r\n" % size):][:size])
            run.seconds = time.monotonic() - begin
            client.socket.sendall(b"*2\r\n$8\r\nSHUTDOWN\r\n$6\r\nNOSAVE\r\n")
            client.close()
        finally:
            os.sched_setaffinity(0, mine)
        run.finish(server)
        return wrong
    return job


PREPARE = {**programs_test.PROGRAMS, "redis": redis}


class Turn:
    """One run of a job: its result, time, CPU time, most memory."""

    def __init__(self, folder, job, prefix):
        run = programs_test.Run(folder, prefix)
        run.seconds = None
        begin = time.monotonic()
        self.result = job(run)
        self.seconds = run.seconds or time.monotonic() - begin
        self.cpu_s, self.peak, self.evicted = run.cpu_s, run.peak, run.evicted


class Killed(Exception):
    """By the kernel, for want of memory."""


def rival_turn(folder, job, prefix, kills):
    """Of zram, which the kernel may kill although its swap is mostly free: again, and counted."""
    for _ in range(1 + MOST_REPEATS):
        try:
            return Turn(folder, job, prefix)
        except programs_test.Failure as why:
            if not re.search(r"oom_kills [1-9]", str(why)):
                raise
            kills.append(1)
    raise Killed


def spread(values):
    if len(values) < 2:
        return f"{values[0]:.3f}"
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.3f} ({low:.3f}-{high:.3f})"


def same(turns):
    """All with the same results, or the figures mean nothing."""
    if any(turn.result != turns[0].result for turn in turns):
        raise programs_test.Failure("the results differ")


@contextlib.contextmanager
def huge_pages(setting):
    before = HUGE_PAGES.read_text().split("[")[1].split("]")[0]
    HUGE_PAGES.write_text(setting)
    try:
        yield
    finally:
        HUGE_PAGES.write_text(before)


def jemalloc():
    found = glob.glob("/usr/lib/*/libjemalloc.so.2")
    if not found:
        raise programs_test.Skip("no libjemalloc.so.2")
    return ["env", f"LD_PRELOAD={found[0]}"]


def cost_rows(folder, name, job, options):
    first = Turn(folder, job, ())
    shim = programs_test.far_prefix(options.spiritos, max(64 << 20, 4 * first.peak))
    rows = []
    system = HUGE_PAGES.read_text().split("[")[1].split("]")[0]
    for setting in dict.fromkeys((system, "never")):
        pairs = []
        with huge_pages(setting):
            for turn in range(options.runs):
                order = (jemalloc(), shim) if turn % 2 == 0 else (shim, jemalloc())
                pair = [Turn(folder, job, prefix) for prefix in order]
                pairs.append(pair if turn % 2 == 0 else pair[::-1])
                same([first, *pair])
        if any(shimmed.evicted for _, shimmed in pairs):
            raise programs_test.Failure("not all of it was local")
        rows.append({"program": name, "huge pages": setting,
                     "seconds": f"{statistics.median(plain.seconds for plain, _ in pairs):.2f}",
                     "wall": spread([shimmed.seconds / plain.seconds for plain, shimmed in pairs]),
                     "CPU": spread([shimmed.cpu_s / plain.cpu_s for plain, shimmed in pairs]),
                     "memory": spread([shimmed.peak / plain.peak for plain, shimmed in pairs])})
    return rows


def far_rows(folder, name, job, options):
    first = Turn(folder, job, ())
    local = max(4 << 20, first.peak // 4)
    with memory_server.local_pool(options.spiritos, str(4 * first.peak + (1 << 30))) as pool:
        ours = programs_test.far_prefix(options.spiritos, local, pool)
        rivals = [[options.zram_run, "--local", str(local), "--disk", str(4 * first.peak), "--page-cluster", str(cluster)]
                  for cluster in (0, 3)]
        kills = []
        turns = []
        try:
            tried = [rival_turn(folder, job, rival, kills) for rival in rivals]
            best = min(range(2), key=lambda i: tried[i].seconds)
            starts = [lambda: Turn(folder, job, ()), lambda: Turn(folder, job, ours),
                      lambda: rival_turn(folder, job, rivals[best], kills)]
            for turn in range(options.runs):
                done = {(turn + i) % 3: starts[(turn + i) % 3]() for i in range(3)}
                same([first, *done.values()])
                turns.append([done[i] for i in range(3)])
        except Killed:
            print(f"    zram was killed {len(kills)} times")
            return []
    if not all(far.evicted for _, far, _ in turns):
        raise programs_test.Failure("nothing was far")
    return [{"program": name, "memory": f"{first.peak >> 20} MiB",
             "as it is": f"{statistics.median(plain.seconds for plain, _, _ in turns):.2f} s",
             "far": f"{statistics.median(far.seconds for _, far, _ in turns):.2f} s",
             "zram": f"{statistics.median(zram.seconds for _, _, zram in turns):.2f} s, cluster {(0, 3)[best]}, "
                     f"{len(kills)} kills",
             "excess, far/zram": spread([(far.seconds - plain.seconds) / max(zram.seconds - plain.seconds, 1e-3)
                                         for plain, far, zram in turns]),
             "CPU, far/zram": spread([far.cpu_s / zram.cpu_s for _, far, zram in turns])}]


def print_table(rows):
    print("\n| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(row.values()) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("spiritos", type=os.path.abspath)
    parser.add_argument("zram_run", type=os.path.abspath)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(dict.fromkeys(COST_PROGRAMS + FAR_PROGRAMS)))
    parser.add_argument("--part", choices=("cost", "far"))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--json")
    options = parser.parse_intermixed_args()
    unknown = set(options.names) - set(PREPARE)
    if unknown:
        parser.error(f"unknown programs {', '.join(sorted(unknown))}")
    memory_server.skip_without_threads(options.spiritos)
    tables = {}
    failed = []
    for part, rows_of, names in (("cost", cost_rows, COST_PROGRAMS), ("far", far_rows, FAR_PROGRAMS)):
        if options.part not in (None, part):
            continue
        rows = []
        for number, name in enumerate(options.names or names, 1):
            print(f"{part} [{number}/{len(options.names or names)}] {name}", flush=True)
            with tempfile.TemporaryDirectory(prefix="programs-") as folder:
                try:
                    rows += rows_of(folder, name, PREPARE[name](folder, not options.small), options)
                except programs_test.Skip as why:
                    print(f"    skipped: {why}")
                except programs_test.Failure as why:
                    print(f"    FAILED: {why}")
                    failed.append(name)
        if rows:
            print_table(rows)
        tables[part] = rows
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(tables, indent=1))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
