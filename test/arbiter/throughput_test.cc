// SPDX-License-Identifier: Apache-2.0
// What is predicted from reports, beside a tenant that is played event by event.
#include "arbiter/throughput.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <queue>
#include <random>
#include <vector>

namespace spiritos {
namespace {

constexpr double kMiB = 1 << 20;

// A tenant whose threads run, miss, wait for the pool and for the link, in virtual time.
struct Player {
  double threads = 3;
  double stall_s = 50e-6;
  double bytes = 8192;  // Of a miss, read and written.
  double most_misses_per_s = 40'000;
  double far_bytes = 512 * kMiB;

  // Convex, as Zipf's are; nothing is missed with all memory.
  double MissesPerS(double memory) const {
    const double part = std::clamp(memory / far_bytes, 0.0, 1.0);
    return most_misses_per_s * (1 - part) * (1 - part);
  }

  Report report;
  // Goes on for `wall_s` with a grant.
  void Play(double wall_s, double memory, double bandwidth, std::mt19937_64& random) {
    const double rate = MissesPerS(memory);
    std::exponential_distribution<double> until_miss(std::max(rate, 1e-9));
    struct Event {
      double at;
      bool misses;  // Or begins to run.
      bool operator>(const Event& other) const { return at > other.at; }
    };
    std::priority_queue<Event, std::vector<Event>, std::greater<>> events;
    for (int t = 0; t < static_cast<int>(threads); ++t) events.push({0, false});
    double link_free = 0;
    for (; events.top().at < wall_s; events.pop()) {
      const auto [now, misses] = events.top();
      if (!misses) {
        const double runs = until_miss(random);
        report.running_ns += static_cast<uint64_t>(std::min(runs, wall_s - now) * 1e9);
        events.push({now + runs, true});
        continue;
      }
      const double turn = std::max(now, link_free);
      link_free = turn + bytes / bandwidth;
      events.push({turn + stall_s, false});
      report.stalled_ns += static_cast<uint64_t>((std::min(turn + stall_s, wall_s) - now) * 1e9);
      report.throttled_ns += static_cast<uint64_t>((std::min(turn, wall_s) - now) * 1e9);
      report.misses += 1;
      report.read_bytes += static_cast<uint64_t>(bytes / 2);
      report.written_bytes += static_cast<uint64_t>(bytes / 2);
    }
    report.time_ns += static_cast<uint64_t>(wall_s * 1e9);
    report.budget_bytes = static_cast<uint64_t>(memory);
    report.far_bytes = static_cast<uint64_t>(far_bytes);
    report.rates.step_bytes = static_cast<uint64_t>(far_bytes / MissRates::kPoints);
    for (size_t i = 0; i < MissRates::kPoints; ++i) {
      report.rates.misses_per_s[i] =
          static_cast<uint32_t>(MissesPerS(static_cast<double>((i + 1) * report.rates.step_bytes)));
    }
  }
};

double Progress(Player player, double memory, double bandwidth, std::mt19937_64& random) {
  const uint64_t before = player.report.running_ns;
  player.Play(3, memory, bandwidth, random);
  return static_cast<double>(player.report.running_ns - before) / 3e9;
}

TEST_CASE("what it would do with another grant is predicted within 10 %", "[arbiter]") {
  const uint32_t seed = std::random_device{}();
  CAPTURE(seed);
  std::mt19937_64 random(seed);
  for (const double bandwidth : {60e6, 200e6, 2e9}) {
    for (const double memory : {100 * kMiB, 250 * kMiB, 400 * kMiB}) {
      Player player;
      Throughput throughput;
      throughput.Learn(player.report);
      CHECK_FALSE(throughput.known());
      for (int epoch = 0; epoch < 5; ++epoch) {
        player.Play(0.5, memory, bandwidth, random);
        throughput.Learn(player.report);
      }
      REQUIRE(throughput.known());
      for (const double other_bandwidth : {60e6, 200e6, 2e9}) {
        for (const double other : {100 * kMiB, 200 * kMiB, 300 * kMiB, 450 * kMiB}) {
          const double predicted = throughput.At(other, other_bandwidth);
          const double measured = Progress(player, other, other_bandwidth, random);
          CAPTURE(memory / kMiB, bandwidth, other / kMiB, other_bandwidth, predicted, measured);
          CHECK(std::abs(predicted / measured - 1) < 0.1);
        }
      }
    }
  }
}

TEST_CASE("measured misses count, and of the curve its shape", "[arbiter]") {
  std::mt19937_64 random(1);
  Player player;
  Throughput honest;
  Throughput lied_to;
  for (int epoch = 0; epoch < 4; ++epoch) {
    player.Play(0.5, 200 * kMiB, 1e9, random);
    honest.Learn(player.report);
    Report lie = player.report;
    for (uint32_t& rate : lie.rates.misses_per_s) rate *= 3;
    lied_to.Learn(lie);
  }
  for (const double memory : {100 * kMiB, 200 * kMiB, 400 * kMiB}) {
    CHECK(lied_to.misses_per_s(memory) == Approx(honest.misses_per_s(memory)).epsilon(0.01));
  }
}

TEST_CASE("an epoch in which a counter falls does not count", "[arbiter]") {
  std::mt19937_64 random(1);
  Player player;
  Throughput throughput;
  for (int epoch = 0; epoch < 4; ++epoch) {
    player.Play(0.5, 200 * kMiB, 1e9, random);
    throughput.Learn(player.report);
  }
  const double before = throughput.At(200 * kMiB, 1e9);
  Report anew = player.report;
  anew.misses = 0;
  anew.time_ns += 1;
  throughput.Learn(anew);
  CHECK(throughput.At(200 * kMiB, 1e9) == before);
}

TEST_CASE("from any bytes come values that are finite and do not fall", "[arbiter]") {
  const uint32_t seed = std::random_device{}();
  CAPTURE(seed);
  std::mt19937_64 random(seed);
  const auto any = [&] {
    switch (random() % 4) {
      case 0:
        return uint64_t{0};
      case 1:
        return UINT64_MAX;
      case 2:
        return random() % 1000;
      default:
        return static_cast<uint64_t>(random());
    }
  };
  size_t known = 0;
  for (int round = 0; round < 3000; ++round) {
    Throughput throughput;
    Report report;
    for (int epoch = 0; epoch < 4; ++epoch) {
      // Some follow each other, most do not.
      for (uint64_t* const field :
           {&report.time_ns, &report.running_ns, &report.stalled_ns, &report.throttled_ns,
            &report.misses, &report.read_bytes, &report.written_bytes}) {
        *field = random() % 8 == 0 ? any() : *field + random() % 1'000'000'000;
      }
      report.budget_bytes = any();
      report.rates.step_bytes = any();
      for (uint32_t& rate : report.rates.misses_per_s) rate = static_cast<uint32_t>(any());
      throughput.Learn(report);
    }
    if (!throughput.known()) continue;
    ++known;
    double before = 0;
    for (const double part : {0.0, 1.0, 1e6, 1e9, 1e12, 1e19}) {
      const double by_memory = throughput.At(part, 1e9);
      const double by_bandwidth = throughput.At(1e9, part);
      REQUIRE((std::isfinite(by_memory) && std::isfinite(by_bandwidth)));
      REQUIRE(by_bandwidth >= 0);
      REQUIRE(by_memory >= before * (1 - 1e-9));
      before = by_memory;
    }
  }
  CHECK(known > 100);
}

}  // namespace
}  // namespace spiritos
