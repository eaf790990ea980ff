#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tests of the lints: each plants one fault in a small sound tree and expects it found."""

import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
import check_layers  # noqa: E402  (beside this file)

HERE = pathlib.Path(__file__).resolve().parent
TOP = "// SPDX-License-Identifier: Apache-2.0\n// A file that stands for many others.\n"
HEADER = TOP + "#pragma once\n"
README = """# libos

```layers
libos/base    ->
libos/mem     -> libos/base
libos/fault   -> libos/base
libos         -> libos/base libos/mem libos/fault
runtime       -> libos/base libos
runtime/shim  -> libos/base runtime
examples      -> PUBLIC
test          -> ANY
PUBLIC = libos/space.h
         libos/base/units.h
```

```fences
infiniband/           libos/remote/rdma_*
linux/userfaultfd.h   libos/fault/uffd.* test/*
```
"""
SOUND = {
    "libos/README.md": README,
    "libos/base/units.h": HEADER + "#include <cstdint>\n",
    "libos/mem/page.h": HEADER + '#include "libos/base/units.h"\nusing Page = uint64_t;\n',
    "libos/fault/uffd.cc": TOP + "#include <linux/userfaultfd.h>\n",
    "libos/fault/kvm/abi.h": HEADER + '#include "libos/base/units.h"\n',
    "libos/space.h": HEADER + '#include <memory>\n\n#include "libos/base/units.h"\n',
    "libos/space.cc": TOP + '#include "libos/space.h"\n\n#include "libos/mem/page.h"\n',
    "libos/base/meson.build": "base_dep = declare_dependency(link_with: base)\n",
    "libos/mem/meson.build": "mem_dep = declare_dependency(dependencies: [base_dep, fmt_dep])\n",
    "examples/hello.cc": TOP + '#include "libos/space.h"\n',
    "test/mem_test.cc": TOP + '#include "libos/mem/page.h"\n',
    "tool": "#!/bin/sh\n# SPDX-License-Identifier: Apache-2.0\n# Does a thing for the tree.\n",
}


class TreeTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)
        for path, text in SOUND.items():
            self.write(path, text)

    def write(self, path, text):
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def run_lint(self, name, *options):
        command = [sys.executable, str(HERE / name), *options, str(self.root)]
        return subprocess.run(command, capture_output=True, text=True)


class FindingsTest(TreeTest):
    def found(self):
        table = check_layers.Table((self.root / "libos/README.md").read_text())
        findings, _ = check_layers.check_tree(self.root, table)
        return [f"{path}:{line}: {text}" for path, line, text in findings]

    def expect(self, path, text, finding):
        """After the file is planted there is exactly this one finding."""
        self.write(path, text)
        found = self.found()
        self.assertEqual(len(found), 1, found)
        self.assertTrue(found[0].startswith(path + ":"), found)
        self.assertIn(finding, found[0])


