#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""redis-server under the shim: what it stores, and what its forked children save.

usage: redis_test.py SPIRITOS [KEYS]
"""
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

from memory_server import local_pool, skip_without_threads

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "examples" / "unmodified_redis"))
from resp import Client  # noqa: E402

SPIRITOS = ""
REDIS = "/usr/bin/redis-check-rdb"  # The same program: it is a server under the server's name.
KEYS = 8_000
VALUE_BYTES = 3000
BATCH = 500


def value(key, version):
    unit = b"%d/%d;" % (key, version)
    return (unit * (VALUE_BYTES // len(unit) + 1))[:VALUE_BYTES]


class Server:
    def __init__(self, folder, *options, far="embedded:"):
        path = pathlib.Path(folder, "redis.sock")
        program = pathlib.Path(folder, "redis-server")
        if not program.exists():
            program.symlink_to(REDIS)
        command = [str(program), "--port", "0", "--unixsocket", str(path), "--dir", str(folder), "--save", "",
                   "--logfile", str(pathlib.Path(folder, "log")), *options]
        if far:
            local = KEYS * VALUE_BYTES // 4
            command = [SPIRITOS, "run", "--quiet", "--local", str(local), "--pool", far, "--stats", "exit",
                       "--", *command]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.folder = folder
        while True:
            if self.process.poll() is not None:
                raise AssertionError(f"{command} ended: {self.process.stderr.read()} {self.log()}")
            try:
                self.client = Client(path)
                break
            except OSError:
                time.sleep(0.02)  # Until it listens.
        while self.client.info("loading") != "0":
            time.sleep(0.02)

    def log(self):
        file = pathlib.Path(self.folder, "log")
        return file.read_text()[-2000:] if file.exists() else ""

    def end(self):
        self.client.socket.sendall(b"*2\r\n$8\r\nSHUTDOWN\r\n$6\r\nNOSAVE\r\n")
        self.process.wait(60)
        self.client.close()
        said = self.process.stderr.read()
        self.process.stderr.close()
        if self.process.returncode != 0:
            raise AssertionError(f"redis ended with {self.process.returncode}: {said} {self.log()}")
        return said

    def await_child(self, field, status):
        while self.client.info(field) != "0":
            time.sleep(0.02)
        if self.client.info(status) != "ok":
            raise AssertionError(f"{status}: {self.client.info(status)}; {self.log()}")


def load(client, version, keys):
    keys = list(keys)
    for i in range(0, len(keys), BATCH):
        client.batch([[b"SET", b"k%d" % key, value(key, version)] for key in keys[i:i + BATCH]])


def count_wrong(client, version_of):
    wrong = 0
    for i in range(0, KEYS, BATCH):
        part = range(i, min(i + BATCH, KEYS))
        replies = client.batch([[b"GET", b"k%d" % key] for key in part])
        wrong += sum(reply != value(key, version_of(key)) for key, reply in zip(part, replies))
    return wrong


class Redis(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="redis-")
        self.addCleanup(shutil.rmtree, self.folder)

    def test_a_child_saves_what_was_there_when_it_was_forked(self):
        self.save_in_a_child("embedded:")

    def test_a_child_saves_what_is_in_a_memory_server(self):
        with local_pool(SPIRITOS, "1G") as pool:
            self.save_in_a_child(pool)

    def save_in_a_child(self, pool):
        server = Server(self.folder, far=pool)
        load(server.client, 0, range(KEYS))
        self.assertEqual(count_wrong(server.client, lambda key: 0), 0)
        self.assertEqual(server.client("BGSAVE"), b"Background saving started")
        load(server.client, 1, range(0, KEYS, 2))  # While it saves.
        server.await_child("rdb_bgsave_in_progress", "rdb_last_bgsave_status")
        self.assertEqual(count_wrong(server.client, lambda key: 1 - key % 2), 0)
        self.assertIn("evicted_pages", server.end())
        for far in (None, pool):
            again = Server(self.folder, far=far)
            self.assertEqual(again.client("DBSIZE"), KEYS)
            self.assertEqual(count_wrong(again.client, lambda key: 0), 0)
            again.end()

    def test_an_append_only_file_is_rewritten_while_it_grows(self):
        with local_pool(SPIRITOS, "1G") as pool:
            self.rewrite_in_a_child(pool)

    def rewrite_in_a_child(self, pool):
        aof = ("--appendonly", "yes", "--appendfsync", "no")
        server = Server(self.folder, *aof, far=pool)
        load(server.client, 0, range(KEYS))
        self.assertEqual(server.client("BGREWRITEAOF"), b"Background append only file rewriting started")
        load(server.client, 2, range(0, KEYS, 3))
        server.await_child("aof_rewrite_in_progress", "aof_last_bgrewrite_status")
        server.end()
        again = Server(self.folder, *aof, far=None)
        self.assertEqual(count_wrong(again.client, lambda key: 2 if key % 3 == 0 else 0), 0)
        again.end()


if __name__ == "__main__":
    SPIRITOS = sys.argv[1]
    if not pathlib.Path(REDIS).exists():
        print("skipped: no redis (apt-get install redis-tools)")
        sys.exit(77)
    if len(sys.argv) > 2:
        KEYS = int(sys.argv[2])
    skip_without_threads(SPIRITOS)
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]], verbosity=2)
