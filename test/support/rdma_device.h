// SPDX-License-Identifier: Apache-2.0
// The RDMA device that tests may use, if there is one.
#pragma once

#include <cstdlib>
#include <string>

namespace spiritos {

// An address of this machine's on an RDMA device, or empty: then tests that need one are
// skipped, and say so. test/support/vm has one and sets the variable.
inline std::string RdmaAddress() {
  const char* const address = std::getenv("SPIRITOS_TEST_RDMA");
  return address == nullptr ? "" : address;
}

}  // namespace spiritos
