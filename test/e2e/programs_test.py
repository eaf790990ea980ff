#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Programs that nobody here wrote: each as it is, and with a share of its memory local.

usage: programs_test.py SPIRITOS [--long] [--shares 25,10] [--local] [--json FILE] [NAME...]

A program's results must be the same, byte for byte. Its memory is what it used at most
when it ran as it is. The table says how long each run took; without --long the jobs are
small, and the times mean little. With --local there is one more run, with all memory local.
"""

import argparse
import glob
import hashlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zlib

from memory_server import skip_without_threads

LEAST_BUDGET = 4 << 20
# Little memory, or children that end without a word of what they evicted.
MAY_SEEM_LOCAL = ("openssl", "stress-ng", "nginx")


class Failure(Exception):
    pass


class Skip(Exception):
    pass


def far_prefix(spiritos, budget, pool="embedded:"):
    return [spiritos, "run", "--quiet", "--local", str(budget), "--pool", pool, "--stats", "exit", "--"]


class Run:
    """How to start a job's programs, as they are or behind a command's prefix; what they used."""

    def __init__(self, folder, prefix=()):
        self.folder = folder
        self.prefix = prefix
        self.evicted = 0
        self.peak = 0
        self.cpu_s = 0

    def start(self, command, before=(), **options):
        """`before` is what comes before the prefix: another user, say."""
        log = tempfile.TemporaryFile(dir=self.folder)
        process = subprocess.Popen([*before, *self.prefix, *map(str, command)], stderr=log, **options)
        process.log = log
        return process

    def finish(self, process, expected=0):
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        self.peak = max(self.peak, usage.ru_maxrss << 10)
        self.cpu_s += usage.ru_utime + usage.ru_stime
        process.log.seek(0)
        said = process.log.read().decode(errors="replace")
        process.log.close()
        self.evicted += sum(int(pages) for pages in re.findall(r"^evicted_pages (\d+)$", said, re.M))
        for trouble in ("check failed", "spiritos: warning"):
            if trouble in said:
                raise Failure(said[-2000:])
        if expected is not None and process.returncode != expected:
            raise Failure(f"{process.args} ended with {process.returncode}: {said[-2000:]}")
        return said

    def __call__(self, *command, output=None, **options):
        """Runs it to its end; the digest of what it prints, or that goes to the file `output`."""
        with open(output, "wb") if output else tempfile.TemporaryFile(dir=self.folder) as file:
            self.finish(self.start(command, stdout=file, **options))
        if output:
            return digest_of(output)
        return None

    def prints(self, *command, **options):
        path = pathlib.Path(self.folder, "printed")
        return self(*command, output=path, **options)


def digest_of(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def need(name):
    found = shutil.which(name)
    if found is None:
        raise Skip(f"no {name}")
    return found


def text_file(folder, megabytes):
    """Lines in no order, as much alike as a log's."""
    path = pathlib.Path(folder, "lines.txt")
    chance = random.Random(11)
    with open(path, "w") as file:
        for part in range(megabytes * 16):
            file.writelines(f"{chance.getrandbits(40):010x} worker-{i % 97} served request {part * 1024 + i:09d} in "
                            f"{chance.getrandbits(9)} ms\n" for i in range(1024))
    return path


# Each prepares its input, and gives back a function that runs the job by a Run and returns
# what must be the same in every run.

def sort(folder, scale):
    path = text_file(folder, 1024 if scale else 24)
    return lambda run: run.prints(need("sort"), "--buffer-size=3G", "--parallel=2", path)


def xz(folder, scale):
    path = text_file(folder, 96 if scale else 6)
    packed = pathlib.Path(folder, "packed.xz")

    def job(run):
        first = run(need("xz"), "-9", "--threads=1", "--stdout", path, output=packed)
        return first, run.prints("xz", "--decompress", "--stdout", packed)
    return job


def zstd(folder, scale):
    path = text_file(folder, 192 if scale else 8)
    packed = pathlib.Path(folder, "packed.zst")

    def job(run):
        first = run(need("zstd"), "--ultra", "-19" if scale else "-12", "--long=31", "-c", path, output=packed)
        return first, run.prints("zstd", "--decompress", "--long=31", "-c", packed)
    return job


