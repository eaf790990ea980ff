// SPDX-License-Identifier: Apache-2.0
// HostPort: where a daemon listens, as operators write it.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace spiritos::cli {

struct HostPort {
  std::string host = "127.0.0.1";
  int port = -1;  // 0 = any that is free.

  // "host:port", "[v6]:port", or "port" of the loopback address.
  static absl::StatusOr<HostPort> Parse(std::string_view text);
  std::string ToString() const;
};

}  // namespace spiritos::cli
