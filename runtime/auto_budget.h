// SPDX-License-Identifier: Apache-2.0
// AutoBudget: how much local memory a process should have, from what others are short of.
//
//   most      7/8 of MemoryLimit(), less what the process has beside its budget
//   pressure  the share of the time since the last look in which some task of its control
//             group (version 2; else of the machine) waited for memory: Linux' PSI,
//             Documentation/accounting/psi.rst
//
//   pressure >= 10 %   7/8 of what it has, at least a sixteenth of the limit
//   pressure >= 1 %    what it has
//   else               a 32nd of `most` more, up to `most`
//
// Down faster than up, as what is missing is needed now. Without PSI in the kernel there is
// no pressure, and the budget is `most`.
#pragma once

#include <cstdint>
#include <string>

#include "libos/base/units.h"

namespace spiritos {

class AutoBudget {
 public:
  // `root` is where /proc and /sys are.
  explicit AutoBudget(std::string root = "");

  // What the budget should be from now on. `used` of `budget` is in use.
  Bytes Next(Bytes budget, Bytes used, uint64_t now_ns);

 private:
  // Microseconds of waiting since the machine, or the group, began.
  uint64_t ReadPressure() const;

  const std::string root_;
  uint64_t looked_ns_ = 0;
  uint64_t waited_us_ = 0;
};

}  // namespace spiritos
