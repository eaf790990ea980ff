// SPDX-License-Identifier: Apache-2.0
// MemoryCgroup: a limit on the local memory of a process that swaps.
//
// The driver creates a group of its own below the root of the memory hierarchy,
// of cgroup v1 or v2, whichever has the controller; the measured process joins
// it and sets the limit itself once its near memory is in place. The group is
// removed with the object that created it.
//
// Threads: one per process.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libos/base/units.h"

namespace spiritos::bench {

class MemoryCgroup {
 public:
  // Makes a group. kUnavailable says why this machine cannot.
  static absl::StatusOr<MemoryCgroup> Create(const std::string& name);
  // A group that somebody else owns, by what path() returned there.
  static MemoryCgroup Borrow(const std::string& path) { return MemoryCgroup(path); }

  MemoryCgroup(MemoryCgroup&& other) noexcept;
  MemoryCgroup& operator=(MemoryCgroup&&) = delete;
  ~MemoryCgroup();

  const std::string& path() const { return path_; }
  int version() const { return version_; }

  // Moves the calling process in. Async-signal-safe after fork().
  static bool JoinByPath(const char* procs_path) noexcept;
  std::string procs_path() const { return path_ + "/cgroup.procs"; }

  // Limits memory, not swap. Reclaims at once when more is in use.
  absl::Status SetLimit(Bytes limit) const;
  // Everything charged: anonymous, page cache, kernel memory such as page tables.
  absl::StatusOr<Bytes> Usage() const;
  // Makes the kernel sum up its per-CPU statistics of the group.
  void RefreshStatistics() const;
  // Processes of the group that the kernel killed for want of memory.
  uint64_t OomKills() const;

 private:
  explicit MemoryCgroup(std::string path);

  std::string path_;
  int version_;
  bool owned_ = false;
  // v2: the file in which the controller was switched on for the group.
  std::string enabled_in_;
};

}  // namespace spiritos::bench
