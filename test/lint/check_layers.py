#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks who includes whom, and the shape of every source file.

usage: check_layers.py [--table FILE] [ROOT]

The include table and the fences around outside packages are read from FILE
(libos/README.md, blocks tagged `layers` and `fences`), so that the text people
read and the rule that fails a build are one. Besides includes it checks that
the `*_dep` variables a folder's meson.build uses respect the same table, and
per file: licence line, `#pragma once`, a comment that says what the file is
for, length, and words that do not belong in the tree.

Exit status: 0 nothing found, 1 findings (one `file:line: text` each), 2 usage.
"""

import argparse
import fnmatch
import pathlib
import re
import subprocess
import sys

MAX_LINES = 600
TOP_LINES = 20  # Where the comment on a file's purpose must begin.
CODE = {".h", ".cc", ".c", ".S"}
SCRIPTS = {".py", ".sh"}
LICENCE = "SPDX-License-Identifier: Apache-2.0"

NO_SLEEP = ("libos/", "alloc/", "arbiter/", "runtime/", "test/")
SLEEP = re.compile(r"\b(sleep_for|sleep_until|usleep|(clock_)?nanosleep)\b")
SLEEP_ALLOWED = "// lint: sleep is the thing measured"
WORDS = (
    (re.compile(r"/(?:home|work)/"), "a path of one machine"),
    (re.compile(r"\bissue #?\d+", re.IGNORECASE), "a number only a tracker can explain"),
)

INCLUDE = re.compile(r'^\s*#\s*include(?:_next)?\s*([<"])([^>"]+)[>"]')
DECLARED_DEP = re.compile(r"^\s*(\w+_dep)\s*=\s*declare_dependency\b", re.MULTILINE)
STD_CXX = re.compile(r"^[a-z_]+$")
STD_C = {
    name + ".h"
    for name in """assert complex ctype errno fenv float inttypes iso646 limits locale math setjmp
    signal stdalign stdarg stdatomic stdbool stddef stdint stdio stdlib stdnoreturn string tgmath
    threads time uchar wchar wctype""".split()
}
PUBLIC_OUTSIDE = ("absl/status/", "absl/time/")


class TableError(Exception):
    """The table itself is wrong, so nothing can be checked against it."""


def tree_files(root):
    """Relative paths of the tree: what git knows or would add, else a walk."""
    git = ["git", "-C", str(root)]
    try:
        prefix = subprocess.run(git + ["rev-parse", "--show-prefix"], capture_output=True)
        if prefix.returncode == 0 and not prefix.stdout.strip():
            listed = subprocess.run(
                git + ["ls-files", "-co", "--exclude-standard", "-z"],
                capture_output=True,
                check=True,
            ).stdout.decode()
            paths = {pathlib.PurePosixPath(p) for p in listed.split("\0") if p}
            return sorted(p for p in paths if (root / p).is_file())
    except (OSError, subprocess.CalledProcessError):
        pass  # No git here, or a tree it will not read: walk instead.
    walked = (pathlib.PurePosixPath(f.relative_to(root)) for f in root.rglob("*") if f.is_file())
    return sorted(
        p for p in walked if p.parts[0] not in (".git", "build") and "__pycache__" not in p.parts
    )


def kind_of(path, text):
    """'code', 'script', 'build', 'prose', 'other', or None for a binary file."""
    if "\0" in text:
        return None
    if path.suffix in CODE:
        return "code"
    if path.suffix in SCRIPTS or (not path.suffix and text.startswith("#!")):
        return "script"
    if path.name in ("meson.build", "meson_options.txt"):
        return "build"
    return "prose" if path.suffix == ".md" else "other"


class Table:
    """The rows of the include table, the public headers and the fences."""

    def __init__(self, text):
        self.allowed = {}  # Row -> the rows it may include, or "PUBLIC" or "ANY".
        self.public = set()
        self.fences = []  # (header prefix, patterns of the files that may include it)
        self._parse_layers(self._block(text, "layers"))
        for line in self._block(text, "fences"):
            header, *patterns = line.split()
            if not patterns:
                raise TableError(f"fence without files: {line}")
            self.fences.append((header, patterns))
        # A row with sub-rows speaks of the files directly in its folder.
        self.direct = {r for r in self.allowed if any(o.startswith(r + "/") for o in self.allowed)}
        self.tops = {row.split("/")[0] for row in self.allowed}

    @staticmethod
    def _block(text, tag):
        found = re.search(rf"^```{tag}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        if not found:
            raise TableError(f"no code block tagged `{tag}`")
        return [line for line in found.group(1).splitlines() if line.strip()]

    def _parse_layers(self, lines):
        in_public = False
        for line in lines:
            if "->" in line:
                in_public = False
                row, _, right = (part.strip() for part in line.partition("->"))
                if row in self.allowed:
                    raise TableError(f"two rows for {row}")
                # Rows name only rows above them: the graph cannot have a cycle.
                unknown = [r for r in right.split() if r not in (*self.allowed, "PUBLIC", "ANY")]
                if unknown:
                    raise TableError(f"{row} names {' '.join(unknown)}, not a row above it")
                self.allowed[row] = right if right in ("PUBLIC", "ANY") else set(right.split())
            elif line.startswith("PUBLIC") and "=" in line:
                in_public = True
                self.public.update(line.partition("=")[2].split())
            elif in_public and line[0].isspace():
                self.public.update(line.split())
            else:
                raise TableError(f"cannot read the line: {line}")
        if not self.allowed:
            raise TableError("the table has no rows")

    def row_of(self, path):
        """The row that governs a file, or None where the table has none."""
        folder = str(path.parent)
        if folder in self.allowed:
            return folder
        for parent in path.parent.parents:
            if str(parent) in self.allowed:
                return None if str(parent) in self.direct else str(parent)
        return None

    def may_include(self, row, target, target_row):
        allowed = self.allowed[row]
        if row == target_row or allowed == "ANY":
            return True
        return str(target) in self.public if allowed == "PUBLIC" else target_row in allowed


def check_includes(table, path, text):
    row = table.row_of(path)
    if row is None:
        yield 1, "no row of the include table covers this folder"
        return
    public = str(path) in table.public
    for number, line in enumerate(text.splitlines(), 1):
        found = INCLUDE.match(line)
        if not found:
            continue
        quote, name = found.groups()
        for header, patterns in table.fences:
            fenced = name.startswith(header) if header.endswith("/") else name == header
            if fenced and not any(fnmatch.fnmatchcase(str(path), p) for p in patterns):
                yield number, f"{name} is for {' '.join(patterns)} alone"
        target = pathlib.PurePosixPath(name)
        if ".." in target.parts or (quote == '"' and len(target.parts) == 1):
            yield number, f"spell the include from the root: {name}"
        elif target.parts[0] in table.tops:
            target_row = table.row_of(target)
            if target_row is None:
                yield number, f"no row of the include table covers {name}"
            elif not table.may_include(row, target, target_row):
                yield number, f"{row} may not include {target_row} ({name})"
            elif public and name not in table.public:
                yield number, f"a public header includes {name}, which is not public"
        elif public and not (
            STD_CXX.match(name) or name in STD_C or name.startswith(PUBLIC_OUTSIDE)
        ):
            yield number, f"a public header includes {name}: only the standard library, " + (
                " and ".join(p.rstrip("/") for p in PUBLIC_OUTSIDE)
            )


def build_code(text):
    """A meson.build without its comments and strings; line numbers stay."""

    def blank(match):
        return "\n" * match.group().count("\n")

    return re.sub(r"'''.*?'''|'(?:\\.|[^'\\\n])*'|#[^\n]*", blank, text, flags=re.DOTALL)


def check_builds(table, builds):
    """Yields (path, line, text) where a meson.build uses a folder's dep against the table."""
    owner = {}
    for path, text in builds.items():
        row = table.row_of(path)
        for name in DECLARED_DEP.findall(build_code(text)) if row else ():
            if owner.setdefault(name, row) != row:
                yield path, 1, f"{name} is declared by {owner[name]} too"
    for path, text in builds.items():
        row = table.row_of(path)
        if row is None or not isinstance(table.allowed[row], set):
            continue  # The root and the top row link what they like.
        for number, line in enumerate(build_code(text).splitlines(), 1):
            for name in re.findall(r"\b\w+_dep\b", line):
                target = owner.get(name, row)
                if target != row and target not in table.allowed[row]:
                    yield path, number, f"{row} may not depend on {target} ({name})"