class Layers(FindingsTest):
    def test_a_sound_tree_has_no_findings(self):
        self.assertEqual(self.found(), [])
        done = self.run_lint("check_layers.py")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertIn("0 findings", done.stdout)

    def test_a_finding_fails_the_program(self):
        self.write("libos/mem/bad.cc", "int x;\n")
        done = self.run_lint("check_layers.py")
        self.assertEqual(done.returncode, 1)
        self.assertIn("libos/mem/bad.cc:1: ", done.stdout)

    def test_folders_of_one_row_do_not_know_each_other(self):
        self.expect("libos/mem/bad.cc", TOP + '#include "libos/fault/uffd.h"\n',
                    ":3: libos/mem may not include libos/fault")

    def test_nobody_includes_upwards(self):
        self.expect("libos/base/bad.cc", TOP + '#  include "libos/space.h"\n', "may not include")

    def test_angle_brackets_hide_nothing(self):
        self.expect("libos/mem/bad.cc", TOP + "#include <libos/space.h>\n", "may not include")

    def test_a_sub_folder_goes_with_the_row_above_it(self):
        self.expect("libos/fault/kvm/bad.cc", TOP + '#include "libos/mem/page.h"\n',
                    "libos/fault may not include libos/mem")

    def test_a_new_folder_needs_a_row(self):
        self.expect("libos/cache/bad.cc", TOP, "no row")

    def test_an_include_of_a_folder_without_row_is_found(self):
        self.expect("libos/bad.cc", TOP + '#include "libos/cache/x.h"\n', "no row")

    def test_a_source_outside_the_rows_is_found(self):
        self.expect("src/bad.cc", TOP, "no row")

    def test_a_sub_row_does_not_inherit(self):
        self.expect("runtime/shim/bad.cc", TOP + '#include "libos/space.h"\n', "may not include")

    def test_examples_see_public_headers_only(self):
        self.expect("examples/bad.cc", TOP + '#include "libos/mem/page.h"\n', "may not include")

    def test_includes_are_spelled_from_the_root(self):
        self.expect("libos/mem/bad.cc", TOP + '#include "page.h"\n', "from the root")

    def test_no_way_round_by_dots(self):
        self.expect("libos/mem/bad.cc", TOP + '#include "libos/base/../space.h"\n', "from the root")

    def test_a_fence_keeps_others_out(self):
        self.expect("libos/mem/bad.cc", TOP + "#include <linux/userfaultfd.h>\n", "alone")

    def test_a_fence_covers_a_whole_folder(self):
        self.expect("test/bad.cc", TOP + "#include <infiniband/verbs.h>\n", "alone")

    def test_a_public_header_includes_public_headers(self):
        self.expect("libos/space.h", HEADER + '#include "libos/mem/page.h"\n', "not public")

    def test_a_public_header_includes_no_other_package(self):
        self.expect("libos/space.h", HEADER + "#include <fmt/format.h>\n", "standard library")

    def test_a_public_header_includes_no_system_header(self):
        self.expect("libos/space.h", HEADER + "#include <unistd.h>\n", "standard library")

    def test_a_public_header_may_include_what_is_promised(self):
        self.write("libos/space.h", HEADER + '#include <stdint.h>\n#include "absl/time/time.h"\n')
        self.assertEqual(self.found(), [])

    def test_the_build_keeps_to_the_table(self):
        text = "# mem_dep\nx = 'mem_dep'\ny = [base_dep,\n mem_dep]\n"
        self.expect("libos/fault/meson.build", text,
                    ":4: libos/fault may not depend on libos/mem")

    def test_top_rows_link_what_they_like(self):
        self.write("test/meson.build", "executable('t', dependencies: [mem_dep, base_dep])\n")
        self.assertEqual(self.found(), [])

    def test_a_table_that_names_a_row_below_is_refused(self):
        self.write("libos/README.md", README.replace("libos/base    ->", "libos/base -> libos/mem"))
        done = self.run_lint("check_layers.py")
        self.assertEqual(done.returncode, 2)
        self.assertIn("not a row above it", done.stderr)

    def test_a_missing_table_is_refused(self):
        self.write("libos/README.md", "# libos\n")
        self.assertEqual(self.run_lint("check_layers.py").returncode, 2)


