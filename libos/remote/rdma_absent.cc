// SPDX-License-Identifier: Apache-2.0
// What stands in for queue pairs in a build without libibverbs and librdmacm.
#include "absl/status/status.h"
#include "libos/remote/queue_pair.h"

namespace spiritos {

absl::StatusOr<std::unique_ptr<QueuePair>> ConnectQueuePair(const ServerAddress&,
                                                            const RdmaGreeting&, AddressRange,
                                                            uint64_t) {
  return absl::UnimplementedError(
      "rdma:// pools are not in this build: it needs librdmacm-dev and libibverbs-dev "
      "(meson option `rdma`)");
}

}  // namespace spiritos
