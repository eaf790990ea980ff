// SPDX-License-Identifier: Apache-2.0
// A budget that follows limit and pressure, by files of the test's.
#include "runtime/auto_budget.h"

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

#include "runtime/settings.h"
#include "test/support/temp_dir.h"

namespace spiritos {
namespace {

constexpr uint64_t kSecond = 1'000'000'000;

// A process in a group of 1 GiB that has 100 MiB, `used` of which are its budget's.
class Machine {
 public:
  Machine() {
    Write("/proc/self/cgroup", "0::/job\n");
    Write("/sys/fs/cgroup/job/memory.max", std::to_string(uint64_t{1} << 30));
    Write("/proc/self/statm", "100000 30000 4400 1 0 20000 0\n");
    Wait(0);
  }
  // In microseconds, since it began.
  void Wait(uint64_t total_us) { Write("/sys/fs/cgroup/job/memory.pressure", Pressure(total_us)); }
  Bytes Next(Bytes budget, Bytes used) { return auto_budget.Next(budget, used, now_ns += kSecond); }
  static std::string Pressure(uint64_t total_us) {
    return "some avg10=1.00 avg60=0.00 avg300=0.00 total=" + std::to_string(total_us) +
           "\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=77777777\n";
  }
  void Write(const std::string& path, const std::string& text) {
    const std::filesystem::path file = root.path() + path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }

  TempDir root;
  AutoBudget auto_budget{root.path()};
  uint64_t now_ns = kSecond;
};

constexpr Bytes kMost = Bytes(896 << 20);  // 7/8 of the limit.

TEST_CASE("without pressure the budget grows to most of the limit", "[runtime]") {
  Machine machine;
  Bytes budget = 100_MiB;
  int looks = 0;
  while (budget < kMost) {
    const Bytes next = machine.Next(budget, 100_MiB);
    REQUIRE(next > budget);
    REQUIRE(next.raw() <= budget.raw() + kMost.raw() / 32);
    budget = next;
    REQUIRE(++looks < 40);
  }
  CHECK(budget == kMost);
  CHECK(machine.Next(budget, 100_MiB) == kMost);
}

TEST_CASE("what the process has beside its budget is not for the budget", "[runtime]") {
  Machine machine;
  CHECK(machine.Next(kMost, 60_MiB) == Bytes(kMost.raw() - (40 << 20)));
  machine.Write("/sys/fs/cgroup/job/memory.max", std::to_string(512 << 20));
  CHECK(machine.Next(kMost, 100_MiB) == Bytes(448 << 20));
}

TEST_CASE("under pressure it shrinks, by steps, to a sixteenth of the limit", "[runtime]") {
  Machine machine;
  Bytes budget = 800_MiB;
  machine.Next(budget, 100_MiB);  // The first look knows of no time before.
  uint64_t waited_us = 0;
  const auto look = [&](uint64_t us) {
    machine.Wait(waited_us += us);
    return machine.Next(budget, 100_MiB);
  };
  CHECK(look(50'000) == budget);  // 5 % of the second.
  CHECK(look(100'000) == 700_MiB);
  CHECK(look(9'999) == 828_MiB);
  for (int i = 0; i < 40; ++i) budget = look(500'000);
  CHECK(budget == 64_MiB);
}

TEST_CASE("the machine's pressure counts where the group's is not there", "[runtime]") {
  Machine machine;
  std::filesystem::remove(machine.root.path() + "/sys/fs/cgroup/job/memory.pressure");
  machine.Write("/proc/pressure/memory", Machine::Pressure(0));
  CHECK(machine.Next(800_MiB, 100_MiB) == 828_MiB);
  machine.Write("/proc/pressure/memory", Machine::Pressure(200'000));
  CHECK(machine.Next(800_MiB, 100_MiB) == 700_MiB);
  std::filesystem::remove(machine.root.path() + "/proc/pressure/memory");
  CHECK(machine.Next(800_MiB, 100_MiB) == 828_MiB);  // A kernel without it.
}

TEST_CASE("a pool in the process itself has no use for it", "[runtime]") {
  const auto refused = ParseSettings("local=auto");
  REQUIRE(!refused.ok());
  CHECK(refused.status().message().find("pool=embedded:") != std::string_view::npos);
  CHECK(ParseSettings("local=auto,pool=shm:///x").value().auto_budget);
  CHECK_FALSE(ParseSettings("local=auto,local=64M").value().auto_budget);
}

}  // namespace
}  // namespace spiritos
