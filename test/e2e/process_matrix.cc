// SPDX-License-Identifier: Apache-2.0
// Processes, programs and signals in a program with much memory, which knows of no far memory.
//
//   process_matrix          a line for each row: `name: pass`, or what is refused, or wrong
//   process_matrix again    of itself: a program that another has become
//
// What each row expects is what Linux means; it is the same under the shim.
#include <cstdio>
#include <string_view>

#include "test/e2e/process_matrix/field.h"

int main(int argc, char** argv) {
  using namespace process_matrix;
  if (argc == 2 && std::string_view(argv[1]) == "again") return RunAgain();
  if (argc != 1) {
    std::fprintf(stderr, "usage: process_matrix\n");
    return 2;
  }
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  InstallEarly();
  Field field;
  for (const std::span<const Row> rows : {ForkRows(), ProgramRows(), FaultRows(), SignalRows()}) {
    for (const Row& row : rows) {
      Findings findings;
      row.run(field, findings);
      findings.Expect(field.IsWhole(), "the process's memory is wrong afterwards");
      std::printf("%s: %s\n", row.name, findings.text().empty() ? "pass" : findings.text().c_str());
    }
  }
  return 0;
}
