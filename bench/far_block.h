// SPDX-License-Identifier: Apache-2.0
// FarBlock: one block of far memory for a benchmark, behind the narrowest door.
//
// The only file of the benchmarks that knows how a space is made. Built with
// SPIRITOS_BENCH_NO_SPACE the block is plain memory of this process, kFar is
// false, and reports say so: good for trying a benchmark, not for figures.
//
// Threads: made and destroyed by one thread; the memory is anybody's.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "libos/base/units.h"

namespace spiritos::bench {

struct FarBlockOptions {
  Bytes size;
  Bytes budget;          // Local frames; the pool is embedded.
  int evictor_cpu = -1;  // Where evictors are kept; -1 = the space decides.
};

class FarBlock {
 public:
#ifdef SPIRITOS_BENCH_NO_SPACE
  static constexpr bool kFar = false;
#else
  static constexpr bool kFar = true;
#endif

  // Small pages only: MADV_NOHUGEPAGE is set on the block.
  static absl::StatusOr<FarBlock> Create(const FarBlockOptions& options);
  FarBlock(FarBlock&&) noexcept;
  FarBlock& operator=(FarBlock&&) noexcept;
  ~FarBlock();

  std::byte* data() const;
  Bytes size() const;

  // Starts a new period of StatsLine().
  void MarkStats();
  // "name=value ..." of what the space did since MarkStats().
  std::string StatsLine() const;

 private:
  struct Impl;
  explicit FarBlock(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace spiritos::bench
