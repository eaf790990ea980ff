// SPDX-License-Identifier: Apache-2.0
// Making a queue pair, step by step with a deadline, and using it.
#include "libos/remote/rdma_queue_pair.h"

#include <fmt/core.h>
#include <poll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "libos/base/clock.h"
#include "libos/base/status.h"

namespace spiritos {
namespace {

// 4.096 us * 2^n until a packet that nobody acknowledged is sent again, so many times:
// some 2 s to learn that a peer is gone which cannot say so. 7 is without end, to some.
constexpr uint8_t kAckTimeout = 16;
constexpr uint8_t kRetries = 6;
constexpr int kCompletionsAtOnce = 16;
// A completion for each transfer, when all are flushed.
constexpr int kCompletionDepth = QueuePair::kDepth + 1;

int LeftMs(uint64_t deadline_ns) {
  const uint64_t now = NowNs();
  return now >= deadline_ns ? 0 : static_cast<int>((deadline_ns - now) / 1'000'000 + 1);
}

// Why a peer that the network knows does not want us.
absl::Status Rejected(const ServerAddress& address, std::span<const std::byte> why) {
  uint32_t status = 0;
  if (why.size() >= sizeof(status)) std::memcpy(&status, why.data(), sizeof(status));
  if (status == 0) {
    return absl::UnavailableError(
        fmt::format("nobody listens for RDMA at {} (spiritos memd --rdma)", address.ToString()));
  }
  if (status == static_cast<uint32_t>(WireStatus::kNoSlab)) {
    return absl::DataLossError(fmt::format(
        "{} has been restarted, and the keys of its slabs ended with it", address.ToString()));
  }
  return absl::PermissionDeniedError(fmt::format("the memory server at {} refuses a queue pair: {}",
                                                 address.ToString(),
                                                 WireStatusName(static_cast<WireStatus>(status))));
}

bool IsRefusal(ibv_wc_status status) {
  return status == IBV_WC_REM_ACCESS_ERR || status == IBV_WC_REM_INV_REQ_ERR ||
         status == IBV_WC_REM_OP_ERR;
}

}  // namespace

absl::StatusOr<std::unique_ptr<RdmaQueuePair>> RdmaQueuePair::Connect(const ServerAddress& address,
                                                                      const RdmaGreeting& greeting,
                                                                      AddressRange staging,
                                                                      uint64_t deadline_ns) {
  std::unique_ptr<RdmaQueuePair> pair(new RdmaQueuePair);
  SPIRITOS_ASSIGN_OR_RETURN(pair->channel_, MakeCmChannel());
  pair->wake_ = UniqueFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!pair->wake_.valid()) return ErrnoStatus(errno, "making a queue pair's alarm");
  SPIRITOS_RETURN_IF_ERROR(pair->Resolve(address, deadline_ns));
  SPIRITOS_RETURN_IF_ERROR(pair->Prepare(staging));
  SPIRITOS_RETURN_IF_ERROR(pair->Greet(address, greeting, deadline_ns));
  return pair;
}

RdmaQueuePair::~RdmaQueuePair() {
  if (id_ != nullptr) rdma_disconnect(id_.get());  // So that the server need not find out.
  id_.reset();
  if (events_ != 0) ibv_ack_cq_events(completions_.get(), events_);
}

absl::Status RdmaQueuePair::Resolve(const ServerAddress& address, uint64_t deadline_ns) {
  rdma_cm_id* id = nullptr;
  if (rdma_create_id(channel_.get(), &id, nullptr, RDMA_PS_TCP) != 0) {
    return RdmaError(errno, "making an RDMA connection");
  }
  id_.reset(id);
  uint8_t timeout = kAckTimeout;
  // Older kernels keep to their own, longer one.
  static_cast<void>(
      rdma_set_option(id, RDMA_OPTION_ID, RDMA_OPTION_ID_ACK_TIMEOUT, &timeout, sizeof(timeout)));
  sockaddr_storage to{};
  socklen_t size = 0;
  SPIRITOS_RETURN_IF_ERROR(spiritos::Resolve(address, &to, &size));
  if (rdma_resolve_addr(id, nullptr, reinterpret_cast<sockaddr*>(&to), LeftMs(deadline_ns)) != 0) {
    return RdmaError(errno, fmt::format("finding {}", address.ToString()));
  }
  SPIRITOS_RETURN_IF_ERROR(Await(RDMA_CM_EVENT_ADDR_RESOLVED, address, deadline_ns));
  if (rdma_resolve_route(id, LeftMs(deadline_ns)) != 0) {
    return RdmaError(errno, fmt::format("finding a route to {}", address.ToString()));
  }
  return Await(RDMA_CM_EVENT_ROUTE_RESOLVED, address, deadline_ns);
}

