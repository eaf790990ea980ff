// SPDX-License-Identifier: Apache-2.0
// Who gets a queue pair, and what ends it.
#include "libos/remote/server/rdma_listener.h"

#include <fmt/core.h>
#include <netdb.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "libos/base/log.h"
#include "libos/base/status.h"
#include "libos/remote/rdma_greeting.h"
#include "libos/remote/rdma_verbs.h"
#include "libos/remote/server/session.h"

namespace spiritos {
namespace {

constexpr int kBacklog = 64;

// A client's protection domain, and its queue pairs by lane.
struct ClientQueues final : RemoteAccess {
  ProtectionDomain domain;
  std::array<CmId, kLanes> lanes;
};

struct Registration final : RemoteAccess {
  explicit Registration(MemoryRegion of) : region(std::move(of)) {}
  MemoryRegion region;
};

class VerbsListener final : public RdmaListener {
 public:
  VerbsListener(Tenancy& tenancy, ServerCounters& counters)
      : tenancy_(tenancy), counters_(counters) {}
  absl::Status Start(const std::string& host, int port);

  int fd() const override { return channel_->fd; }
  void Step(uint64_t now_ns) override;
  WireStatus Expose(Client& client, RentedSlab& slab, uint32_t* key) override;

 private:
  ClientQueues* QueuesOf(Client& client);
  void OnRequest(CmId id, const RdmaGreeting& greeting, WireStatus status, uint8_t reads,
                 uint64_t now_ns);
  absl::Status Accept(CmId id, Client& client, Lane lane, uint8_t reads);
  static void OnEnd(rdma_cm_id& id);

