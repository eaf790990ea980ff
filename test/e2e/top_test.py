#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`spiritos top` and `spiritos stat PID`, beside programs whose memory is far.

usage: top_test.py SPIRITOS [unittest's options]
"""

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
import unittest

from memory_server import skip_without_threads

SPIRITOS = ""
PATIENCE_S = 120

# Touches `argument` MiB in turns, for ever; the first turn is announced.
TOUCH = ("import sys\n"
         "data = bytearray(int(sys.argv[1]) << 20)\n"
         "said = False\n"
         "while True:\n"
         "    for i in range(0, len(data), 4096): data[i] = (data[i] + 1) % 256\n"
         "    if not said: print('ready', flush=True)\n"
         "    said = True\n")


@contextlib.contextmanager
def far_program(mib, local, code=TOUCH):
    # The interpreter itself: what is in PATH may be a script that starts it.
    process = subprocess.Popen([SPIRITOS, "run", "--quiet", "--local", local, "--",
                                os.path.realpath("/proc/self/exe"), "-c", code, str(mib)],
                               stdout=subprocess.PIPE, text=True)
    try:
        if process.stdout.readline() != "ready\n":
            raise AssertionError("the program ended at once")
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()
        process.stdout.close()


@contextlib.contextmanager
def snapshots():
    """What `spiritos top` finds, again and again: a list of processes each time."""
    top = subprocess.Popen([SPIRITOS, "top", "--json", "--interval", "0.2"], stdout=subprocess.PIPE, text=True)
    try:
        yield (json.loads(line)["processes"] for line in top.stdout)
    finally:
        top.kill()
        top.wait()
        top.stdout.close()


def await_row(pid, condition):
    """The first row of the process that is as wanted."""
    deadline = time.monotonic() + PATIENCE_S
    row = None
    with snapshots() as each:
        for processes in each:
            for row in processes:
                if row["pid"] == pid and condition(row):
                    return row
            if time.monotonic() > deadline:
                raise AssertionError(f"not seen in {PATIENCE_S} s; the last that was: {row}")
    raise AssertionError("top ended")


class Top(unittest.TestCase):
    def test_what_a_program_does_is_seen(self):
        with far_program(64, "16M") as program:
            row = await_row(program.pid, lambda row: row["faults_per_s"] > 0)
            self.assertEqual(row["state"], "far")
            self.assertEqual(row["budget_bytes"], 16 << 20)
            self.assertGreater(row["resident_bytes"], 8 << 20)
            self.assertLessEqual(row["resident_bytes"], 16 << 20)
            self.assertGreaterEqual(row["far_bytes"], 64 << 20)
            self.assertGreater(row["fetched_bytes_per_s"], 0)
            self.assertGreater(row["written_bytes_per_s"], 0)
            self.assertGreater(row["fault_ns_p50"], 0)
            self.assertGreaterEqual(row["fault_ns_p99"], row["fault_ns_p50"])
            self.assertTrue(row["command"].startswith("python"), row)

    def test_one_that_does_not_answer_is_shown_as_silent_until_it_does(self):
        with far_program(64, "16M") as program:
            program.send_signal(signal.SIGSTOP)
            row = await_row(program.pid, lambda row: row["state"] == "silent")
            self.assertEqual(row["faults_per_s"], 0)
            program.send_signal(signal.SIGCONT)
            await_row(program.pid, lambda row: row["state"] == "far" and row["faults_per_s"] > 0)

    def test_one_whose_memory_is_local_so_far(self):
        with far_program(1, "1G") as program:
            row = await_row(program.pid, lambda row: True)
            self.assertEqual(row["state"], "local")
            self.assertEqual(row["budget_bytes"], 1 << 30)
            self.assertEqual(row["far_bytes"], 0)

    def test_a_child_has_a_row_of_its_own(self):
        code = TOUCH.replace("while True:", "import os\nchild = 0\nwhile True:", 1)
        code = code.replace("    said = True\n", "    if not child: child = os.fork() or -1\n    said = True\n"
                            "    if child > 0: print(child, flush=True)\n    child = -1\n")
        with far_program(32, "8M", code) as program:
            child = int(program.stdout.readline())
            try:
                rows = {pid: await_row(pid, lambda row: row["faults_per_s"] > 0) for pid in (program.pid, child)}
                self.assertTrue(all(row["state"] == "far" for row in rows.values()), rows)
            finally:
                os.kill(child, signal.SIGKILL)

    def test_a_name_that_would_clear_the_screen_does_not(self):
        code = ("import ctypes\nctypes.CDLL(None).prctl(15, b'\\x1b[2Jname', 0, 0, 0)\n" + TOUCH)
        with far_program(1, "1G", code) as program:
            self.assertEqual(await_row(program.pid, lambda row: True)["command"], "?[2Jname")

    def test_figures_that_are_none(self):
        """Any process can make a page of statistics; this one's are nonsense."""
        texts = ["", "[", "[" * 9000, "null", "{}", '{"version":1}', '{"version":2,"recent":{},"stats":{}}',
                 '{"version":1,"pid":PID,"recent":{"faults_per_s":"x\\u001b[2J"},"stats":{"budget_pages":-1e300}}']
        for text in texts:
            with self.subTest(text=text[:40]):
                page = os.memfd_create("spiritos-stats")
                body = text.replace("PID", str(os.getpid())).encode()
                os.write(page, struct.pack("<QQQ", 0x3173746174537053, 2, len(body)) + body)
                out = subprocess.run([SPIRITOS, "top", "--plain", "--count", "1"], capture_output=True, check=True)
                os.close(page)
                self.assertNotIn(b"\x1b", out.stdout)
                rows = [line for line in out.stdout.splitlines() if line.split()[:1] == [b"%d" % os.getpid()]]
                self.assertEqual(len(rows), 1 if "PID" in text else 0, out.stdout)
                if rows:
                    self.assertIn(b"silent", rows[0])

    def test_a_table_for_pipes(self):
        with far_program(64, "16M") as program:
            await_row(program.pid, lambda row: row["faults_per_s"] > 0)
            out = subprocess.run([SPIRITOS, "top", "--count", "2", "--interval", "0.1"], capture_output=True,
                                 text=True, check=True, stdin=subprocess.DEVNULL).stdout
        self.assertEqual(len(re.findall(r"^ +PID +COMMAND +STATE +RESIDENT +BUDGET +FAR +FAULTS/s ", out, re.M)), 2)
        self.assertEqual(len(re.findall(rf"^ *{program.pid} python\S* +far +\S+ +16M ", out, re.M)), 2, out)

    def run_in_terminal(self, keys, until, **environment):
        """What it draws until it ends, with `keys` typed once `until` was seen."""
        pid, terminal = pty.fork()
        if pid == 0:
            os.environ.update({"TERM": "xterm", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", **environment})
            os.execv(SPIRITOS, [SPIRITOS, "top", "--interval", "0.2"])
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 160, 0, 0))
        drawn = b""
        deadline = time.monotonic() + PATIENCE_S
        with contextlib.suppress(OSError):  # EIO: it has ended.
            while time.monotonic() < deadline:
                ready, _, _ = select.select([terminal], [], [], 1)
                if ready:
                    drawn += os.read(terminal, 65536)
                if keys and until in drawn:
                    os.write(terminal, keys)
                    keys = b""
        os.close(terminal)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), drawn

    def test_a_screen_until_q_is_pressed(self):
        with far_program(64, "16M") as program:
            await_row(program.pid, lambda row: row["faults_per_s"] > 0)
            number = str(program.pid).encode()
            status, drawn = self.run_in_terminal(b"rsfpq", number)
        self.assertEqual(status, 0, drawn)
        for part in (b"spiritos top", b"RESIDENT", b"LATELY", b"q quit", b"python", "█".encode()):
            self.assertIn(part, drawn)

    def test_a_terminal_that_nobody_knows(self):
        status, drawn = self.run_in_terminal(b"", b"", TERM="nonesuch")
        self.assertEqual(status, 1)
        self.assertIn(b"TERM=nonesuch", drawn)
        self.assertIn(b"--plain", drawn)


