#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Programs that nobody linked with this, run by `spiritos run` and as they are.

usage: run_test.py SPIRITOS MAPPING_FUZZ UNSEEN_IO [unittest's options]

What they print must be the same, and most of their memory must have been far: otherwise
nothing was tested.
"""

import contextlib
import errno
import hashlib
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import zlib

from memory_server import local_pool, skip_without_threads

SPIRITOS = ""
MAPPING_FUZZ = ""
UNSEEN_IO = ""
FUZZ_SEEDS = int(os.environ.get("FUZZ_SEEDS", 8))  # Of 10 000 operations each.
CANNOT_BEGIN, CANNOT_RUN, NOT_FOUND = 125, 126, 127


def plain(*command, **options):
    return subprocess.run(command, capture_output=True, check=True, **options).stdout


def far(*command, local="8M", options=(), **others):
    """What the command prints, and the runtime's counters."""
    done = subprocess.run([SPIRITOS, "run", "--local", local, "--stats", "exit", *options, "--", *command],
                          capture_output=True, **others)
    said = done.stderr.decode(errors="replace")
    if done.returncode != 0:
        raise AssertionError(f"{command} ended with {done.returncode}: {said}")
    return done.stdout, {name: int(value) for name, value in re.findall(r"^(\w+) (\d+)$", said, re.M)}


def refused(*arguments):
    done = subprocess.run([SPIRITOS, "run", *arguments], capture_output=True, text=True)
    return done.returncode, done.stderr


def real_python():
    """The interpreter itself: what is in PATH may be a script that starts it."""
    return os.path.realpath("/proc/self/exe")


class Programs(unittest.TestCase):
    def same(self, *command, least_evicted, **options):
        out, counters = far(*command, **options)
        self.assertEqual(hashlib.sha256(out).hexdigest(), hashlib.sha256(plain(*command)).hexdigest())
        self.assertGreater(counters.get("evicted_pages", 0), least_evicted)
        self.assertEqual(counters["lost_pages"], 0)

    def test_a_sort_that_outgrows_its_memory(self):
        with tempfile.NamedTemporaryFile("w") as file:
            chance = random.Random(7)
            file.writelines(f"{chance.getrandbits(64):016x} {i}\n" for i in range(1_000_000))
            file.flush()
            self.same("sort", "--buffer-size=1G", "--parallel=2", file.name, least_evicted=10_000)

    def test_python_containers(self):
        job = ("import random; r = random.Random(3); d = {}\n"
               "for i in range(300000): d[r.randrange(10**9)] = str(i) * 5\n"
               "print(sum(hash(k) % 1000 for k in d), len(d), sum(len(v) for v in d.values()))\n"
               "l = sorted(d.items(), key=lambda item: item[1]); print(l[:5], l[-5:])")
        self.same(real_python(), "-c", job, least_evicted=10_000)

    def test_a_compressor_with_a_large_window(self):
        data = random.Random(5).randbytes(1 << 19) * 4
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            self.same("xz", "-3", "--stdout", "--threads=1", file.name, least_evicted=1_000)

    def test_threads_of_their_own(self):
        job = ("import threading, zlib\nout = [None] * 4\n"
               "def work(i):\n"
               "    data = bytes(range(256)) * 4096 * (i + 1)\n"
               "    parts = [zlib.compress(data[j:] + bytes([i])) for j in range(40)]\n"
               "    out[i] = sum(zlib.crc32(zlib.decompress(p)) for p in parts)\n"
               "t = [threading.Thread(target=work, args=(i,)) for i in range(4)]\n"
               "[x.start() for x in t]; [x.join() for x in t]; print(out)")
        self.same(real_python(), "-c", job, local="4M", least_evicted=1_000)

    def test_one_that_fits_stays_in_the_kernels_hands(self):
        done = subprocess.run([SPIRITOS, "run", "--local", "1G", "--stats", "exit", "--", "sort", "--version"],
                              capture_output=True, text=True, check=True)
        self.assertIn("all memory was local", done.stderr)

    def test_programs_that_they_start_run_likewise_unless_told_otherwise(self):
        for children, inherited in (("inherit", True), ("none", False)):
            out, _ = far("/bin/sh", "-c", "exec /usr/bin/env", options=("--children", children), local="64M")
            self.assertEqual(b"SPIRITOS_CONF=" in out, inherited)
            self.assertEqual(b"libspiritos-preload.so" in out, inherited)


class Forks(unittest.TestCase):
    JOB = ("import hashlib, multiprocessing, os, subprocess, threading, time\n"
           "data = [bytes([i % 251]) * 1000 for i in range(60000)]\n"
           "def digest():\n"
           "    total = hashlib.sha256()\n"
           "    for part in data: total.update(part)\n"
           "    return total.hexdigest()\n")

    def pool(self):
        return contextlib.nullcontext("embedded:")

    def prints(self, job, local="8M"):
        with self.pool() as pool:
            out, counters = far(real_python(), "-c", self.JOB + job, local=local, options=("--pool", pool))
        self.assertGreater(counters["evicted_pages"], 10_000)
        return out.decode().split()

    def test_each_has_its_own_memory_from_then_on(self):
        job = ("before = digest(); child = os.fork()\n"
               "mine = b'c' * 1000 if child == 0 else b'p' * 1000\n"
               "same = digest() == before\n"
               "for i in range(len(data)):\n"
               "    if i % 2: data[i] = mine\n"
               "same = same and all(part == (mine if i % 2 else bytes([i % 251]) * 1000) for i, part in enumerate(data))\n"
               "if child == 0: os._exit(0 if same else 1)\n"
               "print(same, os.waitpid(child, 0)[1])\n")
        self.assertEqual(self.prints(job), ["True", "0"])

    def test_children_outlive_their_parents(self):
        job = ("before = digest(); ends = os.pipe()\n"
               "if os.fork() == 0:\n"
               "    if os.fork() == 0:\n"
               "        while os.getppid() != 1 and os.getppid() == parent: time.sleep(0.01)\n"
               "        os.write(ends[1], b'same' if digest() == before else b'other'); os._exit(0)\n"
               "    os._exit(0)\n"
               "os.wait(); os.close(ends[1]); print(os.read(ends[0], 10).decode())\n")
        self.assertEqual(self.prints("parent = os.getpid()\n" + job), ["same"])

    def test_worker_processes(self):
        job = ("def work(i): return sum(data[j][0] for j in range(i, len(data), 8)) + len(b'x' * 10**6)\n"
               "with multiprocessing.get_context('fork').Pool(3) as pool: theirs = pool.map(work, range(8))\n"
               "print(theirs == [work(i) for i in range(8)])\n")
        self.assertEqual(self.prints(job), ["True"])

    def test_amid_threads_that_allocate(self):
        job = ("stop = False\n"
               "def churn():\n"
               "    held = []\n"
               "    while not stop:\n"
               "        held.append(os.urandom(5000))\n"
               "        if len(held) > 2000: held = []\n"
               "threads = [threading.Thread(target=churn) for _ in range(3)]\n"
               "[t.start() for t in threads]\n"
               "before = digest(); bad = 0\n"
               "for _ in range(20):\n"
               "    child = os.fork()\n"
               "    if child == 0:\n"
               "        more = [os.urandom(3000) for _ in range(1000)]\n"
               "        os._exit(0 if digest() == before and len(more) == 1000 else 1)\n"
               "    bad += os.waitpid(child, 0)[1] != 0\n"
               "stop = True; [t.join() for t in threads]; print(bad)\n")
        self.assertEqual(self.prints(job, local="16M"), ["0"])

    def test_to_start_another_program(self):
        job = ("out = subprocess.run(['/bin/sh', '-c', 'echo $0 | tr a-z A-Z', 'word'], stdout=subprocess.PIPE,\n"
               "                     preexec_fn=lambda: digest(), env={'PATH': os.environ['PATH']})\n"
               "print(out.stdout.decode())\n")
        self.assertEqual(self.prints(job), ["WORD"])


class ForksOverAMemoryServer(Forks):
    def pool(self):
        return local_pool(SPIRITOS, "3G")


class MappingCalls(unittest.TestCase):
    def test_mean_what_they_mean_to_the_kernel(self):
        first = random.SystemRandom().randrange(1, 10**6)
        evicted = 0
        for seed in range(first, first + FUZZ_SEEDS):
            with self.subTest(seed=seed):
                out, counters = far(MAPPING_FUZZ, str(seed), "10000")
                self.assertEqual(out, plain(MAPPING_FUZZ, str(seed), "10000"))
                evicted += counters.get("evicted_pages", 0)
        self.assertGreater(evicted, 1_000 * FUZZ_SEEDS)


class UnseenIo(unittest.TestCase):
    """Memory that the kernel has pinned. The folder is on a disk: direct I/O goes past tmpfs's."""

    def run_in_folder(self, *options, early=False):
        with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
            return subprocess.run([SPIRITOS, "run", "--local", "16M", "--stats", "exit", *options, "--",
                                   UNSEEN_IO, folder, *(["early"] if early else [])],
                                  capture_output=True, text=True)

    def test_keeps_every_byte(self):
        with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
            expected = plain(UNSEEN_IO, folder, text=True)
        for early, options in ((False, []), (True, []), (True, ["--allow-unseen-pins"])):
            with self.subTest(early=early, options=options):
                done = self.run_in_folder(*options, early=early)
                if "UFFDIO_MOVE, Linux" in done.stderr:
                    self.skipTest("the kernel has no UFFDIO_MOVE")
                self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
                self.assertEqual(done.stdout, expected)
                kept = int(re.search(r"^pinned_by_kernel (\d+)$", done.stderr, re.M)[1])
                self.assertGreater(kept, 100)

    def test_is_refused_where_the_kernel_cannot_keep_what_is_pinned(self):
        done = self.run_in_folder("--set", "oldest-calls=1")
        self.assertEqual(done.returncode, 2)
        self.assertIn("O_DIRECT: 120 reads", done.stdout)
        self.assertIn("io_uring_queue_init: Function not implemented", done.stdout)
        self.assertIn("--allow-unseen-pins", done.stderr)

    def test_is_allowed_there_with_a_warning(self):
        done = self.run_in_folder("--set", "oldest-calls=1", "--allow-unseen-pins")
        self.assertIn("may be lost", done.stderr)
        self.assertNotIn("not implemented", done.stdout)


class Reports(unittest.TestCase):
    """What --stats prints while the program goes on."""

    @contextlib.contextmanager
    def touching(self, stats, before=""):
        """A program that goes through its memory for ever, once it has been through it."""
        job = (before + "d = bytearray(32 << 20)\nwhile True:\n"
               "    for i in range(0, len(d), 4096): d[i] = (d[i] + 1) % 256\n    print('turn', flush=True)\n")
        process = subprocess.Popen([SPIRITOS, "run", "--quiet", "--local", "8M", "--stats", stats, "--",
                                    real_python(), "-c", job], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                   start_new_session=True)
        process.stdout.readline()
        drain = threading.Thread(target=process.stdout.read)
        drain.start()
        try:
            yield process
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            drain.join()
            process.stdout.close()
            process.stderr.close()

    LINE = (r"spiritos\[(\d+)\]: (\d+) of 8 MiB resident, (\d+) MiB far; (\d+) faults/s, in ([\d.]+) MiB/s, "
            r"out ([\d.]+) MiB/s; a fault takes ([\d.]+) us \(p99 ([\d.]+)\); stalled \d+ %\n")

    def test_a_line_each_interval(self):
        with self.touching("1") as process:
            process.stderr.readline()  # It may not have begun yet.
            for _ in range(2):
                line = process.stderr.readline()
                match = re.fullmatch(self.LINE, line)
                self.assertIsNotNone(match, line)
                pid, resident, far_mib, *rates = (float(part) for part in match.groups())
                self.assertEqual(pid, process.pid)
                self.assertTrue(0 < resident <= 8 and far_mib >= 32 and all(rate > 0 for rate in rates), line)

    def test_a_child_has_lines_of_its_own(self):
        with self.touching("1", before="import os\nchild = os.fork()\n") as process:
            pids = set()
            while len(pids) < 2:
                match = re.match(r"spiritos\[(\d+)\]: ", process.stderr.readline())
                pids |= {match[1]} if match else set()
            self.assertIn(str(process.pid), pids)

    def test_all_figures_at_a_signal(self):
        with self.touching("signal") as process:
            for _ in range(2):
                os.kill(process.pid, signal.SIGUSR2)
                lines = iter(process.stderr.readline, "")
                self.assertTrue(any(re.match(r"stall_ns_p999 \d+$|spiritos: all memory was local", line)
                                    for line in lines))
            self.assertIsNone(process.poll())

    def test_a_program_that_has_a_use_for_the_signal(self):
        own = "import signal, sys\nsignal.signal(signal.SIGUSR2, lambda *_: sys.exit(7))\nprint('set', flush=True)\n"
        process = subprocess.Popen([SPIRITOS, "run", "--quiet", "--stats", "signal", "--", real_python(), "-c",
                                    own + "signal.pause()"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.assertEqual(process.stdout.readline(), b"set\n")
        process.send_signal(signal.SIGUSR2)
        self.assertEqual(process.wait(60), 7)
        process.stdout.close()


def remove_group(group):
    """A process that was just waited for may still count as one of the group."""
    until = time.monotonic() + 10
    while True:
        try:
            return group.rmdir()
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > until:
                raise
        time.sleep(0.01)


@contextlib.contextmanager
def memory_group(test, limit):
    """The file to join it by; of version 1 or 2, whichever has the memory controller."""
    for root, file in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        group = pathlib.Path(root, f"spiritos-test-{os.getpid()}")
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if (group / file).exists():
                (group / file).write_text(str(limit))
                yield group / "cgroup.procs"
                return
        finally:
            remove_group(group)
    test.skipTest("no memory cgroup can be made here")


class LocalAuto(unittest.TestCase):
    JOB = ("import zlib\nd = bytearray(192 << 20)\n"
           "for turn in range(3):\n    for i in range(0, len(d), 4096): d[i] = (d[i] + i // 4096 + turn) % 256\n"
           "print(zlib.crc32(d))\n")

    def test_a_program_stays_within_its_control_group(self):
        with memory_group(self, 128 << 20) as group, local_pool(SPIRITOS, "512M") as pool:
            out, counters = far(real_python(), "-c", self.JOB, local="auto", options=("--pool", pool),
                                preexec_fn=lambda: group.write_text(str(os.getpid())))
        self.assertEqual(out, plain(real_python(), "-c", self.JOB))
        self.assertGreater(counters["evicted_pages"], 10_000)
        self.assertLess(counters["budget_pages"], (112 << 20) // 4096)
        self.assertGreater(counters["budget_pages"], (48 << 20) // 4096)

    def test_a_pool_in_the_process_is_refused(self):
        status, said = refused("--local", "auto", "--pool", "embedded:", "--", "true")
        self.assertEqual(status, CANNOT_BEGIN)
        self.assertIn("pool=embedded:", said)


class ConfigFile(unittest.TestCase):
    def run_with(self, text, *options):
        with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
            file.write(text)
            file.flush()
            return subprocess.run([SPIRITOS, "run", "--config", file.name, *options, "--", "/usr/bin/env"],
                                  capture_output=True, text=True)

    def test_sets_what_the_command_line_does_not(self):
        text = 'local = "96M"\nquiet = true\nset = ["fault-around=4", "prefetch=none"]\n'
        done = self.run_with(text)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stderr, "")
        for pair in ("local=96M", "fault-around=4", "prefetch=none"):
            self.assertRegex(done.stdout, f"SPIRITOS_CONF=.*{pair}")
        self.assertRegex(self.run_with(text, "--local", "80M").stdout, "SPIRITOS_CONF=.*local=80M")

    def test_what_is_wrong_in_it_is_named(self):
        for text, said in (("lokal = 1", ":1: unknown key lokal; known are local, pool"),
                           ("\nlocal = ", ":2: "), ('local = "lots"', "lots"), ('stats = "often"', "stats=often is neither"),
                           ('quiet = "so"', "quiet must be")):
            with self.subTest(text=text):
                done = self.run_with(text)
                self.assertEqual(done.returncode, CANNOT_BEGIN)
                self.assertIn(said, done.stderr)


class Locks(unittest.TestCase):
    def test_all_memory_cannot_be_locked_and_the_program_goes_on(self):
        job = ("import ctypes, errno, os, zlib\nlibc = ctypes.CDLL(None, use_errno=True)\n"
               "def lock(call, *words): return call(*words), errno.errorcode.get(ctypes.get_errno())\n"
               "print(lock(libc.mlockall, 3), lock(libc.syscall, 151, 1), lock(libc.mlockall, 64))\n"
               "d = bytearray(48 << 20)\n"
               "for i in range(0, len(d), 4096): d[i] = i // 4096 % 256\n"
               "print(zlib.crc32(d))\n")
        done = subprocess.run([SPIRITOS, "run", "--local", "8M", "--stats", "exit", "--", real_python(), "-c", job],
                              capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        calls, digest = done.stdout.splitlines()
        self.assertEqual(calls, "(-1, 'ENOMEM') (-1, 'ENOMEM') (-1, 'EINVAL')")
        data = bytearray(48 << 20)
        for i in range(0, len(data), 4096):
            data[i] = i // 4096 % 256
        self.assertEqual(int(digest), zlib.crc32(data))
        self.assertEqual(done.stderr.count("mlockall: "), 1)
        self.assertGreater(int(re.search(r"^evicted_pages (\d+)$", done.stderr, re.M)[1]), 1000)


class BadInput(unittest.TestCase):
    def test_no_command(self):
        status, said = refused("--local", "64M", "--")
        self.assertEqual(status, CANNOT_BEGIN)
        self.assertIn("no command", said)

    def test_unknown_command(self):
        status, said = refused("--", "no-such-command")
        self.assertEqual(status, NOT_FOUND)
        self.assertIn("no-such-command", said)

    def test_unknown_option(self):
        status, said = refused("--lokal", "64M", "true")
        self.assertEqual(status, CANNOT_BEGIN)
        self.assertIn("--lokal", said)

    def test_set_user_id_program(self):
        with tempfile.TemporaryDirectory() as folder:
            program = pathlib.Path(folder, "su")
            program.write_bytes(pathlib.Path("/bin/true").read_bytes())
            program.chmod(0o4755)
            status, said = refused("--", str(program))
            self.assertEqual(status, CANNOT_RUN)
            self.assertIn("set-user-ID", said)

    def test_static_program(self):
        with tempfile.TemporaryDirectory() as folder:
            source = pathlib.Path(folder, "p.c")
            source.write_text("int main(void) { return 0; }\n")
            program = pathlib.Path(folder, "p")
            subprocess.run(["cc", "-static", "-o", str(program), str(source)], check=True)
            status, said = refused("--", str(program))
            self.assertEqual(status, CANNOT_RUN)
            self.assertIn("statically", said)

    def test_budget_below_the_minimum(self):
        status, said = refused("--local", "1M", "--", "true")
        self.assertEqual(status, CANNOT_BEGIN)
        self.assertIn("1048576", said)

    def test_unknown_option_is_named_with_a_suggestion(self):
        status, said = refused("--set", "prefetc=none", "--", "true")
        self.assertEqual(status, CANNOT_BEGIN)
        self.assertIn("SPIRITOS_PREFETCH", said)

    def test_pool_that_is_not_there(self):
        job = "x = [bytes(1000) for i in range(100000)]"
        done = subprocess.run([SPIRITOS, "run", "--local", "8M", "--pool", "shm:///nonexistent.sock", "--",
                               real_python(), "-c", job], capture_output=True, text=True)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("nonexistent.sock", done.stderr)


if __name__ == "__main__":
    SPIRITOS, MAPPING_FUZZ, UNSEEN_IO = sys.argv[1:4]
    skip_without_threads(SPIRITOS)
    unittest.main(argv=[sys.argv[0], *sys.argv[4:]], verbosity=2)
