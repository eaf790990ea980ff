// SPDX-License-Identifier: Apache-2.0
// `spiritos arbiter solve`: a market from a file, its allocation to standard output.
#include "runtime/cli/arbiter.h"

#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdio>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

#include "arbiter/auction.h"
#include "arbiter/policy.h"
#include "libos/base/status.h"
#include "runtime/cli/arbiter_case.h"

namespace spiritos::cli {
namespace {

// So many epochs a policy that goes step by step is given.
constexpr int kEpochs = 60;

struct SolveFlags {
  std::string path;
  std::string policy = "auction";
  bool json = false;  // What is printed anyway.
  bool table = false;
};

struct Solved {
  Allocation allocation;
  nlohmann::ordered_json more;  // What else is to be said of it.
};

absl::StatusOr<Solved> Solve(const ArbiterCase& market, const std::string& policy_name) {
  Solved solved;
  solved.more["policy"] = policy_name;
  if (policy_name != "auction") {
    const std::unique_ptr<Policy> policy = MakePolicy(policy_name);
    SPIRITOS_ASSIGN_OR_RETURN(solved.allocation, RunPolicy(*policy, market.tenants, kEpochs));
    return solved;
  }
  SPIRITOS_ASSIGN_OR_RETURN(Auctioned result, Auction(market.tenants));
  solved.allocation = std::move(result.allocation);
  solved.more["price_c"] = result.prices.cache;
  solved.more["price_b"] = result.prices.bandwidth;
  solved.more["exists"] = result.equilibrium;
  solved.more["regret"] = result.regret;
  solved.more["excess"] = {result.cache_excess, result.bandwidth_excess};
  solved.more["rounds"] = result.rounds;
  solved.more["reverted"] = nlohmann::ordered_json::array();
  for (const Reverted& reverted : result.reverted) {
    solved.more["reverted"].push_back(
        {{"app", market.names[reverted.tenant]}, {"reason", reverted.reason}});
  }
  return solved;
}

void PrintJson(const Solved& solved) {
  nlohmann::ordered_json json = solved.more;
  json["alloc"] = nlohmann::ordered_json::array();
  for (const Shares& shares : solved.allocation) {
    json["alloc"].push_back({shares.cache(), shares.bandwidth()});
  }
  fmt::print("{}\n", json.dump(1, ' ', false, nlohmann::json::error_handler_t::replace));
}

void PrintTable(const ArbiterCase& market, const Solved& solved) {
  const Allocation entitled = Entitlements(market.tenants, 2);
  fmt::print("{:<24} {:>10} {:>10} {:>14}\n", "", "cache", "bandwidth", "of equal share");
  for (size_t i = 0; i < solved.allocation.size(); ++i) {
    const Shares& shares = solved.allocation[i];
    const double has = market.utilities[i]->At(shares.first(2));
    const double due = market.utilities[i]->At(entitled[i].first(2));
    fmt::print("{:<24} {:>8.3f} % {:>8.3f} % {:>14}\n", market.names[i], 100 * shares.cache(),
               100 * shares.bandwidth(), due > 0 ? fmt::format("{:.4f}", has / due) : "-");
  }
  for (const auto& [key, value] : solved.more.items()) fmt::print("{} {}\n", key, value.dump());
}

absl::Status Run(const SolveFlags& flags) {
  std::ostringstream text;
  std::ifstream file(flags.path);
  if (!(text << file.rdbuf())) {
    return absl::NotFoundError(fmt::format("cannot read {}, or it is empty (CASE)", flags.path));
  }
  SPIRITOS_ASSIGN_OR_RETURN(const ArbiterCase market, ParseArbiterCase(text.str()));
  SPIRITOS_ASSIGN_OR_RETURN(const Solved solved, Solve(market, flags.policy));
  if (flags.table) {
    PrintTable(market, solved);
  } else {
    PrintJson(solved);
  }
  if (std::fflush(stdout) != 0) return ErrnoStatus(errno, "writing the allocation");
  return absl::OkStatus();
}

}  // namespace

void AddArbiter(CLI::App& app, int* status) {
  CLI::App* const arbiter = app.add_subcommand("arbiter", "Divide memory and bandwidth.");
  arbiter->require_subcommand(1);
  auto flags = std::make_shared<SolveFlags>();
  CLI::App* const solve =
      arbiter->add_subcommand("solve", "Print the allocation for a market that a file describes.");
  solve->add_option("CASE", flags->path, "the market, as JSON (runtime/cli/arbiter_case.h)")
      ->required();
  std::vector<std::string> names(PolicyNames().begin(), PolicyNames().end());
  solve->add_option("--policy", flags->policy, "who decides")
      ->check(CLI::IsMember(names))
      ->capture_default_str();
  CLI::Option* const json = solve->add_flag("--json", flags->json,
                                            "print JSON, with the shares as `alloc` (the default)");
  solve->add_flag("--table", flags->table, "print a table to read")->excludes(json);
  solve->callback([flags, status] {
    const absl::Status solved = Run(*flags);
    if (solved.ok()) return;
    fmt::print(stderr, "spiritos arbiter solve: {}: {}\n", flags->path,
               std::string(solved.message()));
    *status = 1;
  });
}

}  // namespace spiritos::cli