class Stat(unittest.TestCase):
    def stat(self, *words):
        return subprocess.run([SPIRITOS, "stat", *map(str, words)], capture_output=True, text=True)

    def test_all_figures_of_a_process(self):
        with far_program(64, "16M") as program:
            await_row(program.pid, lambda row: row["faults_per_s"] > 0)
            done = self.stat(program.pid)
        self.assertEqual(done.returncode, 0, done.stderr)
        figures = dict(re.findall(r"^(\w+) ([0-9.]+)$", done.stdout, re.M))
        self.assertEqual(figures["budget_pages"], "4096")
        self.assertGreater(int(figures["evicted_pages"]), 4096)
        self.assertEqual(figures["lost_pages"], "0")
        self.assertIn("faults_per_s", figures)

    def test_what_has_none(self):
        for words, said in (((os.getpid(),), "has no far memory so far"), ((2**22 + 1,), "there is no process"),
                            ((), "PID or --metrics"), ((1, "--metrics", "1"), "excludes")):
            with self.subTest(words=words):
                done = self.stat(*words)
                self.assertNotEqual(done.returncode, 0)
                self.assertIn(said, done.stderr + done.stdout)


if __name__ == "__main__":
    SPIRITOS = os.path.abspath(sys.argv.pop(1))
    skip_without_threads(SPIRITOS)
    unittest.main(verbosity=2)
