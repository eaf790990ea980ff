// SPDX-License-Identifier: Apache-2.0
// StatsPage: a text that other processes may read while this one replaces it.
//
//   writer   memfd "spiritos-stats", mapped:  sequence, size, text
//   reader   /proc/PID/fd/N of that name:     sequence, text, and the sequence again
//
// A memfd needs no folder and no permissions of its own: who may read the process's memory
// (ptrace(2)) may read it, over the borders of containers too, and it is gone with the
// process, however that ends. The text is whole where the sequence is even and the same
// before and after, as with a seqlock.
//
// Nothing in a page is to be believed: any process can make one.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "libos/base/fd.h"
#include "libos/base/mapping.h"

namespace spiritos {

class StatsPage {
 public:
  // The name that /proc/PID/fd/N links to.
  static constexpr std::string_view kLink = "/memfd:spiritos-stats (deleted)";

  static absl::StatusOr<StatsPage> Create();
  // Replaces the text. One thread at a time; kResourceExhausted when it is too long.
  absl::Status Publish(std::string_view text) noexcept;

  // What another process's page says. kFailedPrecondition: `file` is no such page;
  // kUnavailable: nothing was published yet, or its writer was stopped half-way.
  static absl::StatusOr<std::string> Read(int file);

 private:
  struct Header;
  static constexpr size_t kSize = 16 * 1024;

  StatsPage(UniqueFd file, Mapping memory) : file_(std::move(file)), memory_(std::move(memory)) {}
  Header& header() const;

  UniqueFd file_;
  Mapping memory_;
};

}  // namespace spiritos
