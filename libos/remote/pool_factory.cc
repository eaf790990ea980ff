// SPDX-License-Identifier: Apache-2.0
// The table of pool schemes, and the wrappers around them.
#include "libos/remote/pool_factory.h"

#include <string_view>

#include "libos/base/status.h"
#include "libos/remote/embedded_backend.h"
#include "libos/remote/file_backend.h"
#include "libos/remote/shaped_backend.h"

namespace spiritos {
namespace {

constexpr std::string_view kFileScheme = "file://";

absl::StatusOr<std::unique_ptr<RemoteBackend>> MakeInnermost(const RemoteOptions& options) {
  const std::string_view pool = options.pool;
  if (pool == "embedded:") return EmbeddedBackend::Create(options.pool_size);
  if (pool.starts_with(kFileScheme) && pool.substr(kFileScheme.size()).starts_with('/')) {
    return FileBackend::Create(std::string(pool.substr(kFileScheme.size())), options.pool_size);
  }
  return InvalidArgument("pool \"{}\" is none of embedded:, file:///path (SPIRITOS_POOL)", pool);
}

}  // namespace

absl::StatusOr<std::unique_ptr<RemoteBackend>> MakePool(const RemoteOptions& options) {
  SPIRITOS_ASSIGN_OR_RETURN(std::unique_ptr<RemoteBackend> pool, MakeInnermost(options));
  const ShapedBackend::Distance distance{options.emulated_latency_ns,
                                         options.emulated_bytes_per_second};
  if (distance.latency_ns == 0 && distance.bytes_per_second == 0) return pool;
  return ShapedBackend::Create(std::move(pool), distance);
}

}  // namespace spiritos
