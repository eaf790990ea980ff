// SPDX-License-Identifier: Apache-2.0
// What a memory server counts: written by its one thread, read by any.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <string_view>

namespace spiritos {

enum class ServerCounter : uint32_t {
  kConnections,       // Accepted.
  kOutOfDescriptors,  // Times that a connection had to wait to be accepted.
  kRequests,
  kPagesRead,
  kPagesWritten,
  kStaleWrites,  // Pages whose write had been overtaken.
  kSlabsPlaced,
  kLeasesExpired,
  kSlabsReclaimed,  // Given back when asked for.
  kReclaimsStuck,   // Times that none came for a while.
  kPauses,          // Of connections, for their tenants' bandwidth.
  // Requests refused and connections closed, by reason.
  kBadFrames,
  kBadVersions,
  kNotPermitted,
  kDamagedFrames,
  kOutOfRange,
  kStaleEpochs,
  kNoSpace,
  kSlowPeers,         // Took no reply for too long.
  kSilentPeers,       // Did not say who they are in time.
  kCrowdedPeers,      // Had not yet when others wanted to.
  kPlainPeers,        // Without TLS, where it is asked for.
  kFailedHandshakes,  // No key, a wrong one, or no certificate that is good here.
  kCount,
};

struct ServerCounterInfo {
  std::string_view name;
  std::string_view help;
};
const ServerCounterInfo& InfoOf(ServerCounter counter);

class ServerCounters {
 public:
  void Add(ServerCounter counter, uint64_t n = 1) noexcept {
    auto& value = values_[static_cast<size_t>(counter)];
    value.store(value.load(std::memory_order_relaxed) + n, std::memory_order_relaxed);
  }
  uint64_t Get(ServerCounter counter) const noexcept {
    return values_[static_cast<size_t>(counter)].load(std::memory_order_relaxed);
  }

 private:
  std::array<std::atomic<uint64_t>, static_cast<size_t>(ServerCounter::kCount)> values_{};
};

}  // namespace spiritos
