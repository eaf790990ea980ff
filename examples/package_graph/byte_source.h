// SPDX-License-Identifier: Apache-2.0
// ByteSource: a file read from front to back, decompressed on the way.
//
// The name's ending chooses the format: .gz, .xz, .lz4, .zst, anything else is
// plain. Buffers are small and live in near memory, so that the reading of a
// large index costs none of the budget.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>

#include "absl/status/statusor.h"

namespace package_graph {

class ByteSource {
 public:
  static absl::StatusOr<std::unique_ptr<ByteSource>> Open(const std::filesystem::path& path);
  virtual ~ByteSource() = default;

  // Fills some of `out`, which is not empty. 0 = the end, and the file was whole.
  virtual absl::StatusOr<size_t> Read(std::span<char> out) = 0;
};

}  // namespace package_graph
