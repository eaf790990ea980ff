// SPDX-License-Identifier: Apache-2.0
// Mapping: mapped memory with one owner.
#pragma once

#include <cstddef>
#include <utility>

#include "absl/status/statusor.h"
#include "libos/base/units.h"

namespace spiritos {

class Mapping {
 public:
  Mapping() = default;
  Mapping(Mapping&& other) noexcept : range_(std::exchange(other.range_, {})) {}
  Mapping& operator=(Mapping&& other) noexcept;
  ~Mapping();

  // Maps `size` bytes of private anonymous memory, without swap reservation, at
  // a multiple of `alignment` (a power of two, at least a page). `what` begins
  // the error message.
  static absl::StatusOr<Mapping> Anonymous(Bytes size, size_t alignment, const char* what);

  // The same without access: address space, for mappings to be put in.
  static absl::StatusOr<Mapping> Reserve(Bytes size, size_t alignment, const char* what);
  // Maps `size` bytes of a file from its beginning, shared.
  static absl::StatusOr<Mapping> OfFile(int file, Bytes size, const char* what);

  std::byte* data() const { return range_.begin; }
  Bytes size() const { return range_.size; }
  AddressRange range() const { return range_; }
  // Gives up ownership; the caller unmaps.
  AddressRange Release() { return std::exchange(range_, {}); }

 private:
  static absl::StatusOr<Mapping> Aligned(Bytes size, size_t alignment, int protection,
                                         const char* what);
  explicit Mapping(AddressRange range) : range_(range) {}
  AddressRange range_;
};

}  // namespace spiritos
