// SPDX-License-Identifier: Apache-2.0
// SPIRITOS_CONF, and shares of the memory that a process may have.
#include "runtime/settings.h"

#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

#include "runtime/memory_limit.h"
#include "test/support/temp_dir.h"

namespace spiritos {
namespace {

void Write(const TempDir& root, const std::string& path, const std::string& text) {
  const std::filesystem::path file = root.path() + path;
  std::filesystem::create_directories(file.parent_path());
  std::ofstream(file) << text;
}

std::string Refusal(std::string_view conf) {
  const auto settings = ParseSettings(conf);
  return settings.ok() ? "none" : std::string(settings.status().message());
}

TEST_CASE("keys of SPIRITOS_CONF set what they name", "[runtime]") {
  const Settings settings =
      ParseSettings("local=64M,pool=tcp://a:1+tcp://b:2,stats=exit,children=none,prefetch=none")
          .value();
  CHECK(settings.space.budget == 64_MiB);
  CHECK(settings.space.remote.pool == "tcp://a:1,tcp://b:2");
  CHECK(settings.space.fault.mode == FaultMode::kThread);
  CHECK(settings.report == Settings::Report::kExit);
  CHECK_FALSE(settings.children);
  CHECK(ParseSettings("").value().report == Settings::Report::kNone);
  CHECK(ParseSettings("stats=signal").value().report == Settings::Report::kSignal);
  const Settings often = ParseSettings("stats=5").value();
  CHECK(often.report == Settings::Report::kInterval);
  CHECK(often.report_interval_ns == 5'000'000'000);
}

TEST_CASE("what SPIRITOS_CONF cannot mean is named", "[runtime]") {
  CHECK(Refusal("local").find("\"local\"") != std::string::npos);
  CHECK(Refusal("=5").find("\"=5\"") != std::string::npos);
  for (const std::string text : {"stats=often", "stats=0", "stats=5s", "stats=100000", "stats="}) {
    CHECK(Refusal(text).find(text + " is neither none, exit, signal") != std::string::npos);
  }
  CHECK(Refusal("children=some").find("children=some") != std::string::npos);
  CHECK(Refusal("mode=sigbus").find("mode=thread") != std::string::npos);
  CHECK(Refusal("prefetc=none").find("SPIRITOS_PREFETCH") != std::string::npos);
  CHECK(Refusal("local=64Q").find("local=64Q") != std::string::npos);
  CHECK(Refusal("local=0%").find("from 1% to 100%") != std::string::npos);
  CHECK(Refusal("local=101%").find("local=101%") != std::string::npos);
  CHECK(Refusal("local=5x%").find("local=5x%") != std::string::npos);
  CHECK(Refusal("local=%").find("local=%") != std::string::npos);
}

TEST_CASE("a share is of the least of all limits", "[runtime]") {
  const auto machine = static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * kPageSize;
  TempDir root;
  CHECK(MemoryLimit(root.path()).raw() == machine);
  SECTION("version 2, of a group above") {
    Write(root, "/proc/self/cgroup", "0::/group/job\n");
    Write(root, "/sys/fs/cgroup/group/job/memory.max", "max\n");
    CHECK(MemoryLimit(root.path()).raw() == machine);
    Write(root, "/sys/fs/cgroup/group/memory.max", "104857600\n");
    CHECK(MemoryLimit(root.path()) == 100_MiB);
    Write(root, "/sys/fs/cgroup/group/job/memory.max", "52428800\n");
    CHECK(MemoryLimit(root.path()) == 50_MiB);
    CHECK(ParseBudget("local", "20%", root.path()).value() == 10_MiB);
    CHECK(ParseBudget("local", "100%", root.path()).value() <= 50_MiB);
    CHECK(ParseBudget("local", "20M", root.path()).value() == 20_MiB);
  }
  SECTION("version 1, of a container that sees its group as the root") {
    Write(root, "/proc/self/cgroup", "5:cpu:/x\n4:hugetlb,memory:/host/path\n0::/\n");
    Write(root, "/sys/fs/cgroup/memory/memory.limit_in_bytes", "209715200\n");
    CHECK(MemoryLimit(root.path()) == 200_MiB);
  }
  SECTION("nonsense is no limit") {
    Write(root, "/proc/self/cgroup", "nonsense\n:\n0::relative\n");
    Write(root, "/sys/fs/cgroup/memory.max", "much\n");
    CHECK(MemoryLimit(root.path()).raw() == machine);
  }
}

}  // namespace
}  // namespace spiritos
