#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compiles every header alone, twice included: it needs nothing before it.

usage: check_headers.py [--cache FILE] [--jobs N] [-I DIR]... [ROOT]

A header that its own source file includes before all else is left to the build,
which compiles it alone that way. A header named `*_c.h` is compiled as C11 too. A header that passed is not
compiled again until it, a project header below it, or the compiler changes.
The compilers are $CXX and $CC, else g++ and gcc.

Exit status: 0 all compile, 1 some do not, 2 usage, 77 no compiler.
"""

import argparse
import concurrent.futures
import hashlib
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

sys.dont_write_bytecode = True
import check_layers  # noqa: E402  (beside this file)

PACKAGES = ("absl_base", "absl_status", "absl_time", "fmt")
MISSING = re.compile(r"fatal error: (\S+): No such file")


def output(command):
    """What a command prints, or None where it cannot run or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None


class Compiler:
    """One language's command line, and what identifies it in the cache."""

    def __init__(self, command, flags):
        self.command = command + flags + ["-fsyntax-only", "-"]
        version = output(command + ["--version"])
        self.usable = version is not None
        self.identity = "\0".join([version or "", *self.command])

    def errors(self, root, header):
        """None if the header compiles alone, else what the compiler says."""
        twice = f'#include "{header}"\n' * 2
        done = subprocess.run(
            self.command, input=twice, cwd=root, capture_output=True, text=True
        )
        return None if done.returncode == 0 else done.stderr


def left_to_the_build(root, header):
    """Whether x.cc includes x.h first."""
    source = (root / header).with_suffix(".cc")
    if not source.is_file():
        return False
    for line in source.read_text(encoding="utf-8", errors="replace").splitlines():
        if found := check_layers.INCLUDE.match(line):
            return found.group(2) == str(header)
    return False


def project_closure(root, tops, header):
    """The header and the project headers it reaches, each with its text."""
    texts, queue = {}, [str(header)]
    while queue:
        name = queue.pop()
        if name in texts or not (root / name).is_file():
            continue
        texts[name] = (root / name).read_text(encoding="utf-8", errors="replace")
        for line in texts[name].splitlines():
            found = check_layers.INCLUDE.match(line)
            if found and found.group(2).split("/")[0] in tops:
                queue.append(found.group(2))
    return texts


def cache_key(identity, header, texts):
    digest = hashlib.sha256(f"{identity}\0{header}\0".encode())
    for name in sorted(texts):
        digest.update(f"{name}\0{texts[name]}\0".encode())
    return digest.hexdigest()


def load_cache(path):
    try:
        return set(json.loads(path.read_text()))
    except (OSError, ValueError):
        return set()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=pathlib.Path, help="file that remembers what passed")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("-I", dest="include", action="append", default=[], metavar="DIR")
    parser.add_argument("root", nargs="?", type=pathlib.Path, metavar="ROOT",
                        default=pathlib.Path(__file__).resolve().parents[2])
    args = parser.parse_args()
    root = args.root.resolve()
    try:
        table = check_layers.Table((root / "libos/README.md").read_text(encoding="utf-8"))
    except (OSError, check_layers.TableError) as error:
        print(f"libos/README.md: {error}", file=sys.stderr)
        return 2

    packages = output(["pkg-config", "--cflags", *PACKAGES])
    versions = output(["pkg-config", "--modversion", *PACKAGES])
    flags = ["-I.", *(f"-I{d}" for d in args.include), *shlex.split(packages or "")]
    cxx = Compiler(shlex.split(os.environ.get("CXX", "g++")), ["-std=c++20", "-x", "c++", *flags])
    c = Compiler(shlex.split(os.environ.get("CC", "gcc")), ["-std=c11", "-x", "c", *flags])
    if not cxx.usable or not c.usable:
        print(f"skipped: cannot run {cxx.command[0]} and {c.command[0]}")
        return 77

    passed = load_cache(args.cache) if args.cache else set()
    work = []  # (header, compiler, key)
    total, built, keys = 0, 0, set()
    for path in check_layers.tree_files(root):
        if path.suffix != ".h":
            continue
        if left_to_the_build(root, path):
            built += 1
            continue
        texts = project_closure(root, table.tops, path)
        for compiler in (cxx, c) if path.name.endswith("_c.h") else (cxx,):
            total += 1
            key = cache_key(f"{compiler.identity}\0{versions}", path, texts)
            keys.add(key)
            if key not in passed:
                work.append((path, compiler, key))

    failures, skips = 0, 0
    with concurrent.futures.ThreadPoolExecutor(max(1, args.jobs)) as pool:
        results = pool.map(lambda item: item[1].errors(root, item[0]), work)
        for (header, _, key), errors in zip(work, results):
            missing = MISSING.search(errors or "")
            if errors is None:
                passed.add(key)
            elif missing and missing.group(1).startswith(tuple(f for f, _ in table.fences)):
                skips += 1
                print(f"{header}: not checked, <{missing.group(1)}> is not installed")
            else:
                failures += 1
                print(f"{header}: does not compile alone\n{errors.rstrip()}\n")
    if args.cache:
        args.cache.parent.mkdir(parents=True, exist_ok=True)
        fresh = args.cache.with_name(args.cache.name + ".new")
        fresh.write_text(json.dumps(sorted(passed & keys)))
        os.replace(fresh, args.cache)
    print(f"{total} checks: {failures} failed, {skips} left out, {total - len(work)} unchanged; "
          f"{built} headers compiled alone by the build")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