absl::Status RdmaQueuePair::Prepare(AddressRange staging) {
  domain_.reset(ibv_alloc_pd(id_->verbs));
  completion_channel_.reset(ibv_create_comp_channel(id_->verbs));
  if (domain_ == nullptr || completion_channel_ == nullptr) {
    return ErrnoStatus(errno, "making a queue pair's surroundings");
  }
  SPIRITOS_RETURN_IF_ERROR(SetNonBlocking(completion_channel_->fd));
  completions_.reset(
      ibv_create_cq(id_->verbs, kCompletionDepth, nullptr, completion_channel_.get(), 0));
  if (completions_ == nullptr) return ErrnoStatus(errno, "making a completion queue");
  staging_.reset(
      ibv_reg_mr(domain_.get(), staging.begin, staging.size.raw(), IBV_ACCESS_LOCAL_WRITE));
  if (staging_ == nullptr) {
    return ErrnoStatus(
        errno, fmt::format("registering {} bytes for RDMA (ulimit -l)", staging.size.raw()));
  }
  ibv_qp_init_attr wanted{};
  wanted.qp_type = IBV_QPT_RC;
  wanted.send_cq = wanted.recv_cq = completions_.get();
  wanted.cap.max_send_wr = kDepth;
  wanted.cap.max_recv_wr = 1;
  wanted.cap.max_send_sge = wanted.cap.max_recv_sge = 1;
  if (rdma_create_qp(id_.get(), domain_.get(), &wanted) != 0) {
    return ErrnoStatus(errno, "making a queue pair");
  }
  return absl::OkStatus();
}

absl::Status RdmaQueuePair::Greet(const ServerAddress& address, const RdmaGreeting& greeting,
                                  uint64_t deadline_ns) {
  ibv_device_attr device{};
  if (const int error = ibv_query_device(id_->verbs, &device); error != 0) {
    return ErrnoStatus(error, "asking an RDMA device for its limits");
  }
  RdmaGreetingBytes bytes;
  EncodeRdmaGreeting(greeting, &bytes);
  rdma_conn_param wanted{};
  wanted.private_data = bytes.data();
  wanted.private_data_len = bytes.size();
  wanted.initiator_depth = static_cast<uint8_t>(std::min(device.max_qp_init_rd_atom, 255));
  wanted.retry_count = kRetries;
  if (rdma_connect(id_.get(), &wanted) != 0) {
    return RdmaError(errno, fmt::format("connecting to {}", address.ToString()));
  }
  return Await(RDMA_CM_EVENT_ESTABLISHED, address, deadline_ns);
}

absl::Status RdmaQueuePair::Await(rdma_cm_event_type wanted, const ServerAddress& address,
                                  uint64_t deadline_ns) {
  rdma_cm_event* event = nullptr;
  while (rdma_get_cm_event(channel_.get(), &event) != 0) {
    if (errno != EAGAIN && errno != EINTR) return ErrnoStatus(errno, "an RDMA event");
    pollfd wait{channel_->fd, POLLIN, 0};
    const int left_ms = LeftMs(deadline_ns);
    if (left_ms == 0) {
      return absl::DeadlineExceededError(
          fmt::format("connecting to {} took too long", address.ToString()));
    }
    poll(&wait, 1, left_ms);
  }
  const rdma_cm_event_type type = event->event;
  const int error = -event->status;
  absl::Status status = absl::OkStatus();
  if (type == RDMA_CM_EVENT_REJECTED) {
    const auto* const why = static_cast<const std::byte*>(event->param.conn.private_data);
    const size_t size = why == nullptr ? 0 : event->param.conn.private_data_len;
    status = Rejected(address, {why, size});
  } else if (type != wanted) {
    status = error > 0 ? RdmaError(error, fmt::format("connecting to {}", address.ToString()))
                       : absl::UnavailableError(fmt::format(
                             "connecting to {}: {}", address.ToString(), rdma_event_str(type)));
  }
  rdma_ack_cm_event(event);
  return status;
}

