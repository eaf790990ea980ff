// SPDX-License-Identifier: Apache-2.0
// Names the programs and runs one from its first phase to its last.
#include "bench/workload.h"

#include <array>

#include "libos/base/status.h"

namespace spiritos::bench {
namespace {

struct ProgramInfo {
  std::string_view name;
  std::string_view operation;
  bool fixed_work;
};

// In the order of the enumeration.
constexpr std::array<ProgramInfo, kProgramCount> kPrograms = {{
    {"random_read", "read", false},
    {"random_write", "write", false},
    {"zipf_get", "get", false},
    {"sequential_read", "page", true},
    {"triad", "page of each array", true},
    {"quicksort", "key", true},
    {"pagerank", "edge", true},
    {"stride", "read", false},
    {"pointer_chase", "read", false},
}};
static_assert(static_cast<int>(Program::kPointerChase) == kProgramCount - 1);

const ProgramInfo& InfoOf(Program program) { return kPrograms[static_cast<size_t>(program)]; }

}  // namespace

std::string_view ProgramName(Program program) { return InfoOf(program).name; }
std::string_view OperationName(Program program) { return InfoOf(program).operation; }
bool HasFixedWork(Program program) { return InfoOf(program).fixed_work; }

std::optional<Program> ProgramFromName(std::string_view name) {
  for (size_t i = 0; i < kPrograms.size(); ++i)
    if (kPrograms[i].name == name) return static_cast<Program>(i);
  return std::nullopt;
}

std::unique_ptr<Workload> MakeWorkload(Program program, const WorkloadConfig& config) {
  switch (program) {
    case Program::kSequentialRead:
    case Program::kTriad:
      return MakeStreamWorkload(program, config);
    case Program::kQuicksort:
      return MakeQuicksort(config);
    case Program::kPageRank:
      return MakePageRank(config);
    default:
      return MakeAccessWorkload(program, config);
  }
}

absl::StatusOr<WorkloadResult> RunWorkload(Program program, std::byte* block,
                                           const WorkloadConfig& config) {
  const auto workload = MakeWorkload(program, config);
  SPIRITOS_RETURN_IF_ERROR(workload->Fill(block));
  workload->WarmUp();
  WorkloadResult result;
  workload->Run(result);
  SPIRITOS_RETURN_IF_ERROR(workload->Verify());
  return result;
}

}  // namespace spiritos::bench