def check_shape(path, kind, text):
    lines = text.splitlines()
    if kind != "other" and len(lines) > MAX_LINES:
        yield MAX_LINES + 1, f"{len(lines)} lines; {MAX_LINES} is the limit"
    if kind not in ("code", "script"):
        return
    first = 1 if lines and lines[0].startswith("#!") else 0
    if not lines[first:] or LICENCE not in lines[first]:
        yield first + 1, f"the top line is not the licence ({LICENCE})"
    if path.suffix == ".h" and "#pragma once" not in lines:
        yield 1, "no `#pragma once`"
    if not any(states_purpose(line, kind) for line in lines[first : first + TOP_LINES]):
        yield 1, f"no comment in the first {TOP_LINES} lines says what this file is for"


def states_purpose(line, kind):
    marks = r"\s*(?://+|/\*+|\*)\s*" if kind == "code" else r'\s*(?:#+|"""|\'\'\')\s*'
    found = re.match(marks, line)
    if not found or LICENCE in line or re.search(r"clang-format|shellcheck|NOLINT", line):
        return False
    return len(re.findall(r"[A-Za-z]\w+", line[found.end() :])) >= 3


def check_words(path, kind, text):
    for number, line in enumerate(text.splitlines(), 1):
        for pattern, meaning in WORDS:
            found = pattern.search(line)
            if found:
                yield number, f"{meaning}: {found.group()}"
        if kind == "code" and str(path).startswith(NO_SLEEP):
            found = SLEEP.search(line.partition("//")[0])
            if found and not line.rstrip().endswith(SLEEP_ALLOWED):
                yield number, f"{found.group()}: wait for the event itself, not for time to pass"


def check_tree(root, table):
    """All findings as (path, line, text), and the number of files looked at."""
    findings, builds, count = [], {}, 0
    for path in tree_files(root):
        text = (root / path).read_text(encoding="utf-8", errors="replace")
        kind = kind_of(path, text)
        if kind is None:
            continue
        count += 1
        if kind == "build":
            builds[path] = text
        checks = [check_shape(path, kind, text), check_words(path, kind, text)]
        if kind == "code":
            checks.append(check_includes(table, path, text))
        findings += [(path, line, text) for check in checks for line, text in check]
    findings += check_builds(table, builds)
    return sorted(findings), count


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=pathlib.Path, help="default: ROOT/libos/README.md")
    parser.add_argument("root", nargs="?", type=pathlib.Path, metavar="ROOT",
                        default=pathlib.Path(__file__).resolve().parents[2])
    args = parser.parse_args()
    table_path = args.table or args.root / "libos/README.md"
    try:
        table = Table(table_path.read_text(encoding="utf-8"))
    except (OSError, TableError) as error:
        print(f"{table_path}: {error}", file=sys.stderr)
        return 2
    findings, count = check_tree(args.root.resolve(), table)
    for path, line, text in findings:
        print(f"{path}:{line}: {text}")
    print(f"{count} files, {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
