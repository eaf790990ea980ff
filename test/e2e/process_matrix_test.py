#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Forks, programs and signals of a program with much memory: each passes, or is refused aloud.

usage: process_matrix_test.py SPIRITOS PROCESS_MATRIX [unittest's options]

The rows are named here, so that one that is gone is missed. All pass without the shim.
"""

import concurrent.futures
import contextlib
import os
import re
import signal
import subprocess
import sys
import unittest

from memory_server import local_pool, skip_without_threads

SPIRITOS = ""
PROCESS_MATRIX = ""
LOCAL = "8M"
LIMIT_S = 150

ROWS = """
fork
four children at a time
nested forks
a child outlives its parent
a daemon
fork amid stores
fork amid allocation and sweeps
threads of a child
a thread forks
a child killed amid stores
a child's protection
MADV_WIPEONFORK
statuses of children
children reaped in a handler
clone by number
_Fork
vfork, execve
fork, execve
execve with long arguments
posix_spawn
posix_spawn of nothing
system, popen
vfork, the child stores
clone with CLONE_VM on a near stack
clone with CLONE_VM on a far stack
a thread on a far stack
threads end on far stacks
execve of itself amid threads
SIGBUS of its own, a handler from the beginning
SIGBUS of its own, sigaction
SIGBUS of its own, signal
SIGBUS by raise
SIGBUS and SIGSEGV that nobody handles
all signals are blocked
SIGBUS and SIGSEGV are ignored
SIGSEGV of its own
SIGSEGV whose handler allows the access
siglongjmp out of SIGSEGV
handlers on a near stack
handlers on a stack by mmap
handlers on a stack by malloc
longjmp by far memory
a storm of SIGALRM
a storm of SIGPROF
forks in a storm of SIGALRM
signals to a thread that faults
a read is interrupted
a read goes on after signals
a poll is interrupted
real-time signals in order
""".strip().splitlines()

# What far memory cannot do, and how it says so.
REFUSED = {
    "MADV_WIPEONFORK": "refused (EINVAL)",
    "clone by number": "refused (a child by clone(2) has no far memory: SIGSEGV)",
    "_Fork": "refused (a child by _Fork(3) has no far memory: SIGSEGV)",
}


def run(*words):
    """The rows and how they ended, and what was said besides."""
    process = subprocess.Popen([*words, PROCESS_MATRIX], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True, start_new_session=True)
    try:
        out, said = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # It and its children.
        out, said = process.communicate()
        raise AssertionError(f"it hangs after: {out} {said}") from None
    if process.returncode != 0:
        raise AssertionError(f"ended with {process.returncode}: {out} {said}")
    return [tuple(line.split(": ", 1)) for line in out.splitlines()], said


def run_far(pool):
    with pool as address:
        return run(SPIRITOS, "run", "--local", LOCAL, "--pool", address, "--stats", "exit", "--")


class ProcessMatrix(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        with concurrent.futures.ThreadPoolExecutor() as threads:
            cls.plain = threads.submit(run)
            cls.embedded = threads.submit(run_far, contextlib.nullcontext("embedded:"))
            cls.server = threads.submit(run_far, local_pool(SPIRITOS, "2G"))

    def check_far(self, rows, said):
        self.assertEqual(rows, [(name, REFUSED.get(name, "pass")) for name in ROWS])
        counters = {name: int(value) for name, value in re.findall(r"^(\w+) (\d+)$", said, re.M)}
        self.assertGreater(counters["evicted_pages"], 100_000)
        self.assertEqual(counters["lost_pages"], 0)

    def test_each_row_passes_without_us(self):
        rows, _ = self.plain.result()
        self.assertEqual(rows, [(name, "pass") for name in ROWS])

    def test_each_row_passes_or_is_refused(self):
        self.check_far(*self.embedded.result())

    def test_each_row_does_over_a_memory_server(self):
        self.check_far(*self.server.result())


if __name__ == "__main__":
    SPIRITOS, PROCESS_MATRIX = sys.argv[1:3]
    skip_without_threads(SPIRITOS)
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]], verbosity=2)
