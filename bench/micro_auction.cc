// SPDX-License-Identifier: Apache-2.0
// micro_auction: what clearing the market of a server costs, and how it grows.
//
// CPU time of Auction() on random markets of each family, the best of the runs, as work of
// others on the machine only ever adds. `servers` is the mixture that the arbiter is for;
// `cliffs` have no equilibrium as a rule, and are searched longest; `warm` is `servers`
// auctioned again from its last prices, as every epoch but the first is.
#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "arbiter/auction.h"
#include "bench/command_line.h"
#include "bench/harness.h"
#include "libos/base/check.h"
#include "libos/base/clock.h"
#include "test/arbiter/random_market.h"

namespace spiritos::bench {
namespace {

// Tenants, and the milliseconds that they may take.
struct Size {
  size_t tenants;
  double target_ms;
};
constexpr std::array<Size, 3> kSizes = {{{24, 1}, {1000, 50}, {10'000, 1000}}};

double AuctionMs(const RandomMarket& market, const AuctionOptions& options) {
  const uint64_t begin = ThreadCpuNs();
  const auto result = Auction(market.tenants, options);
  SPIRITOS_CHECK(result.ok(), "{}", std::string(result.status().message()));
  return static_cast<double>(ThreadCpuNs() - begin) / 1e6;
}

int Main(int argc, char** argv) {
  uint32_t runs = 5;
  uint32_t markets = 3;
  std::string json_path;
  CommandLine line("what clearing the market of a server costs");
  line.Add("--runs", &runs, "runs, of which the best counts");
  line.Add("--markets", &markets, "random markets of each kind and size, whose mean is shown");
  line.Add("--json", &json_path, "also write the figures to this file");
  if (const auto status = line.Parse(argc, argv)) return *status;
  PrintMachine(stdout);
  Table table({"market", "tenants", "ms", "ns / (N log2 N)", "target", "verdict"});
  Json json;
  json.Open('{').Field("program", "micro_auction");
  const auto measure = [&](const std::string& name, Family family, bool warm) {
    for (const Size& size : kSizes) {
      double total_ms = 0;
      for (uint32_t seed = 1; seed <= markets; ++seed) {
        std::mt19937_64 random(seed);
        const RandomMarket market = MakeRandomMarket(family, {.tenants = size.tenants}, random);
        AuctionOptions options;
        if (warm) options.last_prices = Auction(market.tenants).value().prices;
        double best = HUGE_VAL;
        for (uint32_t run = 0; run < runs; ++run) {
          best = std::min(best, AuctionMs(market, options));
        }
        total_ms += best / markets;
      }
      const auto n = static_cast<double>(size.tenants);
      table.Add({name, fmt::format("{}", size.tenants), fmt::format("{:.3f}", total_ms),
                 fmt::format("{:.0f}", total_ms * 1e6 / (n * std::log2(n))),
                 fmt::format("<= {:g} ms", size.target_ms),
                 total_ms <= size.target_ms ? "met" : "MISSED"});
      json.Field(fmt::format("{}, {} tenants, ms", name, size.tenants), total_ms);
    }
  };
  for (const Family family : kFamilies) measure(std::string(NameOf(family)), family, false);
  measure("servers, warm", Family::kServers, true);
  json.Close();
  fmt::print("{}", table.ToText());
  return SaveFigures(json_path, json);
}

}  // namespace
}  // namespace spiritos::bench

int main(int argc, char** argv) { return spiritos::bench::Main(argc, argv); }
