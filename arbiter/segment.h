// SPDX-License-Identifier: Apache-2.0
// Segment: the memory that the arbiter shares with one tenant.
//
//   0      Header     what this is; the arbiter writes it before anyone else sees it
//   64     Grant      what the tenant may use: the arbiter writes
//   4096   Report     what it measured, and which grant it obeys: the tenant writes
//   8192   end
//
// The arbiter makes it, one for each tenant, as a memfd that can neither shrink nor grow
// (F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_SEAL; fcntl(2)): nobody who has it mapped can be killed
// by the other. There are no pointers, no lengths and no locks in it. A tenant that writes
// over its grant harms itself: the arbiter never reads what it wrote.
//
// All fields are whole numbers, so that none is a NaN. The table in arbiter/README.md says
// the same as the structs; change both, and kSegmentVersion, together.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"
#include "arbiter/mailbox.h"
#include "libos/base/fd.h"
#include "libos/base/mapping.h"

namespace spiritos {

inline constexpr uint64_t kSegmentMagic = 0x31'6765'5373'6f53;  // "SosSeg1"
inline constexpr uint32_t kSegmentVersion = 1;
inline constexpr size_t kSegmentSize = 8192;
// Bandwidth and budget of a tenant that is not limited.
inline constexpr uint64_t kUnlimited = UINT64_MAX;

// Which decision a grant belongs to. Of two arbiters the one that was started later has the
// higher instance, and what comes of the other is void.
struct Epoch {
  uint64_t instance = 0;  // CLOCK_BOOTTIME at the arbiter's start, ns.
  uint64_t number = 0;    // Counts from 1.
  constexpr auto operator<=>(const Epoch&) const = default;
};

// What a tenant may use. A tenant obeys the newest; one that may hold less than before
// evicts, and says so in its report, before anybody else may hold more.
struct Grant {
  Epoch epoch;
  uint64_t budget_bytes = 0;
  uint64_t read_bytes_per_s = kUnlimited;  // From the pool.
  uint64_t write_bytes_per_s = kUnlimited;
  // For people to see, in millionths: what the resources cost in this epoch (they add up to
  // a million), and the tenant's expected throughput over that of an equal split.
  uint64_t memory_price_ppm = 0;
  uint64_t bandwidth_price_ppm = 0;
  uint64_t gain_ppm = 0;
};

// How often a tenant would miss with less or more memory.
struct MissRates {
  static constexpr size_t kPoints = 64;
  // A point's memory: its index + 1 times this. 0: nothing is known.
  uint64_t step_bytes = 0;
  // Misses for each second that one of its threads runs.
  std::array<uint32_t, kPoints> misses_per_s{};
  // Misses that were counted for it: what it rests on.
  uint64_t counted = 0;
};

// What a tenant measured since its beginning. Counters never fall.
struct Report {
  uint64_t time_ns = 0;  // CLOCK_MONOTONIC when it was written.
  Epoch obeyed;          // The newest grant that is in force in every part.
  uint64_t budget_bytes = 0;
  uint64_t resident_bytes = 0;
  uint64_t far_bytes = 0;     // Pages that have contents, here or in the pool.
  uint64_t pinned_bytes = 0;  // Cannot be evicted now.

  uint64_t running_ns = 0;    // Of all its threads, on a CPU, faults left out.
  uint64_t stalled_ns = 0;    // Of all its threads, in faults,
  uint64_t throttled_ns = 0;  // and of that, because of its grant's bandwidth.
  uint64_t misses = 0;        // Pages that were read from the pool,
  uint64_t read_bytes = 0;
  uint64_t written_bytes = 0;
  MissRates rates;
};

class Segment {
 public:
  // The arbiter's: new memory, and the file to hand to the tenant.
  static absl::StatusOr<Segment> Create(uint64_t instance);
  // The tenant's: what an arbiter handed over. kFailedPrecondition: it is no such thing, can
  // be cut short, or is of another version. Children of fork(2) do not have it.
  static absl::StatusOr<Segment> Attach(UniqueFd file);

  int file() const { return file_.get(); }
  uint64_t instance() const;
  Mailbox<Grant>& grant() const;
  Mailbox<Report>& report() const;

 private:
  struct Layout;

  Segment(UniqueFd file, Mapping memory) : file_(std::move(file)), memory_(std::move(memory)) {}
  Layout& layout() const { return *reinterpret_cast<Layout*>(memory_.data()); }

  UniqueFd file_;
  Mapping memory_;
};

}  // namespace spiritos
