// SPDX-License-Identifier: Apache-2.0
// SlabDirectory: who rents which slab, in a file that outlives the server.
//
//   header | record 0 | record 1 | ...        record n speaks of the slab in file slab-n
//
// A record is written twice, in turns: a server that is killed while it writes one half
// leaves the other, which is what its last answer said. The file is memory (tmpfs): what
// a killed process has stored there stays. It does not outlive the machine, so that a
// directory of another boot is not believed.
//
// Leases are not in it: whoever has slabs has a whole lease again after a restart.
// Threads: one.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "absl/status/statusor.h"
#include "libos/base/fd.h"
#include "libos/base/mapping.h"
#include "libos/remote/wire.h"

namespace spiritos {

// One slab, its client, and the last question that changed it with its answer.
struct SlabRecord {
  uint64_t slab = 0;
  uint64_t answered = 0;
  uint32_t epoch = 0;
  uint32_t references = 0;  // 0 = rented no more; `slab` is still never used again.
  WireId client{};
  WireId token{};
  FrameBytes answer{};
  std::array<char, 128> tenant{};  // Padded with NUL, at least one.
};

class SlabDirectory {
 public:
  // Maps `file`: a directory of this boot, or an empty one, which becomes one with a
  // name of its own for the server. It has room for `slabs`, or for more if it had.
  // kFailedPrecondition: of another boot. kInvalidArgument: no directory.
  static absl::StatusOr<SlabDirectory> Open(UniqueFd file, uint32_t slabs);

  const WireId& server() const { return header().server; }
  uint32_t size() const { return slabs_; }
  // Nothing where nothing was ever written.
  std::optional<SlabRecord> Read(uint32_t number) const;
  void Write(uint32_t number, const SlabRecord& record);

 private:
  struct Header {
    std::array<char, 8> magic;
    uint32_t version;
    uint32_t reserved;
    WireId server;
    std::array<char, 36> boot;
  };
  struct Half {
    uint32_t sequence = 0;
    uint32_t crc = 0;  // Of the half, with 0 in this place.
    SlabRecord record;
  };
  static_assert(sizeof(Half) == 256, "halves fill lines, without holes");
  using Halves = std::array<Half, 2>;

  static absl::Status Begin(int file);
  static absl::Status Check(const Header& header);
  static bool Whole(Half half);
  // The half that counts, or -1.
  static int Newest(const Halves& halves);
  const Header& header() const { return *reinterpret_cast<const Header*>(map_.data()); }
  Halves& At(uint32_t number) const;

  Mapping map_;
  uint32_t slabs_ = 0;
};

}  // namespace spiritos
