// SPDX-License-Identifier: Apache-2.0
// The equal split.
#include "arbiter/policy.h"

namespace spiritos {
namespace {

class EqualPolicy final : public Policy {
 public:
  absl::StatusOr<Allocation> Next(const PolicyInput& input) override {
    return Entitlements(input.tenants, 2);
  }
};

}  // namespace

std::unique_ptr<Policy> MakeEqualPolicy() { return std::make_unique<EqualPolicy>(); }

}  // namespace spiritos
