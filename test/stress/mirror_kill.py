#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Takes memory servers from under programs that check every byte, one at a time.

usage: mirror_kill.py [options] ORACLE_STRESS SPIRITOS

Three servers, two programs of four threads, every page on two servers, or on one with
--copies 1. Again and again a random server is taken away, in one of the ways of --how:

  kill    killed, and started anew once both programs go on without it
  pause   stopped for 10 ms to 5 s
  cut     no packet passes, for 10 ms to 5 s; cut-to and cut-from: one direction only
  reset   every connection to it is reset
  drop    one packet in five of all servers is lost, for 10 ms to 5 s
  drain   drained, and given back its memory once it has no slab left
  drain-kill  drained, and a random server, perhaps the same, is killed meanwhile

The next one goes when both programs have said that their pools are whole again. At the end
every byte must match, and no fault may have taken longer than --stall allows. With
--during-repair the next server is killed while copies are being made: then slabs are lost,
and a program that needs one must end with SIGBUS, but no byte may be wrong.

All but kill and pause need root: they filter packets in a network namespace of their own.
"""

import argparse
import os
import random
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

READY_S = 60
DRAINS = ("drain", "drain-kill")
WHOLE_S = 60
SUSPENDED = re.compile(
    r"memory server tcp://\S+:(\d+) is suspended.* (\d+) slabs go on .* (\d+) wait .* "
    r"(\d+) writes were")

BACK = re.compile(r"memory server tcp://\S+:(\d+) is back")


class ProgramEnded(RuntimeError):
    pass


class Server:
    def __init__(self, program, name, memory):
        self.program, self.name, self.memory = program, name, memory
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.start()

    def start(self):
        command = [self.program, "memd", "--tcp", f"127.0.0.1:{self.port}", "--host", self.name,
                   "--memory", self.memory, "--no-lock", "--metrics", "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        text=True)
        ready, _, _ = select.select([self.process.stdout], [], [], READY_S)
        line = self.process.stdout.readline() if ready else "nothing"
        if not line.startswith("ready"):
            self.end(signal.SIGKILL)
            raise RuntimeError(f"{' '.join(command)}: not ready, said: {line}")
        self.metrics = re.search(r"http://\S+", line)[0]

    def end(self, number):
        self.process.send_signal(number)
        self.process.send_signal(signal.SIGCONT)
        self.process.wait()
        self.process.stdout.close()
        self.process.stderr.close()

    def rented(self):
        with urllib.request.urlopen(self.metrics) as answer:
            return int(re.search(rb"\nspiritos_memd_slabs_rented (\d+)", answer.read())[1])

    def hear(self, text):
        """Waits until it says so; the suite's timeout is the patience."""
        for line in self.process.stderr:
            if text in line:
                return
        raise RuntimeError(f"{self.name} has never said: {text}")


class PacketFilter:
    """What does not pass, on the loopback of this process's network namespace."""

    RULES = {
        "cut": "tcp dport {port} drop; tcp sport {port} drop;",
        "cut-to": "tcp dport {port} drop;",
        "cut-from": "tcp sport {port} drop;",
        "reset": "tcp dport {port} reject with tcp reset;",
        "drop": "meta l4proto tcp numgen random mod 5 == 0 drop;",
    }

    @staticmethod
    def set(rule):
        table = ("table inet fault {}; delete table inet fault; table inet fault { chain to { "
                 f"type filter hook output priority 0; {rule} }}; }}")
        subprocess.run(["nft", "-f", "-"], input=table, text=True, check=True)


