// SPDX-License-Identifier: Apache-2.0
// Making, checking and remaking the connections to one server.
#include "libos/remote/server_link.h"

#include <fmt/core.h>

#include <algorithm>
#include <utility>

#include "libos/base/log.h"
#include "libos/base/status.h"

namespace spiritos {
namespace {

// The first version that gives out slabs' keys.
constexpr uint16_t kQueuePairVersion = 3;
// What a busy machine may need to pin a slab's pages for its device; milliseconds, mostly.
constexpr uint64_t kRegisteringNs = 2'000'000'000;

}  // namespace

ServerLink::ServerLink(ServerAddress address, const WireId& client, std::string tenant,
                       ServerLane::Sink& sink, TlsTunnel* tunnel)
    : address_(std::move(address)),
      client_(client),
      tenant_(std::move(tenant)),
      tunnel_(tunnel),
      tcp_lanes_{TcpLane(sink), TcpLane(sink), TcpLane(sink)},
      rdma_lanes_{RdmaLane(sink), RdmaLane(sink), RdmaLane(sink)} {
  for (size_t i = 0; i < kLanes; ++i) {
    if (has_queue_pairs()) {
      lanes_[i] = &rdma_lanes_[i];
    } else {
      lanes_[i] = &tcp_lanes_[i];
    }
  }
}

bool ServerLink::needs_connecting() const {
  if (state_ == State::kLost || !control_.valid()) return true;
  for (size_t i = 0; has_lanes() && i < kLanes; ++i) {
    if (!lane_made_[i] || lanes_[i]->broken()) return true;
  }
  return false;
}

absl::Status ServerLink::Open(HelloBody::Role role, uint64_t deadline_ns, UniqueFd* socket,
                              WelcomeBody* welcome) {
  SPIRITOS_ASSIGN_OR_RETURN(*socket, Dial(address_, deadline_ns));
  if (tunnel_ != nullptr) {
    SPIRITOS_ASSIGN_OR_RETURN(*socket,
                              tunnel_->Wrap(std::move(*socket), address_.host, deadline_ns));
  }
  HelloBody hello;
  hello.role = role;
  hello.client = client_;
  if (role != HelloBody::Role::kControl) hello.token = welcome_.token;
  std::copy_n(tenant_.begin(), std::min(tenant_.size(), hello.tenant.size() - 1),
              hello.tenant.begin());
  absl::StatusOr<WelcomeBody> answer = Greet(socket->get(), hello, deadline_ns);
  if (!answer.ok()) return tunnel_ == nullptr ? answer.status() : tunnel_->Explain(answer.status());
  *welcome = *answer;
  return absl::OkStatus();
}

absl::Status ServerLink::ConnectLane(size_t lane, uint64_t deadline_ns) {
  if (has_queue_pairs()) {
    const RdmaGreeting greeting{
        .lane = static_cast<Lane>(lane), .client = client_, .token = welcome_.token};
    return rdma_lanes_[lane].Connect(address_, greeting, deadline_ns);
  }
  UniqueFd socket;
  WelcomeBody welcome;
  const auto role = static_cast<HelloBody::Role>(lane + 1);
  SPIRITOS_RETURN_IF_ERROR(Open(role, deadline_ns, &socket, &welcome));
  tcp_lanes_[lane].Connect(std::move(socket), welcome.version);
  return absl::OkStatus();
}

absl::Status ServerLink::Connect(uint64_t deadline_ns) {
  if (!control_.valid()) {
    UniqueFd socket;
    WelcomeBody welcome;
    SPIRITOS_RETURN_IF_ERROR(Open(HelloBody::Role::kControl, deadline_ns, &socket, &welcome));
    if (known_ && (welcome.server != welcome_.server || welcome.token != welcome_.token)) {
      if (state_ != State::kLost && slabs_ != 0) {
        return absl::DataLossError("it has been restarted without its slabs, or the lease is over");
      }
      ++incarnation_;
      slabs_ = 0;
      unanswered_.reset();
    }
    if (has_queue_pairs() && welcome.version < kQueuePairVersion) {
      return absl::UnimplementedError(
          fmt::format("{} speaks version {} of the protocol, and RDMA needs {}",
                      address_.ToString(), welcome.version, kQueuePairVersion));
    }
    if (!known_) slabs_ = welcome.slabs;  // Of a child of fork(2).
    welcome_ = welcome;
    known_ = true;
    control_ = std::move(socket);
  }
  SPIRITOS_RETURN_IF_ERROR(SettleUnanswered(deadline_ns));
  for (size_t i = 0; has_lanes() && i < kLanes; ++i) {
    if (lane_made_[i] && !lanes_[i]->broken()) continue;
    if (const absl::Status status = ConnectLane(i, deadline_ns); !status.ok()) {
      Disconnect();  // The server may be another one by now: it is asked again.
      return status;
    }
    lane_made_[i] = true;
  }
  state_ = State::kUp;
  return absl::OkStatus();
}

absl::StatusOr<FrameHeader> ServerLink::Ask(FrameHeader question, uint64_t deadline_ns,
                                            PassedFiles* files) {
  if (!control_.valid() || unanswered_) return absl::UnavailableError("not connected");
  question.version = welcome_.version;
  question.id = next_question_++;
  // A release that is asked for is done, if not now then when it is asked again.
  const bool releases = question.op == WireOp::kRelease;
  if (releases) --slabs_;
  if (has_queue_pairs() && question.op == WireOp::kPlace) {
    question.flags |= WireFlags::kExpose;
    deadline_ns += kRegisteringNs;
  }
  absl::StatusOr<FrameHeader> answer = spiritos::Ask(control_.get(), question, deadline_ns, files);
  if (!answer.ok()) {
    unanswered_ = question;
    Disconnect();
    return absl::UnavailableError(answer.status().message());
  }
  const bool good = answer->status == WireStatus::kOk;
  const bool takes = question.op == WireOp::kPlace || question.op == WireOp::kAdopt ||
                     question.op == WireOp::kShare;
  if (good ? takes : releases) ++slabs_;
  return answer;
}

absl::Status ServerLink::SettleUnanswered(uint64_t deadline_ns) {
  if (!unanswered_) return absl::OkStatus();
  const absl::StatusOr<FrameHeader> answer =
      spiritos::Ask(control_.get(), *unanswered_, deadline_ns);
  if (!answer.ok()) {
    Disconnect();
    return answer.status();
  }
  unanswered_.reset();
  const bool has_slab = answer->op == WireOp::kPlace || answer->op == WireOp::kAdopt;
  if (!has_slab || answer->status != WireStatus::kOk) return absl::OkStatus();
  ++slabs_;
  FrameHeader release;
  release.op = WireOp::kRelease;
  release.slab = answer->slab;
  return Ask(release, deadline_ns).status();
}

absl::Status ServerLink::Ping(uint64_t deadline_ns) {
  FrameHeader ping;
  ping.op = WireOp::kPing;
  SPIRITOS_ASSIGN_OR_RETURN(const FrameHeader answer, Ask(ping, deadline_ns));
  welcome_.free_slabs = answer.argument;
  asked_back_ = answer.first;
  return absl::OkStatus();
}

absl::StatusOr<UniqueFd> ServerLink::OpenSpare(Lane lane, uint64_t deadline_ns, uint16_t* version) {
  if (state_ != State::kUp) return absl::UnavailableError("not connected");
  UniqueFd socket;
  WelcomeBody welcome;
  const auto role = static_cast<HelloBody::Role>(static_cast<size_t>(lane) + 1);
  SPIRITOS_RETURN_IF_ERROR(Open(role, deadline_ns, &socket, &welcome));
  *version = welcome.version;
  return socket;
}

void ServerLink::Disconnect() {
  control_.Reset();
  if (state_ == State::kUp) state_ = State::kTrying;
}

void ServerLink::Lose() {
  state_ = State::kLost;
  control_.Reset();
  for (ServerLane* lane : lanes_) lane->Fail(WireStatus::kUnreachable);
  lane_made_.fill(false);
}

}  // namespace spiritos
