// SPDX-License-Identifier: Apache-2.0
// The table of pool schemes.
#include "libos/remote/pool_factory.h"

#include "libos/base/status.h"
#include "libos/remote/embedded_backend.h"

namespace spiritos {

absl::StatusOr<std::unique_ptr<RemoteBackend>> MakePool(const RemoteOptions& options) {
  if (options.pool == "embedded:") {
    SPIRITOS_ASSIGN_OR_RETURN(std::unique_ptr<RemoteBackend> pool,
                              EmbeddedBackend::Create(options.pool_size));
    return pool;
  }
  return InvalidArgument("pool \"{}\" is none of embedded:, file:///path (SPIRITOS_POOL)",
                         options.pool);
}

}  // namespace spiritos
