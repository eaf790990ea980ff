#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""System calls on memory that is here, away, half away, leaving or forbidden: as without us.

usage: system_calls_test.py SPIRITOS SYSTEM_CALLS [unittest's options]

The program prints a line for each call and residence. They must be those that it prints as it
is, but for the known differences below, which must be as they are described.
"""

import collections
import concurrent.futures
import itertools
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

from memory_server import skip_without_threads

SPIRITOS = ""
SYSTEM_CALLS = ""
LOCAL = "16M"
LEAST_CALLS = 170
SHOWN = 20

AWAY = r"(absent|absent\|present|present\|absent|leaving|read-only absent|none|absent\|none)"
# Of the word's page: it is the first, of an argument that does not cross the border.
WORD_AWAY = r"(absent|absent\|present|leaving|absent\|none)"

# A line as far as the residence; what follows there, under the shim; why.
KNOWN = [
    # The kernel faults such words in without leave to wait, for which user-space faults have
    # to. What C libraries lock so was touched just before.
    (rf"futex (WAKE_OP|LOCK_PI), {WORD_AWAY}", r" EFAULT\b.*"),
    # A thread that ends waits for no user-space fault either: its locks stay locked.
    (r"robust locks of a thread that ends, (absent|absent\|present|present\|absent|leaving)",
     r" (EBUSY|EOWNERDEAD) (EBUSY|EOWNERDEAD) [0-9a-f]{16}"),
    # Another way to memory without leave to wait: that of debuggers.
    (rf"/proc/self/mem, {AWAY}", r" (EIO \d+|1500 15\d\d|3000 3000) [0-9a-f]{16}"),
    (rf"ptrace PEEKDATA, {AWAY}", r" EIO 0 .*"),
    # Pages that are forbidden cannot be brought in ahead.
    (r"mlock2 MLOCK_ONFAULT, (none|absent\|none)", r" ENOMEM 0 .*"),
    # Far memory has none, like Linux before 6.13.
    (r"madvise guards, .*", r" EINVAL -1 .*"),
]
# The kernel pins what another process writes to, and it is written to after the page has left.
# Whoever has asked for pins that are not seen is safe.
KNOWN_WITHOUT_PINS = [(r"process_vm_writev by a child, leaving", r" 3000\b.*")]
# A page that is mapped read-only cannot leave by the way that sees pins, and stays readable.
KNOWN_WITH_PINS = [(r"mprotect PROT_NONE, read-only", r" EBUSY .*")]


def run(*words, pins=False):
    """What the program prints, by call and residence, and what it says besides."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        done = subprocess.run([*words, SYSTEM_CALLS, folder, *(["pins"] if pins else [])],
                              capture_output=True, text=True)
        if done.returncode != 0:
            raise AssertionError(f"ended with {done.returncode}: {done.stdout[-2000:]} {done.stderr}")
        left = [path.name for path in pathlib.Path(folder).iterdir()]
        if left:
            raise AssertionError(f"left in its folder: {left}")
    lines = collections.defaultdict(list)
    for line in done.stdout.splitlines():
        name, colon, seen = line.partition(":")
        lines[name + colon].append(seen)
    return lines, done.stderr


def counter(said, name):
    found = re.search(rf"^{name} (\d+)$", said, re.M)
    return int(found[1]) if found else 0


def is_known(name, seen, expected, known):
    """While pages leave, a call may find one that is here."""
    return any(re.fullmatch(where + ":", name) and
               all(line in expected or re.fullmatch(what, line) for line in seen)
               for where, what in known)


class SystemCalls(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        far = (SPIRITOS, "run", "--local", LOCAL, "--stats", "exit", "--")
        with concurrent.futures.ThreadPoolExecutor() as threads:
            cls.plain = threads.submit(run)
            cls.far = {pins: threads.submit(run, *far, pins=pins) for pins in (False, True)}

    def same(self, pins, known):
        expected = dict(self.plain.result()[0])
        seen, said = self.far[pins].result()
        if "UFFDIO_MOVE, Linux" in said:  # Such calls are refused.
            known = known + KNOWN_WITHOUT_PINS + [(r"(asynchronous|process_vm_writev,).*", r" ENOSYS .*")]

        def is_same(name):
            if name not in seen or name not in expected:
                return False
            return seen[name] == expected[name] or is_known(name, seen[name], expected[name], known)

        different = [f"{name}{line}" for name in itertools.chain(expected, seen.keys() - expected.keys())
                     if not is_same(name)
                     for line in (*(f"{line}   plain" for line in expected.get(name, [])),
                                  *(f"{line}   far" for line in seen.get(name, [])))]
        self.assertEqual(different[:SHOWN], [])
        calls = re.match(r"(\d+) calls", [name for name in seen][-1])
        self.assertGreaterEqual(int(calls[1]), LEAST_CALLS)
        # What was to be absent was; else nothing was tested.
        self.assertGreater(counter(said, "absent"), counter(said, "wanted") * 0.95)
        self.assertGreater(counter(said, "evicted_pages"), 10_000)
        self.assertGreater(counter(said, "faults"), 5_000)
        self.assertEqual(counter(said, "lost_pages"), 0)

    def test_mean_what_they_mean_without_us(self):
        self.same(False, KNOWN + KNOWN_WITHOUT_PINS)

    def test_mean_so_where_pins_are_not_seen(self):
        self.same(True, KNOWN + KNOWN_WITH_PINS)


if __name__ == "__main__":
    SPIRITOS, SYSTEM_CALLS = sys.argv[1:3]
    skip_without_threads(SPIRITOS)
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]], verbosity=2)
