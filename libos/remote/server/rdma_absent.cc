// SPDX-License-Identifier: Apache-2.0
// What stands in for the RDMA listener in a build without libibverbs and librdmacm.
#include "absl/status/status.h"
#include "libos/remote/server/rdma_listener.h"

namespace spiritos {

absl::StatusOr<std::unique_ptr<RdmaListener>> RdmaListener::Listen(const std::string&, int,
                                                                   Tenancy&, ServerCounters&) {
  return absl::UnimplementedError(
      "--rdma is not in this build: it needs librdmacm-dev and libibverbs-dev (meson option "
      "`rdma`)");
}

}  // namespace spiritos
