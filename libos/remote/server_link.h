// SPDX-License-Identifier: Apache-2.0
// ServerLink: all that a space has of one memory server: a control connection, and a
// lane of its own for demand reads, read-ahead and write-backs.
//
//   Up --a connection breaks--> Trying --greeted again--> Up
//                                 |  the server's state is another one, or it refuses
//                                 +--> Lost: its slabs are gone, its lanes fail
//
// Nothing is lost with a server that holds no slab of ours: it forgets such clients with
// their connections, and they begin anew.
//
// What places and gives back slabs goes over the control connection, one question at a
// time, each with a number. A question whose answer got lost with the connection is asked
// again on the next one, where the server knows its number; a slab that it had placed
// goes back. Threads: the keeper's alone, but for the lanes.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libos/base/fd.h"
#include "libos/remote/dial.h"
#include "libos/remote/rdma_lane.h"
#include "libos/remote/remote_backend.h"
#include "libos/remote/server_lane.h"
#include "libos/remote/tcp_lane.h"
#include "libos/remote/tls_tunnel.h"
#include "libos/remote/wire.h"

namespace spiritos {

class ServerLink {
 public:
  // Lost: given up by Lose(), until it is found again.
  enum class State : uint8_t { kTrying, kUp, kLost };

  // `client` names the space, `tenant` whose it is. Borrows `sink` and, where connections
  // are to go over TLS, `tunnel`; over a Unix socket there are no lanes, as slabs are memory.
  ServerLink(ServerAddress address, const WireId& client, std::string tenant,
             ServerLane::Sink& sink, TlsTunnel* tunnel = nullptr);
  bool has_lanes() const { return address_.kind != ServerAddress::Kind::kUnix; }

  // Connects, or tries to: what is not connected, and what broke. An error is the
  // first one met; what works is left working. kDataLoss: what answers now knows nothing
  // of us. That is no error of a link that was lost, but another incarnation.
  absl::Status Connect(uint64_t deadline_ns);
  // How often another server, or none that knew us, was found at the address.
  uint32_t incarnation() const { return incarnation_; }
  // One more connection of a lane's kind, for the caller alone.
  absl::StatusOr<UniqueFd> OpenSpare(Lane lane, uint64_t deadline_ns, uint16_t* version);
  // Asks and waits. kUnavailable: no answer came.
  absl::StatusOr<FrameHeader> Ask(FrameHeader question, uint64_t deadline_ns,
                                  PassedFiles* files = nullptr);
  // Renews the lease, and learns how many slabs are free and how many asked back.
  absl::Status Ping(uint64_t deadline_ns);
  // Gives the server up: every message on its lanes ends, unreachable.
  void Lose();

  State state() const { return state_; }
  const ServerAddress& address() const { return address_; }
  const WelcomeBody& welcome() const { return welcome_; }
  // As far as is known.
  uint64_t free_slabs() const { return welcome_.free_slabs; }
  uint64_t slabs_asked_back() const { return asked_back_; }
  ServerLane& lane(Lane lane) { return *lanes_[static_cast<size_t>(lane)]; }
  const ServerLane& lane(Lane lane) const { return *lanes_[static_cast<size_t>(lane)]; }
  // Whether any connection is broken or was never made.
  bool needs_connecting() const;

 private:
  bool has_queue_pairs() const { return address_.kind == ServerAddress::Kind::kRdma; }
  absl::Status ConnectLane(size_t lane, uint64_t deadline_ns);
  void Disconnect();
  absl::Status SettleUnanswered(uint64_t deadline_ns);
  absl::Status Open(HelloBody::Role role, uint64_t deadline_ns, UniqueFd* socket,
                    WelcomeBody* welcome);

  const ServerAddress address_;
  const WireId client_;
  const std::string tenant_;
  TlsTunnel* const tunnel_;
  State state_ = State::kTrying;
  bool known_ = false;  // Greeted before: `welcome_` says what it was.
  uint32_t incarnation_ = 0;
  uint64_t slabs_ = 0;  // References to slabs there, without those being released.
  uint64_t asked_back_ = 0;
  WelcomeBody welcome_;
  UniqueFd control_;
  uint64_t next_question_ = 1;
  std::optional<FrameHeader> unanswered_;
  // Of one kind, by the address.
  std::array<TcpLane, kLanes> tcp_lanes_;
  std::array<RdmaLane, kLanes> rdma_lanes_;
  std::array<ServerLane*, kLanes> lanes_{};
  std::array<bool, kLanes> lane_made_{};
};

}  // namespace spiritos