def gcc(folder, scale):
    path = pathlib.Path(folder, "large.c")
    with open(path, "w") as file:
        for i in range(6000 if scale else 400):
            file.write(f"int f{i}(int a, const int *p) {{ int s = {i};\n"
                       f"  for (int k = 0; k < a; ++k) {{ s += p[k] * {i % 13 + 1}; if (s & {1 << i % 9}) s ^= k << 2;\n"
                       f"    switch (s % 7) {{ case 0: s += f{max(0, i - 1)}(k % 3, p); break; case 3: s -= k; }} }}\n"
                       f"  return s; }}\n")
    result = pathlib.Path(folder, "large.o")

    def job(run):
        run(need("gcc"), "-O2", "-g", "-c", path, "-o", result)
        return digest_of(result)
    return job


def perl(folder, scale):
    count = 3_000_000 if scale else 150_000
    program = (f"my %h; for my $i (1..{count}) {{ $h{{($i * 7919) % 1000003 . 'k'}} .= chr(65 + $i % 26) x 9 }} "
               "my $n = 0; for my $k (sort keys %h) { $n = ($n * 31 + length($h{$k}) + ord($k)) % 1000000007 } "
               "print scalar(keys %h), ' ', $n")
    return lambda run: run.prints(need("perl"), "-e", program)


def openssl(folder, scale):
    path = text_file(folder, 256 if scale else 8)

    def job(run):
        run(need("openssl"), "speed", "-seconds", "1", "sha256")
        encrypted = run.prints("openssl", "enc", "-aes-256-ctr", "-pass", "pass:word", "-nosalt", "-pbkdf2", "-in", path)
        return encrypted, run.prints("openssl", "dgst", "-sha512", path)
    return job


def sqlite(folder, scale):
    rows = 4_000_000 if scale else 150_000
    script = (f"create table t(a integer primary key, b text, c integer); "
              f"with recursive r(i) as (select 1 union all select i + 1 from r where i < {rows}) "
              f"insert into t select i, printf('%032d-%08x', i * 7919 % 6000011, i * 2654435761), i * 31 % 1009 from r; "
              "create index by_text on t(b); create index by_number on t(c); "
              "select count(*), sum(c), max(b) from t; select c, count(*), min(b) from t group by c limit 50; "
              "delete from t where a % 7 = 0; update t set b = b || 'x' where c = 5; "
              "select sum(length(b)) from t; pragma integrity_check;")
    return lambda run: run.prints(need("sqlite3"), ":memory:", script)


def python_dict(folder, scale):
    count = 4_000_000 if scale else 200_000
    program = ("import random, zlib; r = random.Random(3); d = {}\n"
               f"for i in range({count}): d[r.randrange(10**9)] = str(i) * 5\n"
               "for k in sorted(d)[::3]: del d[k]\n"
               "print(len(d), sum(len(v) for v in d.values()), zlib.crc32(repr(sorted(d.items())[:10000]).encode()))")
    return lambda run: run.prints(sys.executable, "-c", program, env={**os.environ, "PYTHONHASHSEED": "0"})


