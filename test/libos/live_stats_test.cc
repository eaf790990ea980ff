// SPDX-License-Identifier: Apache-2.0
// What a space says of itself to other processes: whole and current.
#include "libos/live_stats.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "libos/space.h"
#include "libos/stats_page.h"
#include "test/support/eventually.h"
#include "test/support/stats_pages.h"

namespace spiritos {
namespace {

TEST_CASE("a page of statistics is read whole while it changes", "[stats]") {
  StatsPage page = StatsPage::Create().value();
  const std::vector<UniqueFd> files = StatsPages();
  REQUIRE(files.size() == 1);
  CHECK(absl::IsUnavailable(StatsPage::Read(files[0].get()).status()));
  REQUIRE(page.Publish("x").ok());
  std::atomic<bool> stop{false};
  std::thread writer([&] {
    for (size_t i = 0; !stop; ++i) {
      static_cast<void>(page.Publish(std::string(1 + i % 3000, static_cast<char>('a' + i % 26))));
    }
  });
  size_t read = 0;
  size_t torn = 0;
  std::string before;
  size_t changes = 0;
  while (changes < 200) {
    const absl::StatusOr<std::string> text = StatsPage::Read(files[0].get());
    if (!text.ok()) continue;  // A writer that does nothing else may be ahead each time.
    ++read;
    torn += std::count(text->begin(), text->end(), text->front()) !=
            static_cast<std::ptrdiff_t>(text->size());
    changes += *text != before;
    before = *text;
  }
  stop = true;
  writer.join();
  CHECK(torn == 0);
  CHECK(read >= 200);
}

TEST_CASE("what is no page of statistics is refused", "[stats]") {
  StatsPage page = StatsPage::Create().value();
  CHECK(absl::IsResourceExhausted(page.Publish(std::string(20'000, 'x'))));
  const UniqueFd other(memfd_create("other", MFD_CLOEXEC));
  CHECK(absl::IsFailedPrecondition(StatsPage::Read(other.get()).status()));
  // One that claims to be longer than any is.
  struct {
    uint64_t magic, sequence, size;
  } header{};
  const UniqueFd file = std::move(StatsPages().at(0));
  REQUIRE(pread(file.get(), &header, sizeof(header), 0) == sizeof(header));
  header.sequence = 2;
  header.size = uint64_t{1} << 40;
  REQUIRE(pwrite(other.get(), &header, sizeof(header), 0) == sizeof(header));
  CHECK(absl::IsFailedPrecondition(StatsPage::Read(other.get()).status()));
  // One that was cut short.
  header.size = 100;
  REQUIRE(pwrite(other.get(), &header, sizeof(header), 0) == sizeof(header));
  CHECK_FALSE(StatsPage::Read(other.get()).ok());
}

TEST_CASE("a space's figures can be seen from outside, and go with it", "[stats][space][uffd]") {
  Options options{.budget = 8_MiB};
  {
    const auto space = Space::Create(options).value();
    const AddressRange region = space->CreateRegion(32_MiB).value();
    for (size_t at = 0; at < region.size.raw(); at += kPageSize) region.begin[at] = std::byte(1);
    const Stats then = space->GetStats();
    Eventually("the figures are of now", [&] {
      const nlohmann::json page = OnlyStatsPage();
      return !page.is_null() && page["stats"]["faults"] >= then[Metric::kFaults];
    });
    const nlohmann::json page = OnlyStatsPage();
    CHECK(page["version"] == 1);
    CHECK(page["pid"] == getpid());
    CHECK(page["stats"]["faults"] <= space->GetStats()[Metric::kFaults]);
    CHECK(page["stats"]["budget_pages"] == 2048);
    CHECK(page["stats"]["far_pages"] == 8192);
    CHECK(page["recent"]["faults_per_s"] > 0);
    CHECK(page["recent"]["fault_ns_p99"] >= page["recent"]["fault_ns_p50"]);
    Eventually("a second without faults has none", [&] {
      const nlohmann::json now = OnlyStatsPage();
      return !now.is_null() && now["recent"]["faults_per_s"] == 0;
    });
  }
  CHECK(StatsPages().empty());
  options.live_stats = false;
  const auto silent = Space::Create(options).value();
  CHECK(StatsPages().empty());
}

}  // namespace
}  // namespace spiritos
