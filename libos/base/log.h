// SPDX-License-Identifier: Apache-2.0
// Log: one line to standard error, for setup, teardown and daemons.
//
// Forbidden in `signal` and `nofault` code: it may allocate. A message that can
// repeat is said once by its caller.
#pragma once

#include <string_view>

namespace spiritos {

void LogInfo(std::string_view message);     // Shown when SPIRITOS_LOG=info.
void LogWarning(std::string_view message);  // Always shown.

}  // namespace spiritos
