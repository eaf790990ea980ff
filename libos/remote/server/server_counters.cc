// SPDX-License-Identifier: Apache-2.0
// Names and help of the server's counters.
#include "libos/remote/server/server_counters.h"

namespace spiritos {
namespace {

constexpr std::array<ServerCounterInfo, static_cast<size_t>(ServerCounter::kCount)> kInfo{{
    {"connections", "connections accepted"},
    {"out_of_descriptors", "times that connections had to wait for a descriptor, or for memory"},
    {"requests", "requests served or refused"},
    {"pages_read", "pages sent to tenants"},
    {"pages_written", "pages received from tenants"},
    {"stale_writes", "pages whose write had been overtaken by a newer one, and was ignored"},
    {"slabs_placed", "slabs rented out"},
    {"leases_expired", "clients silent for longer than their lease"},
    {"slabs_reclaimed", "slabs that tenants gave back when they were asked for"},
    {"reclaims_stuck", "times that slabs were asked for, and for 10 s none was given back"},
    {"pauses", "times that a connection had to wait for its tenant's bandwidth"},
    {"bad_frames", "connections closed, or greetings refused, for what is no frame"},
    {"bad_versions", "connections refused for want of a common version"},
    {"not_permitted", "requests for what is not the tenant's, and wrong tokens"},
    {"damaged_frames", "requests whose checksum does not match"},
    {"out_of_range", "requests for pages beyond a slab"},
    {"stale_epochs", "requests of an epoch that has been fenced off"},
    {"no_space", "slabs refused for want of memory or quota"},
    {"slow_peers", "connections closed because replies were not taken"},
    {"silent_peers", "connections closed because no greeting came"},
    {"crowded_peers", "connections closed, still without a greeting, to make room for others"},
    {"plain_peers", "connections closed because they began without TLS"},
    {"failed_handshakes", "connections closed because TLS could not be agreed on"},
}};

}  // namespace

const ServerCounterInfo& InfoOf(ServerCounter counter) {
  return kInfo[static_cast<size_t>(counter)];
}

}  // namespace spiritos
