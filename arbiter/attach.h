// SPDX-License-Identifier: Apache-2.0
// Attach: how a tenant and the arbiter of its machine meet, and wake each other.
//
//   tenant                                     arbiter, at a path (SOCK_SEQPACKET)
//     Hello: who, what it holds, its terms --->
//                                         <--- Welcome with the segment's file, or why not
//     one byte: there is a new report     <--> one byte: there is a new grant
//
// All that matters is in the segment; bytes that are lost, or too many, change nothing. End of
// file says that the other has died or lets go: a tenant then keeps its last grant and comes
// back to the path, an arbiter keeps what the tenant may hold until its process has ended.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "arbiter/segment.h"
#include "libos/base/fd.h"

namespace spiritos {

inline constexpr uint64_t kMillion = 1'000'000;

// What a tenant asks for. The arbiter may hold it to less.
struct Terms {
  uint64_t least_bytes = 0;  // Below it would not run.
  uint64_t most_bytes = kUnlimited;
  uint64_t weight_ppm = kMillion;  // Its part of everything, beside other tenants' million.
};

struct Hello {
  static constexpr uint64_t kMagic = 0x31'6f6c'6c65'486f53;  // "SoHello1"
  uint64_t magic = kMagic;
  uint32_t oldest_version = kSegmentVersion;
  uint32_t newest_version = kSegmentVersion;
  Epoch seen;               // The newest grant's, of whichever arbiter.
  uint64_t held_bytes = 0;  // Its budget when it comes.
  Terms terms;
  std::array<char, 64> name{};  // For people; ends with a zero.

  void set_name(std::string_view text);
  // What can be printed of it.
  std::string printable_name() const;
};

struct Welcome {
  static constexpr uint64_t kMagic = 0x31'6d6f'636c'6557;  // "Welcom1"
  uint64_t magic = kMagic;
  uint32_t version = kSegmentVersion;
  uint32_t refused = 0;
  std::array<char, 240> reason{};  // Why it was refused; ends with a zero.
};

// A tenant's end. One thread.
class ArbiterLink {
 public:
  // kUnavailable: nobody answers at the path by `deadline_ns`; kFailedPrecondition: the arbiter
  // refuses, and says why.
  static absl::StatusOr<ArbiterLink> Attach(const std::string& path, const Hello& hello,
                                            uint64_t deadline_ns);

  // Leaves a report. Context: nofault.
  void Tell(const Report& report) noexcept;
  // A grant that is newer than every one before, of this arbiter. Context: nofault.
  bool TakeGrant(Grant* grant) noexcept;
  // Waits for a byte or the deadline; false: the arbiter has gone. Context: nofault.
  bool Await(uint64_t deadline_ns) noexcept;

  int socket() const { return socket_.get(); }
  uint64_t instance() const { return segment_.instance(); }

 private:
  ArbiterLink(UniqueFd socket, Segment segment)
      : socket_(std::move(socket)), segment_(std::move(segment)), writer_(segment_.report()) {}

  UniqueFd socket_;
  Segment segment_;
  Mailbox<Report>::Writer writer_;
  uint64_t seen_ = Mailbox<Grant>::kNone;
  Epoch newest_;
};

// The arbiter's end of the same, without waiting.
//
// What a peer says first. kUnavailable: nothing yet; else it is to be cut off.
absl::StatusOr<Hello> ReceiveHello(int socket);
absl::Status SendWelcome(int socket, const Segment& segment);
void SendRefusal(int socket, std::string_view reason);
// One byte. A peer that reads none of them is not waited for.
void Nudge(int socket) noexcept;
// Takes the bytes that are there, a bounded number; false: the peer has let go.
bool TakeNudges(int socket) noexcept;

}  // namespace spiritos
