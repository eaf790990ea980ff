#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Kills memory servers under a program that checks every byte.

usage: server_kill.py [options] ORACLE_STRESS SPIRITOS

Starts `spiritos memd`, runs ORACLE_STRESS over it, and kills the server (SIGKILL) at
random moments, starting another each time, until --kills have happened. Through shared
memory nothing may be lost: every run of the oracle must end with every byte matched.
"""

import argparse
import pathlib
import random
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time

READY_S = 60
RUN_S = 600


class Server:
    """One memory server process, ready when made."""

    def __init__(self, program, socket, memory):
        command = [program, "memd", "--unix", str(socket), "--memory", memory, "--no-lock"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        ready, _, _ = select.select([self.process.stdout], [], [], READY_S)
        line = self.process.stdout.readline() if ready else "nothing"
        if not line.startswith("ready"):
            self.end(signal.SIGKILL)
            raise RuntimeError(f"{' '.join(command)}: not ready, said: {line}")

    def end(self, number):
        self.process.send_signal(number)
        status = self.process.wait()
        self.process.stdout.close()
        return status


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("oracle")
    parser.add_argument("spiritos")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--operations", type=int, default=200000, help="of each oracle run")
    parser.add_argument("--longest", type=float, default=0.4, help="seconds a server lives")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    options = parser.parse_args()
    print(f"seed {options.seed}")
    chance = random.Random(options.seed)

    kills = runs = 0
    with tempfile.TemporaryDirectory() as folder:
        socket = pathlib.Path(folder) / "memd.sock"
        while kills < options.kills:
            server = Server(options.spiritos, socket, "1G")
            oracle = subprocess.Popen(
                [options.oracle, "--operations", str(options.operations), "--seed",
                 str(chance.randrange(1, 2**31)), f"SPIRITOS_POOL=shm://{socket}"],
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
                # What the last one served is adopted; a little room is for new slabs.
                server = Server(options.spiritos, socket, "256M")
                if time.monotonic() - begin > RUN_S:
                    oracle.kill()
            runs += 1
            server.end(signal.SIGTERM)
            rest.join()
            text = "".join(said)
            if oracle.returncode != 0 or "every byte matched" not in text:
                print(text)
                print(f"run {runs}: the oracle ended with {oracle.returncode} after {kills} kills")
                return 1
    print(f"{kills} servers killed under {runs} runs of the oracle: every byte matched")
    return 0


if __name__ == "__main__":
    sys.exit(main())
