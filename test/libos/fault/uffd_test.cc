// SPDX-License-Identifier: Apache-2.0
// Uffd: the calls one by one, with their errors and partial progress.
#include "libos/fault/uffd.h"

#include <poll.h>
#include <sys/mman.h>

#include <array>
#include <catch2/catch.hpp>
#include <cerrno>
#include <cstring>
#include <thread>

#include "libos/base/failpoint.h"
#include "libos/base/mapping.h"

namespace spiritos {
namespace {

struct Rig {
  Rig(Uffd opened, uint32_t pages)
      : uffd(std::move(opened)),
        memory(Mapping::Anonymous(BytesOf(PageCount(pages)), kPageSize, "test").value()),
        source(Mapping::Anonymous(BytesOf(PageCount(pages)), kPageSize, "test").value()) {
    std::memset(source.data(), 'a', source.size().raw());
    REQUIRE(uffd.Register(memory.range()).ok());
  }
  Vpn page(uint32_t i) const { return Vpn::Of(memory.data()) + PageCount(i); }
  char byte(uint32_t i) const { return *reinterpret_cast<volatile char*>(page(i).address()); }

  Uffd uffd;
  Mapping memory;
  Mapping source;
};

std::unique_ptr<Rig> MakeRig(Uffd::Mode mode, uint32_t pages) {
  auto uffd = Uffd::Open(mode);
  if (!uffd.ok()) {
    WARN("skipped: " << uffd.status().ToString());
    return nullptr;
  }
  return std::make_unique<Rig>(*std::move(uffd), pages);
}

TEST_CASE("a descriptor has the features that were asked of the kernel", "[fault][uffd]") {
  const auto rig = MakeRig(Uffd::Mode::kSigbus, 1);
  if (rig == nullptr) return;
  const auto features = Uffd::Probe();
  REQUIRE(features.ok());
  CHECK(rig->uffd.features().sigbus());
  CHECK(rig->uffd.features().write_protect());
  CHECK(rig->uffd.features().move() == features->move());
}

TEST_CASE("a copy that meets a page says how far it came, then what stopped it", "[fault][uffd]") {
  const auto rig = MakeRig(Uffd::Mode::kSigbus, 8);
  if (rig == nullptr) return;
  CHECK(rig->uffd.Copy(rig->page(5), rig->source.data(), 1, false, false).bytes == kPageSize);
  const Uffd::Progress part = rig->uffd.Copy(rig->page(2), rig->source.data(), 6, false, false);
  CHECK(part.bytes == 3 * kPageSize);
  CHECK(part.error == EAGAIN);
  const Uffd::Progress none = rig->uffd.Copy(rig->page(5), rig->source.data(), 3, false, false);
  CHECK(none.bytes == 0);
  CHECK(none.error == EEXIST);
  CHECK(rig->byte(4) == 'a');
  CHECK(
      rig->uffd.Copy(rig->page(6), reinterpret_cast<const std::byte*>(8), 1, false, false).error ==
      EFAULT);
}

TEST_CASE("a move carries bytes and leaves its origin absent", "[fault][uffd]") {
  const auto rig = MakeRig(Uffd::Mode::kSigbus, 8);
  if (rig == nullptr) return;
  if (!rig->uffd.features().move()) {
    WARN("skipped: no UFFDIO_MOVE (Linux >= 6.8)");
    return;
  }
  const auto origin = Vpn::Of(rig->source.data());
  rig->source.data()[kPageSize] = std::byte{'b'};
  const Uffd::Progress moved = rig->uffd.Move(rig->page(1), origin, 3, false);
  CHECK(moved.error == 0);
  CHECK(moved.bytes == 3 * kPageSize);
  CHECK(rig->byte(1) == 'a');
  CHECK(rig->byte(2) == 'b');
  CHECK(rig->source.data()[kPageSize] == std::byte{0});
  const Uffd::Progress taken =
      rig->uffd.Move(rig->page(0), origin + 4_pages, 3, false);  // Page 1 is there.
  CHECK(taken.bytes == kPageSize);
  CHECK(rig->uffd.Move(rig->page(1), origin + 5_pages, 1, false).error == EEXIST);
  CHECK(rig->source.data()[5 * kPageSize] == std::byte{'a'});
}

TEST_CASE("ranges that are not registered are refused by errno", "[fault][uffd]") {
  const auto rig = MakeRig(Uffd::Mode::kSigbus, 4);
  if (rig == nullptr) return;
  const auto other = Mapping::Anonymous(Bytes(kPageSize), kPageSize, "test").value();
  const Vpn stranger = Vpn::Of(other.data());
  CHECK(rig->uffd.Copy(stranger, rig->source.data(), 1, false, false).error == ENOENT);
  CHECK(rig->uffd.Protect({stranger, 1}) == ENOENT);
  CHECK(rig->uffd.Unprotect({stranger, 1}, false) == ENOENT);
  REQUIRE(rig->uffd.Unregister(rig->memory.range()).ok());
  CHECK(rig->uffd.Copy(rig->page(0), rig->source.data(), 1, false, false).error == ENOENT);
  const absl::Status status = rig->uffd.Register({rig->memory.data() + 1, Bytes(kPageSize)});
  CHECK_FALSE(status.ok());
  CHECK(status.ToString().find("UFFDIO_REGISTER of 4096 bytes at 0x") != std::string::npos);
}

TEST_CASE("user-mode events tell page and kind, and a wake lets the waiter try again",
          "[fault][uffd]") {
  const auto rig = MakeRig(Uffd::Mode::kEventsUser, 4);
  if (rig == nullptr) return;
  std::array<Uffd::Event, 8> events;
  CHECK(rig->uffd.ReadEvents(events) == -EAGAIN);
  REQUIRE(rig->uffd.Copy(rig->page(1), rig->source.data(), 1, false, false).error == 0);
  REQUIRE(rig->uffd.Protect({rig->page(1), 1}) == 0);
  const auto next_event = [&] {
    pollfd wait{.fd = rig->uffd.fd(), .events = POLLIN, .revents = 0};
    while (rig->uffd.ReadEvents(std::span(events).first(1)) != 1) poll(&wait, 1, -1);
    return events[0];
  };
  std::thread program([&] {
    static_cast<void>(rig->byte(2));
    *reinterpret_cast<volatile char*>(rig->page(1).address()) = 'b';
  });
  Uffd::Event event = next_event();
  CHECK(event.vpn == rig->page(2));
  CHECK_FALSE(event.write_protect);
  CHECK(rig->uffd.Wake({rig->page(2), 1}) == 0);
  event = next_event();  // Nothing was filled: the same again.
  CHECK(event.vpn == rig->page(2));
  CHECK(rig->uffd.Copy(rig->page(2), rig->source.data(), 1, false, true).error == 0);
  event = next_event();
  CHECK(event.vpn == rig->page(1));
  CHECK(event.write_protect);
  CHECK(rig->uffd.Unprotect({rig->page(1), 1}, true) == 0);
  program.join();
  CHECK(rig->byte(1) == 'b');
  CHECK(rig->byte(2) == 'a');
}

#ifdef SPIRITOS_FAILPOINTS
TEST_CASE("a kernel that refuses the handshake is named with what is needed", "[fault][uffd]") {
  if (!Uffd::Open(Uffd::Mode::kSigbus).ok()) return;
  for (const uint64_t nth : {1u, 2u}) {
    Failpoints::Arm(Failpoint::kUffdIoctlAny, nth, EINVAL);
    const auto uffd = Uffd::Open(Uffd::Mode::kSigbus);
    Failpoints::DisarmAll();
    REQUIRE_FALSE(uffd.ok());
    INFO(uffd.status().ToString());
    CHECK(uffd.status().ToString().find("needs Linux 5.11 or newer") != std::string::npos);
  }
}
#endif

}  // namespace
}  // namespace spiritos
