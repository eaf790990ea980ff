#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A memory server on one machine, a program that checks every byte on another.

usage: two_machines.py [--operations N] ORACLE_STRESS SPIRITOS

The machines are two network namespaces with a cable between them: neither reaches the
other by loopback. Follows the README: a key for the tenant, copied over, the server with
--tls-psk, the program with SPIRITOS_TLS_PSK. Then what must not work: either side without a
key, and a program with another key.

Exit status: 0 as it should be, 1 not, 77 where namespaces may not be made.
"""

import argparse
import contextlib
import os
import pathlib
import select
import subprocess
import sys
import tempfile

READY_S = 60
SERVER_HOST, PROGRAM_HOST, PORT = "10.213.77.1", "10.213.77.2", 7070


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


class Machine:
    """A network namespace with its end of the cable."""

    def __init__(self, stack, role):
        self.name = f"spiritos-{role}-{os.getpid()}"
        ip("netns", "add", self.name)
        stack.callback(lambda: ip("netns", "del", self.name))

    def plug(self, cable, host):
        ip("link", "set", cable, "netns", self.name)
        ip("-n", self.name, "addr", "add", f"{host}/24", "dev", cable)
        ip("-n", self.name, "link", "set", cable, "up")

    def command(self, *words):
        return ["ip", "netns", "exec", self.name, *words]

    def run(self, *words):
        return subprocess.run(self.command(*words), stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True)


def two_machines(stack):
    """Connected; raises CalledProcessError or OSError where that is not permitted."""
    server, program = Machine(stack, "server"), Machine(stack, "program")
    ends = f"sp{os.getpid()}a", f"sp{os.getpid()}b"
    ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
    server.plug(ends[0], SERVER_HOST)
    program.plug(ends[1], PROGRAM_HOST)
    return server, program


def key_file(spiritos, folder, name, tenant):
    path = pathlib.Path(folder) / name
    line = subprocess.run([spiritos, "key", "--tenant", tenant], check=True, capture_output=True,
                          text=True).stdout
    with open(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), "w") as file:
        file.write(line)
    return path


def serve(stack, machine, *words):
    process = subprocess.Popen(machine.command(*words), stdout=subprocess.PIPE, text=True)
    stack.callback(process.wait)
    stack.callback(process.terminate)
    ready, _, _ = select.select([process.stdout], [], [], READY_S)
    line = process.stdout.readline() if ready else "nothing"
    if not line.startswith("ready"):
        raise SystemExit(f"{' '.join(words)}: not ready, said: {line}")
    print(line, end="")


def expect(what, done, good, text):
    """Stops the test unless `done` ended as it should, saying `text`."""
    if (done.returncode == 0) == good and text in done.stdout:
        print(f"ok: {what}")
        return
    print(done.stdout)
    raise SystemExit(f"{what}: ended with {done.returncode}, expected \"{text}\"")


def test(stack, options, server, program):
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    key = key_file(options.spiritos, folder, "batch.key", "batch")
    wrong = key_file(options.spiritos, folder, "wrong.key", "batch")
    memd = [options.spiritos, "memd", "--tcp", f"{SERVER_HOST}:{PORT}", "--memory", "1G",
            "--no-lock"]
    oracle = [options.oracle, "--operations", str(options.operations),
              f"SPIRITOS_POOL=tcp://{SERVER_HOST}:{PORT}"]

    expect("no server for other machines without keys", server.run(*memd), False, "--tls-psk")
    serve(stack, server, *memd, "--tls-psk", str(key))
    expect("no program without a key", program.run(*oracle), False, "SPIRITOS_TLS_PSK")
    expect("no program with a wrong key", program.run(*oracle, f"SPIRITOS_TLS_PSK={wrong}"), False,
           "TLS handshake")
    expect("a program with the key", program.run(*oracle, f"SPIRITOS_TLS_PSK={key}"), True,
           "every byte matched")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("oracle")
    parser.add_argument("spiritos")
    parser.add_argument("--operations", type=int, default=50000)
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        try:
            server, program = two_machines(stack)
        except (OSError, subprocess.CalledProcessError) as error:
            why = getattr(error, "stderr", "") or error
            print(f"skipped: no network namespaces here (root, iproute2, veth): {why}")
            return 77
        test(stack, options, server, program)
    return 0


if __name__ == "__main__":
    sys.exit(main())