  Tenancy& tenancy_;
  ServerCounters& counters_;
  CmChannel channel_;
  CmId listener_;                // Bound to one device, so that every connection is of that one.
  CompletionQueue completions_;  // Of every queue pair; nothing is ever posted here.
  uint8_t max_reads_ = 1;        // Of one queue pair at once.
};

absl::Status VerbsListener::Start(const std::string& host, int port) {
  SPIRITOS_ASSIGN_OR_RETURN(channel_, MakeCmChannel());
  rdma_cm_id* id = nullptr;
  if (rdma_create_id(channel_.get(), &id, nullptr, RDMA_PS_TCP) != 0) {
    return RdmaError(errno, "making an RDMA listener (--rdma)");
  }
  listener_.reset(id);
  addrinfo hints{};
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (const int error = getaddrinfo(host.c_str(), fmt::format("{}", port).c_str(), &hints, &found);
      error != 0) {
    return InvalidArgument("{}:{}: {} (--rdma)", host, port, gai_strerror(error));
  }
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owned(found, freeaddrinfo);
  const std::string what = fmt::format("listening for RDMA on {}:{} (--rdma)", host, port);
  if (rdma_bind_addr(id, found->ai_addr) != 0) return RdmaError(errno, what);
  if (id->verbs == nullptr) return RdmaError(ENODEV, what);
  ibv_device_attr device{};
  if (const int error = ibv_query_device(id->verbs, &device); error != 0) {
    return ErrnoStatus(error, what);
  }
  max_reads_ = static_cast<uint8_t>(std::clamp(device.max_qp_rd_atom, 1, 255));
  completions_.reset(ibv_create_cq(id->verbs, 1, nullptr, nullptr, 0));
  if (completions_ == nullptr || rdma_listen(id, kBacklog) != 0) return RdmaError(errno, what);
  return absl::OkStatus();
}

void VerbsListener::Step(uint64_t now_ns) {
  rdma_cm_event* event = nullptr;
  while (rdma_get_cm_event(channel_.get(), &event) == 0) {
    rdma_cm_id* const id = event->id;
    const rdma_cm_event_type type = event->event;
    RdmaGreeting greeting;
    WireStatus status = WireStatus::kBadFrame;
    const uint8_t reads = event->param.conn.responder_resources;
    if (type == RDMA_CM_EVENT_CONNECT_REQUEST && event->param.conn.private_data != nullptr) {
      const auto* const bytes = static_cast<const std::byte*>(event->param.conn.private_data);
      status = DecodeRdmaGreeting({bytes, event->param.conn.private_data_len}, &greeting);
    }
    // Before the connection's end, which waits for that.
    rdma_ack_cm_event(event);
    if (type == RDMA_CM_EVENT_CONNECT_REQUEST) {
      OnRequest(CmId(id), greeting, status, reads, now_ns);
    } else if (type != RDMA_CM_EVENT_ESTABLISHED) {
      OnEnd(*id);
    }
  }
}

void VerbsListener::OnRequest(CmId id, const RdmaGreeting& greeting, WireStatus status,
                              uint8_t reads, uint64_t now_ns) {
  counters_.Add(ServerCounter::kConnections);
  id->context = nullptr;  // Copied from the listener.
  Client* client = nullptr;
  if (status == WireStatus::kOk) {
    client = tenancy_.FindByToken(greeting.client, greeting.token);
    if (client == nullptr) {
      status = WireStatus::kNotPermitted;
    } else if (client->access == nullptr && !client->slabs.empty()) {
      status = WireStatus::kNoSlab;  // Placed by a server before this one, with its keys.
    }
  }
  if (status != WireStatus::kOk) {
    counters_.Add(CounterOf(status));
    rdma_reject(id.get(), &status, sizeof(status));
    return;
  }
  client->heard_ns = now_ns;
  const absl::Status accepted = Accept(std::move(id), *client, greeting.lane, reads);
  if (accepted.ok()) return;  // Else the peer is told by the connection's end.
  LogWarning(fmt::format("tenant {}: {}", client->tenant, accepted.ToString()));
}

absl::Status VerbsListener::Accept(CmId id, Client& client, Lane lane, uint8_t reads) {
  ClientQueues* const queues = QueuesOf(client);
  if (queues == nullptr) return ErrnoStatus(errno, "making a protection domain");
  CmId& current = queues->lanes[static_cast<size_t>(lane)];
  current.reset();  // Nothing of it arrives any more: see the top of the header.
  ibv_qp_init_attr wanted{};
  wanted.qp_type = IBV_QPT_RC;
  wanted.send_cq = wanted.recv_cq = completions_.get();
  wanted.cap.max_send_wr = wanted.cap.max_recv_wr = 1;
  wanted.cap.max_send_sge = wanted.cap.max_recv_sge = 1;
  rdma_conn_param answer{};
  answer.responder_resources = std::min(reads, max_reads_);
  answer.rnr_retry_count = 7;
  if (rdma_create_qp(id.get(), queues->domain.get(), &wanted) != 0) {
    return ErrnoStatus(errno, "making a queue pair");
  }
  if (rdma_accept(id.get(), &answer) != 0) return ErrnoStatus(errno, "accepting a queue pair");
  id->context = queues;
  current = std::move(id);
  return absl::OkStatus();
}

void VerbsListener::OnEnd(rdma_cm_id& id) {
  auto* const queues = static_cast<ClientQueues*>(id.context);
  if (queues == nullptr) {
    LogWarning("the RDMA device is going away");
    return;
  }
  for (CmId& lane : queues->lanes) {
    if (lane.get() == &id) lane.reset();
  }
}

ClientQueues* VerbsListener::QueuesOf(Client& client) {
  if (client.access == nullptr) {
    auto queues = std::make_unique<ClientQueues>();
    queues->domain.reset(ibv_alloc_pd(listener_->verbs));
    if (queues->domain == nullptr) return nullptr;
    client.access = std::move(queues);
  }
  return static_cast<ClientQueues*>(client.access.get());  // Nobody else makes one.
}

WireStatus VerbsListener::Expose(Client& client, RentedSlab& slab, uint32_t* key) {
  constexpr int kAccess = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE;
  const ClientQueues* const queues = QueuesOf(client);
  MemoryRegion region;
  if (queues != nullptr) {
    // Addresses in it begin at 0: clients name bytes of the slab's file.
    region.reset(ibv_reg_mr_iova(queues->domain.get(), slab.memory.page(0),
                                 SlabMemory::kFileSize.raw(), 0, kAccess));
  }
  if (region == nullptr) {
    LogWarning(fmt::format("a slab cannot be registered for RDMA: {} (ulimit -l)",
                           ErrnoStatus(errno, "memory").ToString()));
    return WireStatus::kNoSpace;
  }
  *key = region->rkey;
  slab.access = std::make_unique<Registration>(std::move(region));
  return WireStatus::kOk;
}

}  // namespace

absl::StatusOr<std::unique_ptr<RdmaListener>> RdmaListener::Listen(const std::string& host,
                                                                   int port, Tenancy& tenancy,
                                                                   ServerCounters& counters) {
  auto listener = std::make_unique<VerbsListener>(tenancy, counters);
  SPIRITOS_RETURN_IF_ERROR(listener->Start(host, port));
  return listener;
}

}  // namespace spiritos
