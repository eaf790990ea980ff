// SPDX-License-Identifier: Apache-2.0
// MetricsEndpoint: a memory server's counters over HTTP, for Prometheus and `spiritos stat`.
//
// Whoever asks pays: the server's thread goes on counting, and another reads what it has
// counted when somebody asks at http://HOST:PORT/metrics. Tenants' names are to be seen
// there, without any proof of who asks: loopback, unless the operator says otherwise.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "libos/remote/server/server.h"
#include "runtime/cli/host_port.h"

namespace spiritos::cli {

class MetricsEndpoint {
 public:
  // Borrows the server.
  static absl::StatusOr<std::unique_ptr<MetricsEndpoint>> Create(const HostPort& place,
                                                                 const MemoryServer& server);
  ~MetricsEndpoint();

  // Where it listens; the port is known then.
  const HostPort& place() const { return place_; }

 private:
  struct Parts;
  MetricsEndpoint(HostPort place, std::unique_ptr<Parts> parts);

  const HostPort place_;
  const std::unique_ptr<Parts> parts_;
};

}  // namespace spiritos::cli