bool RdmaQueuePair::Post(std::span<const Transfer> transfers) noexcept {
  std::array<ibv_send_wr, kMaxPost> requests;
  std::array<ibv_sge, kMaxPost> parts;
  for (size_t i = 0; i < transfers.size(); ++i) {
    const Transfer& transfer = transfers[i];
    const bool last = i + 1 == transfers.size();
    parts[i] = {reinterpret_cast<uint64_t>(transfer.local), transfer.bytes, staging_->lkey};
    requests[i] = {};
    requests[i].wr_id = transfer.message;
    requests[i].next = last ? nullptr : &requests[i + 1];
    requests[i].sg_list = &parts[i];
    requests[i].num_sge = 1;
    requests[i].opcode = transfer.op == IoOp::kRead ? IBV_WR_RDMA_READ : IBV_WR_RDMA_WRITE;
    // What ends a message is reported, so that no message need be taken for done because
    // a later one has failed.
    const bool ends = last || transfers[i + 1].message != transfer.message;
    requests[i].send_flags = ends ? unsigned{IBV_SEND_SIGNALED} : 0;
    requests[i].wr.rdma.remote_addr = transfer.remote;
    requests[i].wr.rdma.rkey = transfer.key;
  }
  ibv_send_wr* bad = nullptr;
  if (ibv_post_send(id_->qp, requests.data(), &bad) == 0) return true;
  failure_.store("the device takes no request", std::memory_order_release);
  return false;
}

QueuePair::Progress RdmaQueuePair::Poll() noexcept {
  Progress progress;
  if (!failure().empty()) {  // The rest has been flushed.
    progress.fault = Progress::Fault::kBroken;
    return progress;
  }
  std::array<ibv_wc, kCompletionsAtOnce> completions;
  const int count = ibv_poll_cq(completions_.get(), kCompletionsAtOnce, completions.data());
  if (count < 0) {
    failure_.store("the completion queue is broken", std::memory_order_release);
    progress.fault = Progress::Fault::kBroken;
    return progress;
  }
  for (int i = 0; i < count; ++i) {
    const ibv_wc& completion = completions[static_cast<size_t>(i)];
    if (completion.status == IBV_WC_SUCCESS) {
      progress.through = completion.wr_id;
      continue;
    }
    // The messages before it have been reported; what comes after it is flushed.
    failure_.store(ibv_wc_status_str(completion.status), std::memory_order_release);
    progress.fault =
        IsRefusal(completion.status) ? Progress::Fault::kRefused : Progress::Fault::kBroken;
    progress.refused = completion.wr_id;
    break;
  }
  return progress;
}

void RdmaQueuePair::Arm() noexcept { ibv_req_notify_cq(completions_.get(), 0); }

bool RdmaQueuePair::Sleep(uint64_t timeout_ns) noexcept {
  std::array<pollfd, 3> wait{
      {{completion_channel_->fd, POLLIN, 0}, {wake_.get(), POLLIN, 0}, {channel_->fd, POLLIN, 0}}};
  const timespec timeout{static_cast<time_t>(timeout_ns / 1'000'000'000),
                         static_cast<long>(timeout_ns % 1'000'000'000)};
  if (ppoll(wait.data(), wait.size(), &timeout, nullptr) <= 0) return true;
  ibv_cq* of = nullptr;
  void* context = nullptr;
  if (wait[0].revents != 0) {
    while (ibv_get_cq_event(completion_channel_.get(), &of, &context) == 0) ++events_;
  }
  return wait[2].revents == 0;
}

void RdmaQueuePair::Interrupt() noexcept {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t ignored = write(wake_.get(), &one, sizeof(one));
}

// Once connected, all that the connection manager has to say is that it is over.
bool RdmaQueuePair::ended() const noexcept {
  pollfd wait{channel_->fd, POLLIN, 0};
  return poll(&wait, 1, 0) > 0;
}

absl::StatusOr<std::unique_ptr<QueuePair>> ConnectQueuePair(const ServerAddress& address,
                                                            const RdmaGreeting& greeting,
                                                            AddressRange staging,
                                                            uint64_t deadline_ns) {
  return RdmaQueuePair::Connect(address, greeting, staging, deadline_ns);
}

}  // namespace spiritos
