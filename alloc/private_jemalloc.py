#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes libspiritos' own copy of jemalloc out of the static library that the distribution ships.

    private_jemalloc.py --archive libjemalloc_pic.a --output jemalloc_spiritos.o

The members are linked into one relocatable object in which the few functions that alloc/ calls are
named spiritos_je_*, and every other definition is local: malloc, operator new, the je_* internals and
whatever else the archive defines can neither replace nor meet a symbol of the program. Of what jemalloc
imports, the names in REPLACED go to alloc/private_jemalloc.cc instead of the C library.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile

# What alloc/private_jemalloc.h declares.
CALLED = ["mallocx", "xallocx", "dallocx", "sallocx", "mallctl"]

# Variables that alloc/private_jemalloc.cc sets: the configuration, which has a weak definition here and
# a strong one there, and an internal one, found under the je_ prefix.
SET = ["malloc_conf", "opt_cache_oblivious"]

# The configuration comes from us alone, not from the program's MALLOC_CONF nor from /etc/malloc.conf;
# fork handlers are registered when the first heap is made.
REPLACED = ["secure_getenv", "readlink", "pthread_atfork"]

# jemalloc's operator new and delete: nothing here calls them.
DROPPED = "jemalloc_cpp"


def run(*command, cwd=None):
    return subprocess.run(command, check=True, cwd=cwd, stdout=subprocess.PIPE, text=True).stdout


def global_names(nm, path, defined):
    """The names of `path`'s global symbols: the defined ones, or the ones it imports."""
    option = "--defined-only" if defined else "--undefined-only"
    return {line.split()[0] for line in run(nm, "--extern-only", "--format=posix", option, path).splitlines() if line}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--archive", required=True, help="path, or a name that the compiler finds")
    parser.add_argument("--output", required=True)
    parser.add_argument("--ar", default="ar")
    parser.add_argument("--ld", default="ld")
    parser.add_argument("--nm", default="nm")
    parser.add_argument("--objcopy", default="objcopy")
    parser.add_argument("--compiler", nargs="+", default=["cc"], help="asked where the archive is")
    args = parser.parse_args()

    archive = args.archive
    if "/" not in archive:
        archive = run(*args.compiler, f"-print-file-name={archive}").strip()
    archive = pathlib.Path(archive).resolve()
    if not archive.is_file():
        sys.exit(f"{archive} is not there: install libjemalloc-dev")

    with tempfile.TemporaryDirectory() as directory:
        directory = pathlib.Path(directory)
        members = [m for m in run(args.ar, "t", archive).split() if DROPPED not in m]
        if len(members) != len(set(members)):
            sys.exit(f"{archive} has members of one name")
        run(args.ar, "x", archive, *members, cwd=directory)
        run(args.ld, "-r", "-o", "merged.o", *members, cwd=directory)

        merged = directory / "merged.o"
        defined = global_names(args.nm, merged, defined=True)
        ours = {n if n in defined else f"je_{n}": f"spiritos_je_{n}" for n in CALLED + SET}
        imports = {n: f"spiritos_je_{n}" for n in REPLACED}
        missing = ours.keys() - defined | imports.keys() - global_names(args.nm, merged, defined=False)
        if missing:
            sys.exit(f"{archive} lacks {sorted(missing)}: it is not the jemalloc that this was made for")

        names = "".join(f"{old} {new}\n" for old, new in (ours | imports).items())
        (directory / "names").write_text(names)
        (directory / "global").write_text("\n".join(ours.values()))
        # Without its constructor, jemalloc sets itself up when the first heap is made, not in every
        # process that the library is loaded into.
        run(args.objcopy, "--remove-section=.init_array", "--remove-section=.rela.init_array",
            f"--redefine-syms={directory / 'names'}", merged, directory / "renamed.o")
        run(args.objcopy, f"--keep-global-symbols={directory / 'global'}", directory / "renamed.o", args.output)

    strays = {n for n in global_names(args.nm, args.output, defined=True) if not n.startswith("spiritos_je_")}
    if strays:
        sys.exit(f"{args.output} still defines {sorted(strays)}")


if __name__ == "__main__":
    main()