class Oracle:
    """One checking program, and what it says of its pool."""

    def __init__(self, program, seed, servers, durability="mirror=2", options=()):
        pool = ",".join(f"tcp://127.0.0.1:{server.port}" for server in servers)
        self.process = subprocess.Popen(
            [program, "--operations", str(10**12), "--seed", str(seed), "--region", "128",
             "--budget", "12", f"SPIRITOS_POOL={pool}", f"SPIRITOS_DURABILITY={durability}",
             *options],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.said = []
        self.since = time.monotonic()
        self.changed = threading.Condition()
        self.down = set()  # Ports of servers that it goes without.
        self.degraded = False
        self.unacknowledged = 0
        self.begun = False
        self.reader = threading.Thread(target=self.read)
        self.reader.start()

    def read(self):
        for line in self.process.stdout:
            with self.changed:
                self.said.append(f"{time.monotonic() - self.since:8.3f} {line}")
                self.begun = self.begun or line.startswith("budget:")
                found = SUSPENDED.search(line)
                if found:
                    self.down.add(int(found[1]))
                    self.degraded = self.degraded or int(found[2]) + int(found[3]) > 0
                    self.unacknowledged += int(found[4])
                found = BACK.search(line)
                if found:
                    self.down.discard(int(found[1]))
                if "the pool is whole again" in line:
                    self.degraded = False
                self.changed.notify_all()
        with self.changed:
            self.changed.notify_all()

    def wait_until(self, what, condition):
        with self.changed:
            if not self.changed.wait_for(
                    lambda: condition() or self.process.poll() is not None, WHOLE_S):
                raise RuntimeError(f"not within {WHOLE_S} s: {what}")
            if self.process.poll() is not None:
                raise ProgramEnded(f"the program has ended while waiting: {what}")

    def finish(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()
        self.reader.join()
        return self.process.returncode

    def text(self):
        return "".join(self.said)


def drain(server, how, chance, servers, oracles):
    """Its slabs move to the others. With a kill meanwhile all pools are whole afterwards."""
    server.process.send_signal(signal.SIGUSR1)
    server.hear("asked back")
    if how == "drain-kill":
        threading.Event().wait(chance.uniform(0, 2))  # At any moment of it.
        victim = chance.choice(servers)
        victim.end(signal.SIGKILL)
        for oracle in oracles:
            oracle.wait_until(f"it goes on without {victim.name}",
                              lambda o=oracle: victim.port in o.down)
        victim.start()
        if victim is server:
            return
    else:
        server.hear("all slabs that were asked back have come back")
        if server.rented() != 0:
            raise RuntimeError(f"{server.name} is drained, and has slabs rented out")
    server.process.send_signal(signal.SIGHUP)
    server.hear("read again")


def take_away(server, how, chance, servers, oracles):
    """One server goes and comes back. Whether writes were on their way to it."""
    while any(o.down or o.degraded for o in oracles):
        for oracle in oracles:
            oracle.wait_until("all servers are there and its pool is whole",
                              lambda o=oracle: not o.down and not o.degraded)
    if how in DRAINS:
        if server.rented() != 0:
            drain(server, how, chance, servers, oracles)
        return False
    before = [oracle.unacknowledged for oracle in oracles]
    away = chance.uniform(0.01, 5)
    if how == "kill":
        server.end(signal.SIGKILL)
        for oracle in oracles:
            oracle.wait_until(f"it goes on without {server.name}",
                              lambda o=oracle: server.port in o.down)
        server.start()
    elif how == "pause":
        server.process.send_signal(signal.SIGSTOP)
        threading.Event().wait(away)  # How long it is away is what is varied.
        server.process.send_signal(signal.SIGCONT)
    else:
        PacketFilter.set(PacketFilter.RULES[how].format(port=server.port))
        threading.Event().wait(min(away, 0.5) if how == "reset" else away)
        PacketFilter.set("")
    return any(o.unacknowledged > was for o, was in zip(oracles, before))


def lose_during_repair(program, oracle_program, chance):
    """Kills a server, and another one before the copies are made: (lost loudly?, fault)."""
    servers = [Server(program, f"host{i}", "512M") for i in range(3)]
    oracle = Oracle(oracle_program, chance.randrange(1, 2**31), servers)
    fault = None
    try:
        oracle.wait_until("it begins", lambda: oracle.begun)
        first, second = chance.sample(servers, 2)
        threading.Event().wait(chance.uniform(0.2, 1))  # Some data is what is to be lost.
        first.end(signal.SIGKILL)
        oracle.wait_until("it goes on without one", lambda: first.port in oracle.down)
        second.end(signal.SIGKILL)
        # What was lost is known when it comes back, and is needed soon.
        first.start()
        second.start()
        oracle.wait_until("both are back, and what is left has its copies",
                          lambda: not oracle.down and not oracle.degraded)
    except ProgramEnded:
        pass
    except RuntimeError as error:
        fault = str(error)
    status = oracle.finish()
    for server in servers:
        server.end(signal.SIGKILL)
    text = oracle.text()
    loud = status == -signal.SIGBUS and "cannot be had from the pool" in text
    loud = loud or (status == 1 and "REFUSED" in text)
    if "MISMATCH" in text or not (loud or "every byte matched" in text):
        print(text)
        fault = fault or f"a program ended with {status}"
    return loud, fault


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("oracle")
    parser.add_argument("spiritos")
    parser.add_argument("--how", choices=["kill", "pause", *DRAINS, *PacketFilter.RULES], default="kill")
    parser.add_argument("--times", type=int, default=500)
    parser.add_argument("--copies", type=int, choices=[1, 2], default=2)
    parser.add_argument("--during-repair", action="store_true")
    parser.add_argument("--stall", type=float, default=0, help="ms a fault may take; 0 = any")
    parser.add_argument("--unacknowledged", type=float, default=0,
                        help="share of kills that must have met writes on their way")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    options = parser.parse_args()
    if options.how in PacketFilter.RULES and "SPIRITOS_TEST_NETNS" not in os.environ:
        if os.geteuid() != 0 or not shutil.which("nft") or not shutil.which("unshare"):
            print("skipped: needs root, nft and unshare")
            return 77
        command = ["unshare", "--net", sys.executable, *sys.argv]
        return subprocess.run(command, env={**os.environ, "SPIRITOS_TEST_NETNS": "1"}).returncode
    if "SPIRITOS_TEST_NETNS" in os.environ:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        try:
            PacketFilter.set("")
        except subprocess.CalledProcessError:
            print("skipped: this kernel or user may not filter packets (nft)")
            return 77
    print(f"seed {options.seed}", flush=True)
    chance = random.Random(options.seed)

    if options.during_repair:
        losses = 0
        done = 0
        # Which two have a slab's both copies is chance: on, until something was lost.
        while done < options.times or (losses == 0 and done < 10 * options.times):
            done += 1
            loud, fault = lose_during_repair(options.spiritos, options.oracle, chance)
            losses += loud
            if fault:
                print(fault)
                return 1
        print(f"two servers at once, {done} times: {losses} programs lost pages, loudly, "
              "and none read a wrong byte")
        return 0 if losses else 1

    servers = [Server(options.spiritos, f"host{i}", "1G") for i in range(3)]
    oracles = [Oracle(options.oracle, chance.randrange(1, 2**31), servers,
                      f"mirror={options.copies}" if options.copies > 1 else "none")
               for _ in range(2)]
    failure = None
    met_writes = 0
    begin = time.monotonic()
    try:
        for oracle in oracles:
            oracle.wait_until("it begins", lambda o=oracle: o.begun)
        for i in range(options.times):
            met_writes += take_away(chance.choice(servers), options.how, chance, servers, oracles)
            if sys.stderr.isatty():
                print(f"\r{i + 1}/{options.times}", end="", file=sys.stderr, flush=True)
    except RuntimeError as error:
        failure = str(error)
    seconds = time.monotonic() - begin
    statuses = [oracle.finish() for oracle in oracles]
    for server in servers:
        server.end(signal.SIGKILL)

    longest = 0.0
    for oracle, status in zip(oracles, statuses):
        found = re.search(r"longest fault ([\d.]+) ms", oracle.text())
        longest = max(longest, float(found[1]) if found else float("inf"))
        if status != 0 or "every byte matched" not in oracle.text():
            failure = failure or f"a program ended with {status}"
    if options.stall and longest > options.stall:
        failure = failure or f"a fault took {longest} ms, of {options.stall}"
    if met_writes < options.unacknowledged * options.times:
        failure = failure or f"only {met_writes} of {options.times} met unacknowledged writes"
    if failure:
        for oracle in oracles:
            print(oracle.text())
        print(failure)
    print(f"{options.times} servers taken away ({options.how}) in {seconds:.0f} s, {met_writes} with "
          f"writes on their way to it; longest fault {longest:.0f} ms")
    print("failed" if failure else "nothing was lost: every byte matched")
    return 1 if failure else 0


if __name__ == "__main__":
    sys.exit(main())
