// SPDX-License-Identifier: Apache-2.0
// MakePool: from an address (`embedded:`, `file:///path`) to a backend.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "libos/base/options.h"
#include "libos/remote/remote_backend.h"

namespace spiritos {

absl::StatusOr<std::unique_ptr<RemoteBackend>> MakePool(const RemoteOptions& options);

}  // namespace spiritos
