// SPDX-License-Identifier: Apache-2.0
// Reads the limit, the pressure and the process's size; decides.
#include "runtime/auto_budget.h"

#include <algorithm>
#include <fstream>
#include <sstream>
#include <utility>

#include "libos/base/options.h"
#include "runtime/memory_limit.h"

namespace spiritos {
namespace {

constexpr double kHigh = 0.10;
constexpr double kLow = 0.01;

// What the process has in memory, of which `used` is the budget's. What files are mapped the
// kernel can take back, and pools of memory servers are mapped, too.
uint64_t BesideBudget(const std::string& root, Bytes used) {
  std::ifstream statm(root + "/proc/self/statm");
  uint64_t size = 0;
  uint64_t resident = 0;
  uint64_t shared = 0;
  statm >> size >> resident >> shared;
  const uint64_t anonymous = (resident - std::min(resident, shared)) * kPageSize;
  return anonymous - std::min(anonymous, used.raw());
}

}  // namespace

AutoBudget::AutoBudget(std::string root) : root_(std::move(root)) {}

uint64_t AutoBudget::ReadPressure() const {
  std::ifstream groups(root_ + "/proc/self/cgroup");
  std::ifstream file;
  for (std::string line; std::getline(groups, line);) {
    if (line.starts_with("0::"))
      file.open(root_ + "/sys/fs/cgroup" + line.substr(3) + "/memory.pressure");
  }
  if (!file.is_open()) file.open(root_ + "/proc/pressure/memory");
  // some avg10=0.00 avg60=0.00 avg300=0.00 total=0
  std::string word;
  while (file >> word && word != "some") {
  }
  while (file >> word && !word.starts_with("total=")) {
  }
  uint64_t total = 0;
  if (file) std::istringstream(word.substr(word.find('=') + 1)) >> total;
  return total;
}

Bytes AutoBudget::Next(Bytes budget, Bytes used, uint64_t now_ns) {
  const uint64_t limit = MemoryLimit(root_).raw();
  const uint64_t beside = BesideBudget(root_, used);
  const uint64_t least = std::max(limit / 16, kMinBudget.raw());
  const uint64_t most = std::max(limit / 8 * 7 - std::min(limit / 8 * 7, beside), least);
  const uint64_t waited_us = ReadPressure();
  const bool first = looked_ns_ == 0;
  const double pressure = first || now_ns <= looked_ns_
                              ? 0
                              : static_cast<double>(waited_us - std::min(waited_us, waited_us_)) *
                                    1e3 / static_cast<double>(now_ns - looked_ns_);
  looked_ns_ = now_ns;
  waited_us_ = waited_us;
  uint64_t next = budget.raw();
  if (pressure >= kHigh) {
    next = next / 8 * 7;
  } else if (pressure < kLow) {
    next += most / 32;
  }
  return Bytes(std::clamp(next, least, most) / kPageSize * kPageSize);
}

}  // namespace spiritos
