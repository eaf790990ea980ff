// SPDX-License-Identifier: Apache-2.0
// What a space moves in a second, by a clock that the test sets.
#include "libos/remote/throttle.h"

#include <algorithm>
#include <atomic>
#include <catch2/catch.hpp>
#include <thread>
#include <vector>

namespace spiritos {
namespace {

constexpr uint64_t kMs = 1'000'000;
constexpr uint64_t kSecond = 1000 * kMs;

TEST_CASE("what is moved is paid for at the rate, after what is saved up", "[remote]") {
  Throttle throttle;
  throttle.SetRates(4'096'000, Throttle::kUnlimited);  // A page in a millisecond.
  CHECK(throttle.limited());
  const uint64_t now = 100 * kSecond;
  const uint64_t saved = Throttle::kDepthNs / kMs;
  uint64_t due = 0;
  for (uint64_t page = 1; page <= 100; ++page) {
    due = throttle.Charge(IoOp::kRead, 4096, now).due_ns;
    const auto expected = static_cast<double>(now) + (static_cast<double>(page) - saved) * kMs;
    CHECK(static_cast<double>(due) == Approx(expected).epsilon(1e-9));
  }
  CHECK_FALSE(throttle.MayMove(IoOp::kRead, now));
  CHECK_FALSE(throttle.MayMove(IoOp::kRead, due - 1));
  CHECK(throttle.MayMove(IoOp::kRead, due));
  // A long rest saves no more than a short one.
  CHECK(throttle.Charge(IoOp::kRead, 4096, now + 1000 * kSecond).due_ns < now + 1000 * kSecond);
  for (int page = 0; page < 10; ++page) {
    due = throttle.Charge(IoOp::kRead, 4096, now + 1000 * kSecond).due_ns;
  }
  CHECK(due > now + 1000 * kSecond);
}

TEST_CASE("each way has a rate of its own", "[remote]") {
  Throttle throttle;
  CHECK_FALSE(throttle.limited());
  CHECK(throttle.Charge(IoOp::kRead, uint64_t{1} << 40, 7).due_ns == 7);
  throttle.SetRates(Throttle::kUnlimited, 1'000'000);
  const uint64_t now = 100 * kSecond;
  CHECK(throttle.Charge(IoOp::kWrite, 1'000'000, now).due_ns > now + kSecond / 2);
  CHECK(throttle.Charge(IoOp::kRead, 1'000'000, now).due_ns == now);
  CHECK(throttle.MayMove(IoOp::kRead, now));
  CHECK_FALSE(throttle.MayMove(IoOp::kWrite, now));
  throttle.SetRates(Throttle::kUnlimited, Throttle::kUnlimited);
  CHECK_FALSE(throttle.limited());
  CHECK(throttle.MayMove(IoOp::kWrite, now));
}

TEST_CASE("no rate stops a space for good", "[remote]") {
  Throttle throttle;
  throttle.SetRates(0, 1);
  const uint64_t now = 100 * kSecond;
  for (const IoOp op : {IoOp::kRead, IoOp::kWrite}) {
    CHECK(throttle.Charge(op, 4096, now).due_ns <= now + 4096 * kSecond / Throttle::kLeastRate);
  }
}

TEST_CASE("threads together move what the rate allows", "[remote]") {
  constexpr uint64_t kRate = 40'000'000;
  constexpr uint64_t kPage = 4096;
  Throttle throttle;
  throttle.SetRates(kRate, Throttle::kUnlimited);
  const uint64_t begin = NowNs();
  const uint64_t end = begin + kSecond / 2;
  std::atomic<uint64_t> moved{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      while (NowNs() < end) {
        moved += kPage;
        throttle.Await(throttle.Charge(IoOp::kRead, kPage, NowNs()));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const double seconds = static_cast<double>(NowNs() - begin) / kSecond;
  const double saved = static_cast<double>(Throttle::kDepthNs) / kSecond;
  CHECK(static_cast<double>(moved) <= kRate * (seconds + saved) + 4 * kPage);
}

TEST_CASE("who waits goes on when the rates change, asleep or about to be", "[remote]") {
  Throttle throttle;
  throttle.SetRates(Throttle::kLeastRate, Throttle::kUnlimited);
  const auto charge = [&] {
    return throttle.Charge(IoOp::kRead, 3600 * Throttle::kLeastRate, NowNs());
  };
  const Throttle::Debt debt = charge();
  throttle.SetRates(Throttle::kLeastRate, Throttle::kUnlimited);
  CHECK(throttle.Await(debt) < 600 * kSecond);
  std::atomic<bool> charged{false};
  std::thread waiter([&] {
    const Throttle::Debt own = charge();
    charged = true;
    throttle.Await(own);
  });
  while (!charged) std::this_thread::yield();
  throttle.SetRates(Throttle::kUnlimited, Throttle::kUnlimited);
  waiter.join();
}

}  // namespace
}  // namespace spiritos
