#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Kills memory servers under a program that checks every byte.

usage: server_kill.py [options] ORACLE_STRESS SPIRITOS

Starts `spiritos memd`, runs ORACLE_STRESS over it, and kills the server (SIGKILL) at
random moments, starting another each time, until --kills have happened. Nothing may be
lost, neither through shared memory, which programs keep, nor over TCP (--warm), where the
next server finds the state of the last: every run of the oracle must end with every byte
matched, and with no slab that nobody gave back.
"""

import argparse
import pathlib
import random
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

READY_S = 60
RUN_S = 600
LEASE_S = 10


class Server:
    """One memory server process, ready when made."""

    def __init__(self, program, options):
        command = [program, "memd", "--no-lock", "--metrics", "0", "--lease", str(LEASE_S),
                   *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        ready, _, _ = select.select([self.process.stdout], [], [], READY_S)
        self.said = self.process.stdout.readline() if ready else "nothing"
        if not self.said.startswith("ready"):
            self.end(signal.SIGKILL)
            raise RuntimeError(f"{' '.join(command)}: not ready, said: {self.said}")

    def rented(self):
        """How many slabs its clients have."""
        url = re.search(r"http://\S+", self.said).group()
        with urllib.request.urlopen(url, timeout=READY_S) as answer:
            text = answer.read().decode()
        return int(re.search(r"^spiritos_memd_slabs_rented (\d+)", text, re.MULTILINE).group(1))

    def await_return(self):
        """Whether all slabs come back, in a lease: a program may end while no server runs."""
        deadline = time.monotonic() + 2 * LEASE_S
        while self.rented() != 0:
            try:
                self.process.wait(timeout=0.2)
                return False
            except subprocess.TimeoutExpired:
                if time.monotonic() > deadline:
                    return False
        return True

    def end(self, number):
        self.process.send_signal(number)
        status = self.process.wait()
        self.process.stdout.close()
        return status


class Shared:
    """Servers of programs of this machine, which keep their slabs themselves."""

    def __init__(self, program, folder):
        self.program = program
        self.socket = pathlib.Path(folder) / "memd.sock"
        self.pool = f"shm://{self.socket}"

    def start(self, again):
        # What the last one served is adopted, and counts.
        return Server(self.program, ["--unix", str(self.socket), "--memory", "1G"])


class Warm:
    """Servers over TCP, each with the state of the one before it."""

    def __init__(self, program, folder):
        self.program = program
        self.state = str(pathlib.Path(folder) / "state")
        self.place = "127.0.0.1:0"

    def start(self, again):
        server = Server(self.program, ["--tcp", self.place, "--state", self.state,
                                       "--memory", "1G"])
        self.place = re.search(r"tcp://(\S+?),", server.said).group(1)
        self.pool = f"tcp://{self.place}"
        return server


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("oracle")
    parser.add_argument("spiritos")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--operations", type=int, default=200000, help="of each oracle run")
    parser.add_argument("--longest", type=float, default=0.4, help="seconds a server lives")
    parser.add_argument("--warm", action="store_true", help="over TCP, with a state folder")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    options = parser.parse_args()
    print(f"seed {options.seed}")
    chance = random.Random(options.seed)

    kills = runs = 0
    in_memory = "/dev/shm" if options.warm else None
    with tempfile.TemporaryDirectory(dir=in_memory) as folder:
        servers = (Warm if options.warm else Shared)(options.spiritos, folder)
        while kills < options.kills:
            server = servers.start(again=False)
            oracle = subprocess.Popen(
                [options.oracle, "--operations", str(options.operations), "--seed",
                 str(chance.randrange(1, 2**31)), f"SPIRITOS_POOL={servers.pool}"],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            # A program finds its server when it starts; what comes then is what is tested.
            said = []
            for line in oracle.stdout:
                said.append(line)
                if line.startswith("budget:"):
                    break
            rest = threading.Thread(target=lambda: said.extend(oracle.stdout))
            rest.start()
            begin = time.monotonic()
            while True:
                try:
                    oracle.wait(timeout=chance.uniform(0, options.longest))
                    break
                except subprocess.TimeoutExpired:
                    pass
                server.end(signal.SIGKILL)
                kills += 1
                server = servers.start(again=True)
                if time.monotonic() - begin > RUN_S:
                    oracle.kill()
            runs += 1
            returned = server.await_return()
            server.end(signal.SIGTERM)
            rest.join()
            text = "".join(said)
            if oracle.returncode != 0 or "every byte matched" not in text:
                print(text)
                print(f"run {runs}: the oracle ended with {oracle.returncode} after {kills} kills")
                return 1
            if not returned:
                print(f"run {runs}: slabs are rented by nobody after {kills} kills")
                return 1
    print(f"{kills} servers killed under {runs} runs of the oracle: every byte matched")
    return 0


if __name__ == "__main__":
    sys.exit(main())
