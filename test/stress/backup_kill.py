#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Kills all memory servers at once under programs with a backup file, again and again.

usage: backup_kill.py [options] ORACLE_STRESS SPIRITOS

Two servers, two programs of four threads, each page at one server and in the program's file.
All servers are killed at a random moment, writes under way; the programs go on from their
files. Some time later servers start anew, and once both programs have said that all they have
is there again, the next time comes. The last time no server comes back. At the end every byte
must match: what is read then comes from the files.
"""

import argparse
import pathlib
import random
import signal
import sys
import tempfile
import threading
import time

from mirror_kill import Oracle, Server

DIRECT = "/var/tmp"  # A /tmp in memory may refuse direct I/O.


def kill_all(servers, oracles):
    for server in servers:
        server.process.send_signal(signal.SIGKILL)
    for server in servers:
        server.end(signal.SIGKILL)
    for oracle in oracles:
        oracle.wait_until("it goes on without servers",
                          lambda o=oracle: all(s.port in o.down for s in servers))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("oracle")
    parser.add_argument("spiritos")
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--buffer", default="768K", help="SPIRITOS_BACKUP_BUFFER")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    chance = random.Random(options.seed)

    failure = None
    met_writes = 0
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(dir=DIRECT) as folder:
        servers = [Server(options.spiritos, f"host{i}", "1G") for i in range(2)]
        oracles = [
            Oracle(options.oracle, chance.randrange(1, 2**31), servers,
                   f"backup={pathlib.Path(folder) / f'backup{i}'}",
                   [f"SPIRITOS_BACKUP_BUFFER={options.buffer}"]) for i in range(2)]
        try:
            for oracle in oracles:
                oracle.wait_until("it begins", lambda o=oracle: o.begun)
            for i in range(options.times):
                last = i + 1 == options.times
                threading.Event().wait(chance.uniform(0.05, 1))  # When they go is what varies.
                before = [oracle.unacknowledged for oracle in oracles]
                kill_all(servers, oracles)
                met_writes += any(o.unacknowledged > was for o, was in zip(oracles, before))
                threading.Event().wait(chance.uniform(0.05, 1))
                if last:
                    break
                for server in servers:
                    server.start()
                for oracle in oracles:
                    oracle.wait_until("all it has is at servers again",
                                      lambda o=oracle: not o.down and not o.degraded)
                if sys.stderr.isatty():
                    print(f"\r{i + 1}/{options.times}", end="", file=sys.stderr, flush=True)
        except RuntimeError as error:
            failure = str(error)
        statuses = [oracle.finish() for oracle in oracles]
        if failure:
            for server in servers:
                if server.process.poll() is None:
                    server.end(signal.SIGKILL)
    seconds = time.monotonic() - begin
    for oracle, status in zip(oracles, statuses):
        if status != 0 or "every byte matched" not in oracle.text():
            failure = failure or f"a program ended with {status}"
    if failure:
        for oracle in oracles:
            print(oracle.text())
        print(failure)
    print(f"all servers killed {options.times} times in {seconds:.0f} s, {met_writes} times with "
          "writes on their way to one")
    print("failed" if failure else "nothing was lost: every byte matched")
    return 1 if failure else 0


if __name__ == "__main__":
    sys.exit(main())
