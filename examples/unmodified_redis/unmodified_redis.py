#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""redis as Debian ships it, with a quarter of its memory local.

usage: unmodified_redis.py SPIRITOS [--pool POOL] [--keys N] [--local PERCENT]

Once as it is, once by `spiritos run`: values are stored; read by Zipf's law, 16 at a time;
saved by BGSAVE, whose forked child writes down memory as of the fork while every third
value is stored anew; read back, each; and the file that the child wrote is loaded by a redis
as it is and compared. Every value that redis returns is checked. While it runs, `spiritos
top` in another terminal shows what it does.
"""

import argparse
import contextlib
import os
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import time

from resp import Client

SERVER = "/usr/bin/redis-check-rdb"  # The same program: it is a server under the server's name.
VALUE_BYTES = 1000
BATCH = 500
PIPELINE = 16


class Trouble(Exception):
    pass


def value(key, version):
    unit = b"%d/%d;" % (key, version)
    return (unit * (VALUE_BYTES // len(unit) + 1))[:VALUE_BYTES]


class Bar:
    """One line, drawn anew while something takes long."""

    def __init__(self, what, total):
        self.what, self.total, self.done = what, total, 0
        self.begin = self.drawn = time.monotonic()

    def advance(self, count):
        self.done += count
        now = time.monotonic()
        if sys.stdout.isatty() and now - self.drawn > 0.1:
            self.drawn = now
            filled = 30 * self.done // self.total
            print(f"\r  {self.what:<42} [{'#' * filled}{'.' * (30 - filled)}] {self.done / (now - self.begin):9.0f}/s",
                  end="", flush=True)

    def end(self):
        seconds = time.monotonic() - self.begin
        clear = "\r" if sys.stdout.isatty() else ""
        print(f"{clear}  {self.what:<42} {seconds:6.2f} s, {self.total / seconds:9.0f}/s" + " " * 20, flush=True)
        return seconds


@contextlib.contextmanager
def redis(folder, prefix=()):
    """A server that listens and has loaded what it had saved."""
    path, program = pathlib.Path(folder, "redis.sock"), pathlib.Path(folder, "redis-server")
    if not program.exists():
        program.symlink_to(SERVER)
    path.unlink(missing_ok=True)
    with open(pathlib.Path(folder, "said"), "w+") as said:
        process = subprocess.Popen([*prefix, program, "--port", "0", "--unixsocket", path, "--dir", folder, "--save", "",
                                    "--rdbcompression", "no"], stdout=said, stderr=said)

        def trouble(what):
            said.seek(0)
            return Trouble(f"{what}; redis (status {process.poll()}) has said:\n{said.read()[-2000:]}")
        try:
            client = None
            while client is None or client.info("loading") != "0":
                if process.poll() is not None:
                    raise Trouble("it does not start")
                if client is None:
                    with contextlib.suppress(OSError):
                        client = Client(path)
                time.sleep(0.01)
            yield process, client
            client.socket.sendall(b"*2\r\n$8\r\nSHUTDOWN\r\n$6\r\nNOSAVE\r\n")
            client.close()
            if process.wait() != 0:
                raise Trouble("it does not end well")
        except (OSError, AssertionError, Trouble) as error:
            raise trouble(error) from error
        finally:
            process.kill()
            process.wait()


class Job:
    """The phases, each with its seconds; `wrong` counts values that are not what was stored."""

    def __init__(self, keys, asked):
        self.keys, self.asked = keys, asked
        self.seconds = {}
        self.wrong = self.checked = 0

    def store(self, client, what, keys, version):
        bar = Bar(what, len(keys))
        for i in range(0, len(keys), BATCH):
            part = keys[i:i + BATCH]
            client.batch([[b"SET", b"k%d" % key, value(key, version)] for key in part])
            bar.advance(len(part))
        self.seconds[what] = bar.end()

    def read(self, client, what, keys, version_of, pipeline):
        bar = Bar(what, len(keys))
        for i in range(0, len(keys), pipeline):
            part = keys[i:i + pipeline]
            replies = client.batch([[b"GET", b"k%d" % key] for key in part])
            self.wrong += sum(reply != value(key, version_of(key)) for key, reply in zip(part, replies))
            self.checked += len(part)
            bar.advance(len(part))
        self.seconds[what] = bar.end()

    def run(self, folder, prefix, stat):
        everything = range(self.keys)
        with redis(folder, prefix) as (process, client):
            self.store(client, "SET every key", everything, 0)
            self.peak = int(client.info("used_memory_rss"))
            self.read(client, f"GET by Zipf's law, {PIPELINE} at a time", self.asked, lambda key: 0, PIPELINE)
            begin = time.monotonic()
            client("BGSAVE")
            self.store(client, "SET every third key, during BGSAVE", range(0, self.keys, 3), 1)
            while client.info("rdb_bgsave_in_progress") != "0":
                time.sleep(0.01)
            if client.info("rdb_last_bgsave_status") != "ok":
                raise Trouble("BGSAVE failed")
            self.seconds["BGSAVE, until the file is there"] = time.monotonic() - begin
            self.read(client, "GET every key", everything, lambda key: int(key % 3 == 0), BATCH)
            self.figures = stat(process.pid)
        with redis(folder) as (_, client):
            self.read(client, "GET every key from the file, restarted", everything, lambda key: 0, BATCH)


def figures_of(spiritos, pid):
    done = subprocess.run([spiritos, "stat", str(pid)], capture_output=True, text=True)
    if done.returncode != 0:
        raise Trouble(done.stderr)
    return {name: float(figure) for name, figure in re.findall(r"^(\w+) ([0-9.]+)$", done.stdout, re.M)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("spiritos", type=os.path.abspath)
    parser.add_argument("--pool", default="embedded:")
    parser.add_argument("--keys", type=int, default=120_000)
    parser.add_argument("--local", type=int, default=25, help="percent of what it uses as it is")
    options = parser.parse_args()
    if not os.path.exists(SERVER):
        print("skipped: no redis (apt-get install redis-tools)")
        return 77
    probe = subprocess.run([options.spiritos, "run", "--quiet", "--", "true"], capture_output=True, text=True)
    if probe.returncode != 0:
        print(f"skipped: {probe.stderr.strip()}")
        return 77
    chance = random.Random(1)
    order = list(range(options.keys))
    chance.shuffle(order)
    asked = chance.choices(order, [1 / rank ** 0.99 for rank in range(1, options.keys + 1)], k=options.keys)
    plain, far = Job(options.keys, asked), Job(options.keys, asked)
    try:
        print(f"redis as it is, {options.keys} values of {VALUE_BYTES} bytes", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            plain.run(folder, (), lambda pid: {})
        local = plain.peak * options.local // 100
        prefix = [options.spiritos, "run", "--quiet", "--local", str(local), "--pool", options.pool, "--"]
        print(f"\nredis by `spiritos run --local {local >> 20}M`", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            far.run(folder, prefix, lambda pid: figures_of(options.spiritos, pid))
    except Trouble as trouble:
        print(f"\nunmodified_redis: {trouble}", file=sys.stderr)
        return 1
    print(f"\n{'':<42} {'as it is':>9} {f'{options.local} % local':>12} {'ratio':>6}")
    for what, seconds in plain.seconds.items():
        print(f"{what:<42} {seconds:>7.2f} s {far.seconds[what]:>10.2f} s {far.seconds[what] / seconds:>6.2f}")
    resident = int(far.figures["used_frames"]) * 4096 >> 20
    print(f"{'memory':<42} {plain.peak >> 20:>5} MiB {resident:>8} MiB\n\n"
          f"{far.figures['faults']:.0f} faults, {far.figures['evicted_pages']:.0f} pages evicted; "
          f"{plain.wrong + far.wrong} of {plain.checked + far.checked} values read were wrong")
    return 0 if plain.wrong + far.wrong == 0 and far.figures["evicted_pages"] > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
