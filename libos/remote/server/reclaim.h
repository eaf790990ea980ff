// SPDX-License-Identifier: Apache-2.0
// Reclaim: how far a memory server has come with taking slabs back, for its log.
//
//   Content --excess, Begin()--> Asking --none came back for kStuckNs--> Stuck
//      ^                         |    ^                                  |  |
//      +------- no excess -------+    +------------- one does -----------+  |
//      +------- no excess --------------------------------------------------+
//
// Nobody is forced: what tenants have no other room for stays where it is, as it may be
// the only copy. Threads: the server's one.
#pragma once

#include <cstdint>

namespace spiritos {

class Reclaim {
 public:
  // Moving a slab takes a fraction of a second; a tenant has many to move, one at a time.
  static constexpr uint64_t kStuckNs = 10'000'000'000;

  // All are wanted back from now on: that none is rented will be said, even if none was.
  void Begin();
  // `excess` slabs are rented that should not be, `fixed` of them cannot be moved. True
  // when it has just come to be stuck.
  bool Look(uint64_t excess, uint64_t fixed, uint64_t now_ns);

 private:
  enum class State : uint8_t { kContent, kAsking, kStuck };

  State state_ = State::kContent;
  uint64_t excess_ = 0;
  uint64_t changed_ns_ = 0;
};

}  // namespace spiritos
