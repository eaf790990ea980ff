#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Fuzzes with libFuzzer: builds the targets with clang++ and runs them.

usage: fuzz.py --build FOLDER TARGET=RUNS...     (TARGET: frame or session)
       fuzz.py --build FOLDER --keep TARGET=RUNS...

The corpus beside this file is read; what covers more goes to FOLDER/found/TARGET, and
with --keep, minimised, into the corpus. An input that stops a target is in FOLDER.

Exit status: 0 as many runs and nothing found, 1 something found, 77 no clang++ with libFuzzer.
"""

import argparse
import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SOURCES = sorted(
    str(path)
    for path in [
        *(ROOT / "libos/base").glob("*.cc"),
        ROOT / "libos/remote/wire.cc",
        *(ROOT / "libos/remote/server" / name
          for name in ("session.cc", "tenancy.cc", "slab_store.cc", "server_counters.cc")),
    ]
)
FLAGS = ["-std=c++20", "-O1", "-g", "-fno-strict-aliasing", "-ftls-model=initial-exec",
         "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all", "-I", str(ROOT)]
PACKAGES = ["fmt", "absl_status", "absl_statusor", "libisal"]
LONGEST = "512"


def compiler():
    """clang++ if it can link a libFuzzer program, else None."""
    found = os.environ.get("CLANGXX") or shutil.which("clang++")
    if not found:
        return None
    probe = subprocess.run(
        [found, "-fsanitize=fuzzer,address", "-x", "c++", "-", "-o", "/dev/null"], text=True,
        input='extern "C" int LLVMFuzzerTestOneInput(const char*, unsigned long) { return 0; }',
        capture_output=True)
    return found if probe.returncode == 0 else None


def flags_of(kind):
    return subprocess.run(["pkg-config", kind, *PACKAGES], check=True, capture_output=True,
                          text=True).stdout.split()


def build(clang, folder, targets):
    """Compiles all sources and links every target."""
    flags = FLAGS + [flag.replace("-I", "-isystem") for flag in flags_of("--cflags")]

    def compile_one(source):
        path = folder / (str(pathlib.Path(source).relative_to(ROOT)).replace("/", "_") + ".o")
        subprocess.run([clang, *flags, "-c", source, "-o", path], check=True)
        return path

    sources = SOURCES + [str(HERE / f"{target}_fuzz.cc") for target in targets]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = dict(zip(sources, pool.map(compile_one, sources)))
    shared = [objects[source] for source in SOURCES]
    for target in targets:
        subprocess.run([clang, *FLAGS, objects[str(HERE / f"{target}_fuzz.cc")], *shared,
                        *flags_of("--libs"), "-o", folder / target], check=True)


def fuzz(folder, target, runs):
    """Executions that ended well; raises when one did not."""
    found = folder / "found" / target
    found.mkdir(parents=True, exist_ok=True)
    ended = subprocess.run(
        [folder / target, f"-runs={runs}", f"-max_len={LONGEST}", "-print_final_stats=1",
         f"-artifact_prefix={folder}/{target}-", "-verbosity=0", found, HERE / "corpus" / target],
        stderr=subprocess.PIPE, text=True)
    if ended.returncode != 0:
        print(ended.stderr[-6000:])
        raise SystemExit(f"{target} stopped; the input is {folder}/{target}-*")
    return int(re.search(r"number_of_executed_units:\s*(\d+)", ended.stderr)[1])


def keep(folder, target):
    """Merges what was found into the corpus, as far as it covers more."""
    subprocess.run([folder / target, "-merge=1", "-verbosity=0", HERE / "corpus" / target,
                    folder / "found" / target], check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=pathlib.Path, required=True)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("targets", nargs="+", metavar="TARGET=RUNS")
    options = parser.parse_args()
    wanted = {name: int(runs) for name, _, runs in (t.partition("=") for t in options.targets)}
    clang = compiler()
    if clang is None:
        print("skipped: no clang++ that links -fsanitize=fuzzer (Debian: clang, libclang-rt-14-dev)")
        return 77
    folder = options.build.resolve() / "libfuzzer"
    folder.mkdir(parents=True, exist_ok=True)
    build(clang, folder, wanted)
    total = 0
    for target, runs in wanted.items():
        executed = fuzz(folder, target, runs)
        print(f"{target}: {executed} executions, nothing found", flush=True)
        if executed < runs:
            return 1
        total += executed
        if options.keep:
            keep(folder, target)
    print(f"{total} executions in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
