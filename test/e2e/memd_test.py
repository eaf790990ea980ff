#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs `spiritos memd`, `stat` and `doctor` as an operator does.

usage: memd_test.py SPIRITOS TREE [unittest's options]
"""

import contextlib
import ctypes
import json
import os
import pathlib
import re
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import unittest
import urllib.request

import memory_server
from memory_server import READY_S

SPIRITOS, TREE = sys.argv[1], pathlib.Path(sys.argv[2])


def run(*words, **options):
    return subprocess.run([SPIRITOS, *map(str, words)], capture_output=True, text=True,
                          timeout=READY_S, check=False, **options)


def memd(*words, **options):
    return memory_server.memd(SPIRITOS, *words, **options)


def place_of(scheme, said):
    return re.search(scheme + r"://([^\s,/]+)", said).group(1)


def gauge(said, name):
    with urllib.request.urlopen(f"http://{place_of('http', said)}/metrics") as answer:
        text = answer.read().decode()
    return int(re.search(rf"^spiritos_memd_{name} (\d+)", text, re.MULTILINE).group(1))


def line_with(text, stream):
    """The next line of the stream with the text in it; the suite's timeout is its patience."""
    for line in stream:
        if text in line:
            return line
    raise AssertionError(f"no line with {text}")


class Folder(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(dir="/dev/shm")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def refused(self, *words, **options):
        """What memd says when it does not start."""
        ended = run("memd", *words, **options)
        self.assertEqual(ended.returncode, 1, ended)
        self.assertEqual(ended.stdout, "")
        self.assertTrue(ended.stderr.startswith("spiritos memd: "), ended.stderr)
        return ended.stderr


class ConfigFile(Folder):
    def write(self, text):
        path = self.folder / "memd.toml"
        path.write_text(text)
        return path

    def test_says_where_and_what_is_wrong(self):
        for line, key, allowed in (
            ("memroy = 1", "memroy", "memory, unix, tcp"),
            ("lease = 'x'", "lease", "a number"),
            ("lease = 0.5", "lease", "1"),
            ("memory = '12Q'", "memory", "64M or 1.5G"),
            ("memory = [1]", "memory", "a text in quotes"),
            ("no-lock = 1", "no-lock", "true or false"),
            ("quota = 1.5", "quota", "1.5"),
            ("unix = true", "unix", "a text in quotes"),
            ("tcp = '127.0.0.1:99999'", "tcp", "0 to 65535"),
            ("config = 'x'", "config", "known are"),
            ("[server]", "server", "known are"),
            ("lease = = 1", "", ""),
        ):
            with self.subTest(line):
                path = self.write(f"# A comment.\n\n{line}\n")
                said = self.refused("--config", path)
                self.assertIn(f"{path}:3: ", said)
                self.assertIn(key, said)
                self.assertIn(allowed, said)

    def test_names_a_file_that_is_not_there(self):
        self.assertIn(f"{self.folder}/none", self.refused("--config", self.folder / "none"))

    def test_loses_against_the_command_line(self):
        path = self.write("tcp = 0\nmemory = '128M'\nmetrics = 0\nlease = 5\nno-lock = true\n")
        with memd("--config", path, "--memory", "192M") as (said, _):
            self.assertIn("3 slabs", said)
            self.assertEqual(gauge(said, "slabs"), 3)

    def test_that_is_installed_is_understood(self):
        with memd("--config", TREE / "runtime/cli/memd.toml", "--memory", "64M", "--tcp", "0",
                  "--metrics", "0", "--state", self.folder / "state") as (said, _):
            self.assertIn("1 slabs", said)


    def test_is_read_again_while_the_server_runs(self):
        path = self.write("tcp = 0\nmemory = '128M'\nmetrics = 0\n")
        with memd("--config", path, "--quota", "9", stderr=subprocess.PIPE) as (said, process):
            def reload(text):
                self.write(text)
                process.send_signal(signal.SIGHUP)

            reload("tcp = 0\nmemory = '320M'\nmetrics = 0\ntenant-bandwidth = '100M'\n")
            self.assertIn("5 slabs", line_with("read again", process.stderr))
            self.assertEqual(gauge(said, "slabs"), 5)
            reload("tcp = 0\nmemory = '64M'\nmetrics = 0\nlease = 5\nquota = 1\n")
            self.assertIn("lease is different", line_with("until", process.stderr))
            self.assertIn("1 slabs", line_with("read again", process.stderr))
            self.assertEqual(gauge(said, "slabs"), 1)
            for text, why in (("memory = '63M'", "--memory"), ("memroy = 1", "memroy"),
                              ("memory = '256M'\ntenant-bandwidth = '1M'", "4194304"),
                              ("memory = '100T'", "LimitNOFILE")):
                reload(f"tcp = 0\nmetrics = 0\n{text}\n")
                self.assertIn(why, line_with("not taken over", process.stderr))
                self.assertEqual(gauge(said, "slabs"), 1)

    def test_with_more_than_the_state_has_room_for_waits_for_a_start(self):
        words = ("--config", self.write("memory = '64M'"), "--tcp", "0", "--metrics", "0",
                 "--state", self.folder / "state")
        with memd(*words, stderr=subprocess.PIPE) as (said, process):
            self.write("memory = '128M'")
            process.send_signal(signal.SIGHUP)
            self.assertIn("--state", line_with("not taken over", process.stderr))
            self.assertEqual(gauge(said, "slabs"), 1)


class Drain(unittest.TestCase):
    def test_ends_with_a_reload(self):
        with memd("--memory", "128M", "--tcp", "0", "--metrics", "0",
                  stderr=subprocess.PIPE) as (said, process):
            process.send_signal(signal.SIGUSR1)
            line_with("draining", process.stderr)
            line_with("have come back", process.stderr)
            self.assertEqual(gauge(said, "slabs_free"), 0)
            process.send_signal(signal.SIGHUP)
            line_with("2 slabs", process.stderr)
            self.assertEqual(gauge(said, "slabs_free"), 2)


class ServiceManager(Folder):
    def test_hears_ready_alive_and_stopping(self):
        path = str(self.folder / "notify")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(path)
            manager.settimeout(READY_S)
            environment = {**os.environ, "NOTIFY_SOCKET": path, "WATCHDOG_USEC": "900000"}
            with memd("--memory", "64M", "--tcp", "0", env=environment) as (said, _):
                heard = manager.recv(4096).decode()
                self.assertIn("READY=1", heard)
                self.assertIn(said.partition(": ")[2].strip(), heard)
                for _ in range(3):
                    self.assertEqual(manager.recv(4096), b"WATCHDOG=1")
            while (last := manager.recv(4096)) == b"WATCHDOG=1":
                pass
            self.assertEqual(last, b"STOPPING=1")


class Metrics(Folder):
    def test_are_complete_and_stat_shows_them(self):
        with memd("--memory", "128M", "--tcp", "0", "--metrics", "0") as (said, _):
            pool = {**os.environ, "SPIRITOS_POOL": f"tcp://{place_of('tcp', said)}"}
            findings = json.loads(run("doctor", "--json", env=pool).stdout)
            self.assertEqual({f["check"]: f["grade"] for f in findings}["pool"], "ok")
            self.assertEqual(gauge(said, "connections_total"), 4)
            with urllib.request.urlopen(f"http://{place_of('http', said)}/metrics") as answer:
                lines = answer.read().decode().splitlines()
            for line in lines:
                if line.startswith("spiritos_memd_") and not line.startswith("#"):
                    name = re.match(r"\w+", line).group()
                    kind = "counter" if name.endswith("_total") else "gauge"
                    self.assertIn(f"# TYPE {name} {kind}", lines)
            shown = run("stat", "--metrics", place_of("http", said))
            self.assertEqual(shown.returncode, 0, shown.stderr)
            self.assertIn("0 rented, 2 free, 2 in all", shown.stdout)
            self.assertRegex(shown.stdout, r"\nconnections +4 ")

    def test_are_shown_again_and_again_with_rates(self):
        with memd("--memory", "64M", "--tcp", "0", "--metrics", "0") as (said, _):
            words = [SPIRITOS, "stat", "--metrics", place_of("http", said), "--watch", "0.1"]
            with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as stat:
                seen = 0
                for line in stat.stdout:
                    seen += "a second" in line
                    if seen == 3:
                        break
                stat.terminate()
            self.assertEqual(seen, 3)

    def test_of_a_port_that_is_taken_are_refused(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            self.assertIn("--metrics", self.refused("--tcp", "0", "--metrics", port))

    def test_stat_says_when_nobody_answers(self):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        ended = run("stat", "--metrics", port)
        self.assertEqual(ended.returncode, 1)
        self.assertIn(f"127.0.0.1:{port}", ended.stderr)


class State(Folder):
    def serve(self):
        return memd("--memory", "64M", "--tcp", "0", "--state", self.folder / "state")

    def test_belongs_to_one_server(self):
        with self.serve():
            said = self.refused("--tcp", "0", "--state", self.folder / "state")
            self.assertIn("another server runs", said)
        with self.serve():
            pass

    def test_is_not_for_what_others_may_write(self):
        self.folder.chmod(0o770)
        self.assertIn("mode 700", self.refused("--tcp", "0", "--state", self.folder))

    def test_and_files_for_this_machine_exclude_each_other(self):
        said = self.refused("--unix", self.folder / "s", "--state", self.folder / "state")
        self.assertIn("--unix", said)

    def test_of_another_boot_is_begun_anew(self):
        with self.serve():
            pass
        path = self.folder / "state" / "directory"
        before = path.read_bytes()
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip().encode()
        self.assertEqual(before.count(boot), 1)
        path.write_bytes(before.replace(boot, boot[::-1]))
        (self.folder / "state" / "slab-7").write_bytes(b"old")
        with self.serve():
            pass
        after = path.read_bytes()
        self.assertIn(boot, after)
        self.assertNotEqual(after[:64], before[:64])
        self.assertFalse((self.folder / "state" / "slab-7").exists())

    def test_that_is_none_is_left_alone(self):
        (self.folder / "directory").write_bytes(b"somebody's letters" * 1000)
        self.folder.chmod(0o700)
        said = self.refused("--tcp", "0", "--state", self.folder)
        self.assertIn(f"{self.folder}/directory: it is no directory of slabs", said)
        self.assertTrue((self.folder / "directory").read_bytes().startswith(b"somebody's"))


class Limits(Folder):
    def test_of_open_files_are_named(self):
        def few():
            resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))

        self.assertIn("LimitNOFILE=272", self.refused("--tcp", "0", preexec_fn=few))


def refuse_userfaultfd():
    """A seccomp filter as containers have it, from here to the end of the process."""
    code = ((0x20, 0, 0, 0), (0x15, 0, 1, 323), (6, 0, 0, 0x50001), (6, 0, 0, 0x7FFF0000))
    filters = b"".join(struct.pack("HBBI", *step) for step in code)
    buffer = ctypes.create_string_buffer(filters)
    program = struct.pack("HxxxxxxP", len(code), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(38, 1, 0, 0, 0) != 0 or libc.prctl(22, 2, program, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


class Doctor(unittest.TestCase):
    def findings(self, **options):
        ended = run("doctor", "--json", **options)
        findings = {finding["check"]: finding for finding in json.loads(ended.stdout)}
        ill = [f for f in findings.values() if f["grade"] == "fix"]
        self.assertEqual(ended.returncode, 1 if ill else 0)
        self.assertTrue(all(f["fix"] for f in ill), ill)
        return findings

    def test_finds_a_pool_that_does_not_answer(self):
        with socket.create_server(("127.0.0.1", 0)) as free:
            place = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        found = self.findings(env={**os.environ, "SPIRITOS_POOL": place})["pool"]
        self.assertEqual(found["grade"], "fix")
        self.assertIn(place, found["says"])

    def test_finds_a_variable_that_is_misspelt(self):
        found = self.findings(env={**os.environ, "SPIRITOS_BUGDET": "1G"})["SPIRITOS_ variables"]
        self.assertEqual(found["grade"], "fix")
        self.assertIn("SPIRITOS_BUDGET", found["says"])

    def test_finds_a_container_without_userfaultfd(self):
        found = self.findings(preexec_fn=refuse_userfaultfd)["userfaultfd"]
        self.assertEqual(found["grade"], "fix")
        self.assertIn("seccomp-userfaultfd.json", found["fix"])

    def test_offers_a_profile_that_allows_it(self):
        profile = json.loads((TREE / "runtime/cli/seccomp-userfaultfd.json").read_text())
        refused = {name for rule in profile["syscalls"] for name in rule["names"]
                   if rule["action"] != "SCMP_ACT_ALLOW"}
        self.assertEqual(profile["defaultAction"], "SCMP_ACT_ALLOW")
        self.assertFalse(refused & {"userfaultfd", "process_madvise", "mlock2"})


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]])
