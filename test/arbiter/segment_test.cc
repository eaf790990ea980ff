// SPDX-License-Identifier: Apache-2.0
// What goes through shared memory is whole or is not seen, whoever is at the other end.
#include "arbiter/segment.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <catch2/catch.hpp>
#include <cstring>
#include <memory>
#include <random>
#include <thread>

#include "test/support/child.h"

namespace spiritos {
namespace {

struct Value {
  std::array<uint64_t, 50> words{};
  static Value All(uint64_t word) {
    Value value;
    value.words.fill(word);
    return value;
  }
  bool whole() const { return *this == All(words[0]); }
  bool operator==(const Value&) const = default;
};

TEST_CASE("a value is read once, whole, and the newest", "[arbiter]") {
  const auto box = std::make_unique<Mailbox<Value>>();
  Mailbox<Value>::Writer writer(*box);
  uint64_t seen = 0;
  Value value;
  CHECK_FALSE(box->Read(&seen, &value));
  writer.Publish(Value::All(1));
  writer.Publish(Value::All(2));
  REQUIRE(box->Read(&seen, &value));
  CHECK(value == Value::All(2));
  CHECK_FALSE(box->Read(&seen, &value));
}

TEST_CASE("values that change all the time are read whole and in order", "[arbiter]") {
  const auto box = std::make_unique<Mailbox<Value>>();
  std::atomic<bool> stop{false};
  std::thread writing([&] {
    Mailbox<Value>::Writer writer(*box);
    for (uint64_t i = 1; !stop.load(std::memory_order_relaxed); ++i) writer.Publish(Value::All(i));
  });
  uint64_t seen = 0;
  uint64_t last = 0;
  size_t wrong = 0;
  for (size_t read = 0; read < 20'000;) {
    Value value;
    if (!box->Read(&seen, &value)) continue;
    wrong += !value.whole() || value.words[0] <= last;
    last = value.words[0];
    ++read;
  }
  stop = true;
  writing.join();
  CHECK(wrong == 0);
}

TEST_CASE("what was killed while it wrote leaves the value before, and delays nobody",
          "[arbiter]") {
  using Box = Mailbox<Value>;
  auto* const box = static_cast<Box*>(
      mmap(nullptr, sizeof(Box), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  REQUIRE(box != MAP_FAILED);
  std::mt19937 random(std::random_device{}());
  size_t half_way = 0;
  for (int kill_at = 0; kill_at < 200; ++kill_at) {
    std::memset(static_cast<void*>(box), 0, sizeof(Box));
    const pid_t child = fork();
    if (child == 0) {
      Box::Writer writer(*box);
      for (uint64_t i = 1;; ++i) writer.Publish(Value::All(i));
    }
    uint64_t seen = 0;
    Value value;
    while (!box->Read(&seen, &value)) {
    }
    for (uint32_t i = random() % 4096; i != 0; --i) box->Read(&seen, &value);
    kill(child, SIGKILL);
    REQUIRE(waitpid(child, nullptr, 0) == child);
    const Value before = value;
    const bool changed = box->Read(&seen, &value);
    half_way += !changed;
    CHECK((changed ? value.whole() : value == before));
  }
  CHECK(half_way > 0);
  munmap(box, sizeof(Box));
}

TEST_CASE("a writer goes by its own count, whatever others do to the shared one", "[arbiter]") {
  const auto box = std::make_unique<Mailbox<Value>>();
  Mailbox<Value>::Writer writer(*box);
  writer.Publish(Value::All(1));
  for (const uint64_t sequence : {uint64_t{0}, uint64_t{1}, UINT64_MAX, UINT64_MAX - 1}) {
    std::memcpy(static_cast<void*>(box.get()), &sequence, sizeof(sequence));
    uint64_t seen = 0;
    Value value;
    box->Read(&seen, &value);
    writer.Publish(Value::All(sequence));
    seen = 0;
    REQUIRE(box->Read(&seen, &value));
    CHECK(value == Value::All(sequence));
  }
}

TEST_CASE("tenant and arbiter see each other's words through one segment", "[arbiter]") {
  const Segment arbiter = Segment::Create(77).value();
  const Segment tenant = Segment::Attach(UniqueFd(dup(arbiter.file()))).value();
  CHECK(tenant.instance() == 77);
  Mailbox<Grant>::Writer granting(arbiter.grant());
  granting.Publish({.epoch = {77, 1}, .budget_bytes = 1 << 20});
  uint64_t seen = 0;
  Grant grant;
  REQUIRE(tenant.grant().Read(&seen, &grant));
  CHECK(grant.epoch == Epoch{77, 1});
  CHECK(grant.budget_bytes == 1 << 20);
  CHECK(grant.read_bytes_per_s == kUnlimited);
  Mailbox<Report>::Writer reporting(tenant.report());
  Report report{.obeyed = grant.epoch, .misses = 9};
  report.rates.misses_per_s.back() = 5;
  reporting.Publish(report);
  seen = 0;
  Report got;
  REQUIRE(arbiter.report().Read(&seen, &got));
  CHECK(got.obeyed == grant.epoch);
  CHECK(got.misses == 9);
  CHECK(got.rates.misses_per_s.back() == 5);
}

TEST_CASE("a later arbiter's epochs are above an earlier one's", "[arbiter]") {
  CHECK(Epoch{2, 1} > Epoch{1, 1'000'000});
  CHECK(Epoch{2, 2} > Epoch{2, 1});
  CHECK(Epoch{} < Epoch{1, 1});
}

TEST_CASE("a segment cannot be cut short under who has it mapped", "[arbiter]") {
  const Segment segment = Segment::Create(1).value();
  CHECK(ftruncate(segment.file(), 0) != 0);
  CHECK(errno == EPERM);
  CHECK(ftruncate(segment.file(), 1 << 20) != 0);
  CHECK(fallocate(segment.file(), FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, 0, 4096) == 0);
  uint64_t seen = 0;
  Report report;
  CHECK_FALSE(segment.report().Read(&seen, &report));  // A hole reads as zeroes.
}

TEST_CASE("what is no segment is refused, and named", "[arbiter]") {
  const auto says = [](UniqueFd file) {
    return std::string(Segment::Attach(std::move(file)).status().message());
  };
  CHECK(says(UniqueFd(open("/dev/null", O_RDWR))).find("no sealed segment") != std::string::npos);
  CHECK(says(UniqueFd()).find("no sealed segment") != std::string::npos);
  UniqueFd unsealed = NewMemoryFile("unsealed");
  REQUIRE(ftruncate(unsealed.get(), kSegmentSize) == 0);
  CHECK(says(UniqueFd(dup(unsealed.get()))).find("no sealed segment") != std::string::npos);
  REQUIRE(fcntl(unsealed.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0);
  CHECK(says(std::move(unsealed)).find("version 0, this is 1") != std::string::npos);
  UniqueFd small = NewMemoryFile("small");
  REQUIRE(ftruncate(small.get(), 4096) == 0);
  REQUIRE(fcntl(small.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0);
  CHECK(says(std::move(small)).find("no sealed segment") != std::string::npos);
}

TEST_CASE("a child of fork(2) has no part in its parent's segment", "[arbiter]") {
  const Segment arbiter = Segment::Create(1).value();
  const Segment tenant = Segment::Attach(UniqueFd(dup(arbiter.file()))).value();
  const ChildEnd end = RunInChild([&] {
    unsigned char there;
    return mincore(&tenant.report(), 4096, &there) != 0 && errno == ENOMEM ? 0 : 1;
  });
  CHECK(end.status == 0);
}

}  // namespace
}  // namespace spiritos
