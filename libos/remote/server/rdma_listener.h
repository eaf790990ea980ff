// SPDX-License-Identifier: Apache-2.0
// RdmaListener: queue pairs for clients that read and write slabs themselves.
//
//   connection request --greeting--> token of a client? --no--> rejected, counted
//        slabs of a server before this one? --yes--> rejected: their keys are gone
//        the client's old queue pair of that lane ends <--yes--'
//        then the new one is accepted
//
// A client's queue pairs are in a protection domain of its own, so that they can name
// only slabs registered there: its own. A slab's registration ends before the slab does.
// As one-sided writes cannot be told apart by version, the old queue pair's end is what
// keeps its late writes out.
//
// Nothing of this runs while pages are read and written. Threads: the server's one.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "libos/remote/server/remote_access.h"
#include "libos/remote/server/server_counters.h"
#include "libos/remote/server/tenancy.h"

namespace spiritos {

class RdmaListener : public SlabExposer {
 public:
  // `host` is an address of an RDMA device. Borrows the others; outlives every client
  // and slab that it has given access to.
  static absl::StatusOr<std::unique_ptr<RdmaListener>> Listen(const std::string& host, int port,
                                                              Tenancy& tenancy,
                                                              ServerCounters& counters);
  virtual ~RdmaListener() = default;

  // Readable when Step() has something to do.
  virtual int fd() const = 0;
  virtual void Step(uint64_t now_ns) = 0;
};

}  // namespace spiritos