def numpy(folder, scale):
    python = "/usr/bin/python3"
    if subprocess.run([python, "-c", "import numpy"], capture_output=True).returncode != 0:
        raise Skip("no numpy")
    size = 30_000_000 if scale else 1_000_000
    program = ("import numpy as n, hashlib; r = n.random.default_rng(1)\n"
               f"a = r.integers(0, 1 << 40, {size}); b = n.sort(a); c = n.argsort(a, kind='stable')\n"
               f"m = r.standard_normal(({int(size ** 0.5) // 4}, 400)); s = n.round(n.linalg.svd(m, compute_uv=False), 6)\n"
               "for x in (b, c, s, n.unique(a % 100003)): print(hashlib.sha256(x.tobytes()).hexdigest())")
    return lambda run: run.prints(python, "-c", program, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"})


def python_suite(folder, scale):
    modules = ["test_dict", "test_list", "test_set", "test_array", "test_bytes", "test_memoryview", "test_deque"]
    if scale:
        modules += ["test_mmap", "test_threading", "test_thread", "test_signal", "test_gc", "test_buffer", "test_ctypes",
                    "test_subprocess", "test_fork1", "test_multiprocessing_fork", "test_posix", "test_pickle", "test_io"]
    if subprocess.run([sys.executable, "-c", "import test.test_dict"], capture_output=True).returncode != 0:
        raise Skip("no tests with this Python")

    def job(run):
        # By their results: what they print differs from run to run.
        run(sys.executable, "-m", "test", "-q", *modules, cwd=folder, stdin=subprocess.DEVNULL)
        return True
    return job


def git(folder, scale):
    source = pathlib.Path(folder, "origin")
    plain = {**os.environ, "GIT_AUTHOR_DATE": "2000-01-01T00:00Z", "GIT_COMMITTER_DATE": "2000-01-01T00:00Z",
             "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b",
             "GIT_CONFIG_GLOBAL": "/dev/null"}
    chance = random.Random(2)

    def plainly(*command):
        subprocess.run([need("git"), "-C", source, *command], check=True, env=plain, capture_output=True)
    source.mkdir()
    plainly("init", "-q")
    for commit in range(60 if scale else 8):
        for name in range(40):
            with open(source / f"file{name}", "a") as file:
                file.writelines(f"{chance.getrandbits(60):x} {commit}\n" for _ in range(2000 if scale else 200))
        plainly("add", "-A")
        plainly("commit", "-q", "-m", f"commit {commit}")

    def job(run):
        copy = pathlib.Path(folder, "copy")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(source, copy)
        run("git", "-C", copy, "-c", "pack.threads=2", "gc", "-q", "--aggressive", "--prune=now", env=plain)
        run("git", "-C", copy, "fsck", "--full", "--strict", env=plain)
        return run.prints("git", "-C", copy, "log", "--stat", "-p", env=plain)
    return job


def await_socket(server, path):
    while not path.exists():
        if server.poll() is not None:
            raise Failure(f"{server.args} ended with {server.returncode}")
        time.sleep(0.02)  # Until it listens.


def memcached(folder, scale):
    count = 300_000 if scale else 15_000
    path = pathlib.Path(folder, "memcached.sock")

    def value(key):
        unit = b"%d:" % key
        return (unit * (2000 // len(unit) + 1))[:2000]

    def job(run):
        path.unlink(missing_ok=True)
        user = ["-u", "root"] if os.getuid() == 0 else []
        server = run.start([need("memcached"), "-s", path, "-m", "2048", "-t", "2", *user])
        await_socket(server, path)
        wrong = 0
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            file = client.makefile("rb")
            for first in range(0, count, 100):
                client.sendall(b"".join(b"set k%d 0 0 2000\r\n%s\r\n" % (key, value(key))
                                        for key in range(first, first + 100)))
                wrong += sum(file.readline() != b"STORED\r\n" for _ in range(100))
            keys = list(range(count))
            random.Random(4).shuffle(keys)
            for key in keys:
                client.sendall(b"get k%d\r\n" % key)
                if not file.readline().startswith(b"VALUE"):
                    wrong += 1
                    continue
                wrong += file.read(2002) != value(key) + b"\r\n"
                file.readline()
            file.close()
        server.terminate()
        run.finish(server)
        return wrong
    return job


def nginx(folder, scale):
    """Files over a Unix socket, compressed on the way; two workers."""
    program = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")
    if program is None:
        raise Skip("no nginx")
    chance = random.Random(6)
    files = [b"".join(b"%x line %d\n" % (chance.getrandbits(24), i) for i in range(40_000)) for _ in range(8)]
    for i, body in enumerate(files):
        pathlib.Path(folder, f"file{i}.txt").write_bytes(body)
    path = pathlib.Path(folder, "nginx.sock")
    conf = pathlib.Path(folder, "nginx.conf")
    conf.write_text(f"""daemon off; worker_processes 2; pid {folder}/pid; error_log {folder}/error.log;
        {"user root;" if os.getuid() == 0 else ""}
        events {{ worker_connections 64; }}
        http {{ access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
          uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s; gzip on; gzip_types text/plain; gzip_comp_level 6;
          sendfile off; output_buffers 4 1m; gzip_buffers 64 64k;
          server {{ listen unix:{path}; root {folder}; default_type text/plain; }} }}""")

    def get(name):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(b"GET /%s HTTP/1.0\r\nAccept-Encoding: gzip\r\n\r\n" % name.encode())
            answer = b"".join(iter(lambda: client.recv(1 << 16), b""))
        head, _, body = answer.partition(b"\r\n\r\n")
        return zlib.decompress(body, 31) if b"Content-Encoding: gzip" in head else body

    def job(run):
        path.unlink(missing_ok=True)
        server = run.start([program, "-p", folder, "-c", conf, "-e", pathlib.Path(folder, "error.log")])
        await_socket(server, path)
        wrong = sum(get(f"file{i % 8}.txt") != files[i % 8] for i in range(400 if scale else 24))
        server.send_signal(signal.SIGQUIT)
        run.finish(server)
        return wrong
    return job


def postgresql(folder, scale):
    """pgbench, and queries that sort, hash and aggregate; its shared memory stays near."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin"))
    if not found:
        raise Skip("no postgresql")
    programs = pathlib.Path(found[-1])
    user = []
    if os.getuid() == 0:  # It refuses root. Handler threads need more than its user may.
        shutil.chown(folder, "postgres", "postgres")
        user = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups",
                "--inh-caps", "+sys_ptrace", "--ambient-caps", "+sys_ptrace"]
    rows = 1_500_000 if scale else 100_000
    queries = ("select count(*), sum(abalance) from pgbench_accounts; "
               "select sum(bbalance) = (select sum(delta) from pgbench_history) from pgbench_branches; "
               f"create table t as select i, md5(i::text) m, i % 997 c from generate_series(1, {rows}) i; "
               "create index on t(m); "
               "select md5(string_agg(m, ',' order by m)) from t where c < 400; "
               "select sum(n) from (select c, count(*) n, min(m) from t group by c) q; "
               "select count(*) from t a join t b on a.m = b.m and a.c = b.c;")

    def job(run):
        data = pathlib.Path(folder, "data")
        subprocess.run(["rm", "-rf", data], check=True)
        subprocess.run([*user, programs / "initdb", "-A", "trust", "-E", "UTF8", "--locale=C", "-D", data], check=True,
                       capture_output=True, cwd=folder)
        server = run.start([programs / "postgres", "-D", data, "-k", folder, "-c", "listen_addresses=", "-c",
                            "work_mem=256MB", "-c", "max_parallel_workers_per_gather=0", "-c", "shared_buffers=64MB",
                            "-c", "fsync=off"], before=user, stdout=subprocess.DEVNULL, cwd=folder)
        await_socket(server, pathlib.Path(folder, ".s.PGSQL.5432"))

        def client(*command):
            done = subprocess.run([*user, programs / command[0], "-h", folder, *command[1:], "postgres"],
                                  capture_output=True, text=True, cwd=folder)
            if done.returncode != 0:
                raise Failure(f"{command}: {done.stderr[-1000:]}")
            return done.stdout
        while subprocess.run([programs / "pg_isready", "-q", "-h", folder]).returncode != 0:
            time.sleep(0.05)  # Until it is ready.
        client("pgbench", "-i", "-q", "-s", "10" if scale else "2")
        client("pgbench", "-c", "4", "-t", "1000" if scale else "50")
        count, equal, *rest = client("psql", "-At", "-c", queries).splitlines()
        server.send_signal(signal.SIGINT)
        run.finish(server)
        return count.split("|")[0], equal, rest
    return job


def java(folder, scale):
    need("javac")
    count = 3_000_000 if scale else 200_000
    pathlib.Path(folder, "Job.java").write_text("""
        import java.util.*;
        public class Job {
          public static void main(String[] a) throws Exception {
            HashMap<Long, String> map = new HashMap<>(); Random random = new Random(3);
            for (int i = 0; i < COUNT; i++) map.put(random.nextLong() % 1000000000L, Integer.toString(i).repeat(5));
            long sum = 0; for (var e : map.entrySet()) sum += e.getKey() * 31 + e.getValue().length();
            long[] sums = new long[4]; Thread[] threads = new Thread[4];
            for (int t = 0; t < 4; t++) { final int n = t; threads[t] = new Thread(() -> {
                long[][] rows = new long[100][];
                for (int k = 0; k < 2000; k++) { rows[k % 100] = new long[5000]; rows[k % 100][k] = k * n; }
                for (long[] row : rows) for (long x : row) sums[n] += x; }); threads[t].start(); }
            for (Thread t : threads) t.join();
            System.out.println(map.size() + " " + sum + " " + Arrays.toString(sums));
          } }""".replace("COUNT", str(count)))
    subprocess.run(["javac", "-d", folder, pathlib.Path(folder, "Job.java")], check=True)
    return lambda run: run.prints(need("java"), "-Xmx1g", "-cp", folder, "Job")


def stress_ng(stressor, *options):
    def prepare(folder, scale):
        seconds = "20" if scale else "2"

        def job(run):
            run(need("stress-ng"), f"--{stressor}", "2", *options, "--verify", "--timeout", seconds, "--temp-path", folder)
            return True
        return job
    return prepare


PROGRAMS = {
    "sort": sort, "xz": xz, "zstd": zstd, "gcc": gcc, "perl": perl, "openssl": openssl, "sqlite": sqlite,
    "python dict": python_dict, "numpy": numpy, "python's tests": python_suite, "git gc": git, "memcached": memcached,
    "nginx": nginx, "postgresql": postgresql, "java": java,
    "stress-ng vm": stress_ng("vm", "--vm-bytes", "128M"),
    "stress-ng vm-rw": stress_ng("vm-rw", "--vm-rw-bytes", "32M"),
    "stress-ng mmap": stress_ng("mmap", "--mmap-bytes", "64M"),
    "stress-ng mremap": stress_ng("mremap", "--mremap-bytes", "32M"),
    "stress-ng malloc": stress_ng("malloc", "--malloc-bytes", "64M", "--malloc-max", "64"),
    "stress-ng fork": stress_ng("fork"),
    "stress-ng brk": stress_ng("brk"),
}


def run_once(spiritos, folder, job, budget):
    run = Run(folder, far_prefix(spiritos, budget) if budget else ())
    begin = time.monotonic()
    result = job(run)
    return {"seconds": round(time.monotonic() - begin, 2), "result": result, "peak": run.peak, "evicted": run.evicted,
            "budget": budget}


def test_one(name, options):
    """The rows of a program: its runs by share."""
    with tempfile.TemporaryDirectory(prefix="programs-") as folder:
        job = PROGRAMS[name](folder, options.long)
        plain = run_once(options.spiritos, folder, job, None)
        rows = {"as it is": plain}
        shares = [*([200] if options.local else []), *options.shares]
        for share in shares:
            budget = max(LEAST_BUDGET, plain["peak"] * share // 100)
            row = run_once(options.spiritos, folder, job, budget)
            if row["result"] != plain["result"]:
                raise Failure(f"with {share} % local the results differ: {row['result']}, not {plain['result']}")
            if share <= 25 and row["evicted"] == 0 and not name.startswith(MAY_SEEM_LOCAL):
                raise Failure(f"with {share} % local nothing was far: nothing was tested")
            rows[f"{share} %"] = row
        return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("spiritos", type=os.path.abspath)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(PROGRAMS))
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--local", action="store_true")
    parser.add_argument("--shares", type=lambda text: [int(share) for share in text.split(",")], default=[25, 10])
    parser.add_argument("--json")
    options = parser.parse_intermixed_args()
    unknown = set(options.names) - set(PROGRAMS)
    if unknown:
        parser.error(f"unknown programs {', '.join(sorted(unknown))}; known are {', '.join(PROGRAMS)}")
    skip_without_threads(options.spiritos)
    all_rows = {}
    failed = []
    names = options.names or list(PROGRAMS)
    for number, name in enumerate(names, 1):
        print(f"[{number}/{len(names)}] {name}", flush=True)
        try:
            all_rows[name] = test_one(name, options)
        except Skip as why:
            print(f"    skipped: {why}")
        except Failure as why:
            print(f"    FAILED: {why}")
            failed.append(name)
        else:
            for share, row in all_rows[name].items():
                print(f"    {share:>8}: {row['seconds']:8.2f} s, {row['evicted']} pages evicted", flush=True)
    columns = ["as it is", *(["200 %"] if options.local else []), *(f"{share} %" for share in options.shares)]
    print("\n| Program | memory | " + " | ".join(columns) + " |\n|" + "---|" * (len(columns) + 2))
    for name, rows in all_rows.items():
        plain = rows["as it is"]
        cells = [f"{row['seconds']:.1f} s" if row is plain else
                 f"{row['seconds']:.1f} s, {row['seconds'] / max(plain['seconds'], 0.01):.1f}x" for row in rows.values()]
        print(f"| {name} | {plain['peak'] >> 20} MiB | " + " | ".join(cells) + " |")
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(all_rows, indent=1, default=str))
    if failed:
        print(f"\nfailed: {', '.join(failed)}")
    return 1 if failed else 0 if all_rows else 77


if __name__ == "__main__":
    sys.exit(main())
