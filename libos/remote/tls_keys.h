// SPDX-License-Identifier: Apache-2.0
// TlsKey: a secret that a tenant and its memory servers share.
//
//   batch-7:6f0c...e1     the tenant's name, a colon, 32 bytes in hexadecimal
//
// A file of such lines is worth nothing once others can read it: such a file is refused.
// Errors name the file and `knob`, which says where it was set. Context: any.
#pragma once

#include <array>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace spiritos {

struct TlsKey {
  static constexpr size_t kSize = 32;

  std::string tenant;
  std::array<std::byte, kSize> secret{};

  // A fresh one.
  static absl::StatusOr<TlsKey> Make(std::string_view tenant);
  std::string ToLine() const;
};

// One key or more, each of another tenant.
absl::StatusOr<std::vector<TlsKey>> ReadKeys(const std::string& path, std::string_view knob);

// The text of a file that its owner alone may read.
absl::StatusOr<std::string> ReadSecretFile(const std::string& path, std::string_view knob);

}  // namespace spiritos