class Shape(FindingsTest):
    def test_the_licence_line_is_on_top(self):
        self.expect("libos/mem/bad.cc", "// A file about the memory of it.\n", "licence")

    def test_scripts_carry_the_licence_under_the_shebang(self):
        self.expect("tool", "#!/bin/sh\n# Does a thing for the tree.\n", "licence")

    def test_a_header_has_pragma_once(self):
        self.expect("libos/mem/bad.h", TOP, "#pragma once")

    def test_a_file_says_what_it_is_for(self):
        self.expect("libos/mem/bad.cc", TOP.splitlines()[0] + "\nint x;\n", "what this file is for")

    def test_a_long_file_is_found(self):
        self.expect("libos/mem/bad.cc", TOP + "int x;\n" * 600, "602 lines")

    def test_a_path_of_one_machine_is_found(self):
        self.expect("notes.md", "see /ho" + "me/ada/notes\n", "path of one machine")

    def test_a_tracker_number_is_found(self):
        self.expect("libos/mem/bad.cc", TOP + "// Mends Issu" + "e 12.\n", "tracker")

    def test_a_sleep_is_found(self):
        self.expect("test/bad.cc", TOP + "std::this_thread::sleep_for(x);\n", "sleep_for")

    def test_a_sleep_that_is_measured_may_stay(self):
        self.write("test/good.cc", TOP + "usleep(1);  // lint: sleep is the thing measured\n")
        self.assertEqual(self.found(), [])

    def test_a_comment_may_speak_of_sleep(self):
        self.write("test/good.cc", TOP + "// Never nanosleep here.\n")
        self.assertEqual(self.found(), [])

    def test_binary_files_are_left_alone(self):
        self.write("test/data.bin", "\0/ho" + "me/\n")
        self.assertEqual(self.found(), [])


class Headers(TreeTest):
    def check(self):
        return self.run_lint("check_headers.py", "--cache", str(self.root / "build/passed.json"))

    def setUp(self):
        super().setUp()
        done = self.check()
        if done.returncode == 77:
            self.skipTest(done.stdout.strip())
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_a_second_run_compiles_nothing(self):
        self.assertIn("3 checks: 0 failed, 0 left out, 3 unchanged; 1 headers", self.check().stdout)

    def test_a_header_that_leans_on_others_is_found(self):
        self.write("libos/mem/bad.h", HEADER + "std::vector<int> numbers;\n")
        done = self.check()
        self.assertEqual(done.returncode, 1)
        self.assertIn("libos/mem/bad.h: does not compile alone", done.stdout)
        self.assertEqual(self.check().returncode, 1, "a failure is not remembered as passed")

    def test_a_header_that_its_source_includes_later_is_checked(self):
        self.write("libos/space.cc", TOP + '#include <vector>\n#include "libos/space.h"\n')
        self.write("libos/space.h", HEADER + "std::vector<int> numbers;\n")
        self.assertIn("libos/space.h: does not compile alone", self.check().stdout)

    def test_a_header_included_twice_must_compile(self):
        self.write("libos/mem/bad.h", TOP + "struct Twice {};\n")
        self.assertEqual(self.check().returncode, 1)

    def test_a_change_below_a_header_checks_it_again(self):
        self.write("libos/base/units.h", HEADER)  # libos/mem/page.h leans on <cstdint>.
        done = self.check()
        self.assertEqual(done.returncode, 1)
        self.assertIn("libos/mem/page.h: does not compile alone", done.stdout)

    def test_a_c_header_must_be_c(self):
        self.write("runtime/x_c.h", HEADER + "class NotC;\n")
        self.assertEqual(self.check().returncode, 1)

    def test_a_fenced_package_may_be_missing(self):
        self.write("libos/remote/rdma_x.h", HEADER + "#include <infiniband/nonesuch.h>\n")
        done = self.check()
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIn("1 left out", done.stdout)


class Format(TreeTest):
    def test_only_the_agreed_layout_passes(self):
        shutil.copy(HERE.parents[1] / ".clang-format", self.root)
        command = ["bash", str(HERE / "check_format.sh"), str(self.root)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 77:
            self.skipTest(done.stdout.strip())
        self.assertEqual(done.returncode, 0, done.stderr)
        self.write("libos/mem/bad.cc", TOP + "int   x ;\n")
        done = subprocess.run(command, capture_output=True, text=True)
        self.assertEqual(done.returncode, 1)
        self.assertIn("libos/mem/bad.cc", done.stderr)


if __name__ == "__main__":
    unittest.main()
