// SPDX-License-Identifier: Apache-2.0
// Settings: what `spiritos run` tells the shim, in SPIRITOS_CONF.
//
//   SPIRITOS_CONF="local=256M,pool=shm:///run/spiritos/memd.sock,stats=exit"
//
// `local` is the budget, also as a share of the memory that the process may have (25%), or
// `auto`, as much as there is no pressure on (runtime/auto_budget.h), and `mode` the fault mode;
// any other key but those below is the SPIRITOS_* option of its name in lower case. Addresses in
// `pool` are separated by `+`.
//
//   stats      statistics on standard error. exit: all of them when the program ends; signal:
//              at each SIGUSR2, too; 10: a line each ten seconds, too; none: the default
//   unseen-pins  refuse: io_uring, AIO and verbs where the kernel cannot say which memory they
//              have pinned, the default; allow: what devices store there may be lost
//   children   inherit: programs that it starts run likewise, the default; none: as ever
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "libos/base/options.h"

namespace spiritos {

struct Settings {
  Options space;
  enum class Report { kNone, kExit, kSignal, kInterval };
  Report report = Report::kNone;
  uint64_t report_interval_ns = 0;
  bool auto_budget = false;
  bool children = true;
  bool allow_unseen_pins = false;
};

// kInvalidArgument names the key and the value.
absl::StatusOr<Settings> ParseSettings(std::string_view text);

}  // namespace spiritos
