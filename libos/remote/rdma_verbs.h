// SPDX-License-Identifier: Apache-2.0
// Objects of libibverbs and librdmacm with one owner, and what is wrong with devices.
//
// Their makers are called where they are needed. What an object depends on is declared
// before it: nothing of this counts references. Context: any; these calls allocate.
#pragma once

#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>

#include <memory>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace spiritos {

// A connection's end, with its queue pair if it has one.
struct DestroyCmId {
  void operator()(rdma_cm_id* id) const {
    if (id->qp != nullptr) rdma_destroy_qp(id);
    rdma_destroy_id(id);
  }
};

template <auto kDestroy>
struct DestroyBy {
  template <typename T>
  void operator()(T* object) const {
    kDestroy(object);
  }
};

using CmChannel = std::unique_ptr<rdma_event_channel, DestroyBy<rdma_destroy_event_channel>>;
using CmId = std::unique_ptr<rdma_cm_id, DestroyCmId>;
using ProtectionDomain = std::unique_ptr<ibv_pd, DestroyBy<ibv_dealloc_pd>>;
using MemoryRegion = std::unique_ptr<ibv_mr, DestroyBy<ibv_dereg_mr>>;
using CompletionChannel = std::unique_ptr<ibv_comp_channel, DestroyBy<ibv_destroy_comp_channel>>;
using CompletionQueue = std::unique_ptr<ibv_cq, DestroyBy<ibv_destroy_cq>>;

// A channel whose events are taken without blocking. An error names the devices that
// there are, and how to get one.
absl::StatusOr<CmChannel> MakeCmChannel();

// As ErrnoStatus(), with the devices that there are where none was found.
absl::Status RdmaError(int error, std::string_view what);

// Of a descriptor that a library has opened.
absl::Status SetNonBlocking(int fd);

}  // namespace spiritos
