// SPDX-License-Identifier: Apache-2.0
// Options from variables: what parses, every knob's range, and messages that name
// the variable, the value and what is allowed.
#include "libos/options_env.h"

#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <set>

#include "libos/base/core.h"
#include "test/support/child.h"

namespace spiritos {
namespace {

// Options with `variable` applied; a refusal fails the test.
Options With(const std::string& variable) {
  auto options = ApplyOptions({}, {variable});
  if (!options.ok()) FAIL(variable << ": " << options.status().ToString());
  return *options;
}
// The refusal of `variable`, or "" if it was taken.
std::string Refusal(const std::string& variable) {
  const auto options = ApplyOptions({}, {variable});
  if (options.ok()) return "";
  CHECK(options.status().code() == absl::StatusCode::kInvalidArgument);
  return std::string(options.status().message());
}
bool Holds(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

TEST_CASE("files for TLS go where their variables say", "[options]") {
  CHECK(With("SPIRITOS_TLS_PSK=/a").remote.tls.psk == "/a");
  CHECK(With("SPIRITOS_TLS_CERT=/b").remote.tls.cert == "/b");
  CHECK(With("SPIRITOS_TLS_KEY=/c").remote.tls.key == "/c");
  CHECK(With("SPIRITOS_TLS_CA=/d").remote.tls.ca == "/d");
  CHECK_FALSE(Options{}.remote.tls.any());
  CHECK(With("SPIRITOS_TLS_CA=/d").remote.tls.any());
}

TEST_CASE("pages are checked where they are mapped, or in copies", "[options]") {
  CHECK(Options{}.remote.verify == Verify::kMapped);
  CHECK(With("SPIRITOS_VERIFY=copied").remote.verify == Verify::kCopied);
  CHECK(Holds(Refusal("SPIRITOS_VERIFY=twice"),
              "SPIRITOS_VERIFY: \"twice\" is none of mapped, copied"));
}

TEST_CASE("encryption is one of those that there are", "[options]") {
  CHECK(Options{}.remote.encrypt == Encryption::kNone);
  CHECK(With("SPIRITOS_ENCRYPT=none").remote.encrypt == Encryption::kNone);
  CHECK(With("SPIRITOS_ENCRYPT=aes256gcm").remote.encrypt == Encryption::kAes256Gcm);
  CHECK(Holds(Refusal("SPIRITOS_ENCRYPT=aes128gcm"),
              "SPIRITOS_ENCRYPT: \"aes128gcm\" is none of none, aes256gcm"));
}

TEST_CASE("sizes parse with and without binary suffixes", "[options]") {
  const std::pair<const char*, uint64_t> cases[] = {
      {"0", 0},
      {"1", 1},
      {"4096", 4096},
      {"64K", 65536},
      {"64M", 64u << 20},
      {"3G", uint64_t{3} << 30},
      {"2T", uint64_t{2} << 40},
      {"1.5G", uint64_t{3} << 29},
      {"0.5K", 512},
      {"0.25M", 262144},
      {"007", 7},
      {"4503599627370496", uint64_t{1} << 52},
  };
  for (const auto& [text, expected] : cases) {
    CAPTURE(text);
    const auto bytes = ParseBytes(text);
    REQUIRE(bytes.ok());
    CHECK(bytes->raw() == expected);
  }
}

TEST_CASE("what is not a size is refused and repeated", "[options]") {
  for (const char* text : {"", "K", "-1", "-4K", "64k", "64KB", "64MiB", "64 M", " 64M", "64M ",
                           "1,5G", "0x10", "nan", "inf", "1e30", "99999999T", "12..5", "+5"}) {
    CAPTURE(text);
    const auto bytes = ParseBytes(text);
    REQUIRE_FALSE(bytes.ok());
    CHECK(bytes.status().message() ==
          "\"" + std::string(text) + "\" is not a size such as 64M or 1.5G");
  }
}

TEST_CASE("times parse with a unit and are refused without", "[options]") {
  const std::pair<const char*, uint64_t> cases[] = {
      {"0ns", 0},           {"250ns", 250},        {"10us", 10'000},
      {"1.5ms", 1'500'000}, {"2s", 2'000'000'000}, {"0.5us", 500},
  };
  for (const auto& [text, expected] : cases) {
    CAPTURE(text);
    const auto ns = ParseNanoseconds(text);
    REQUIRE(ns.ok());
    CHECK(*ns == expected);
  }
  for (const char* text : {"", "0", "10", "us", "-1us", "10 us", "10usec", "10m", "1h", "1e12s"}) {
    CAPTURE(text);
    const auto ns = ParseNanoseconds(text);
    REQUIRE_FALSE(ns.ok());
    CHECK(Holds(std::string(ns.status().message()), "is not a time such as 10us or 1.5ms"));
  }
}

TEST_CASE("a number is taken from the bottom of its range to the top and not beyond", "[options]") {
  struct Knob {
    const char* name;
    uint64_t low;
    uint64_t high;
    uint32_t (*get)(const Options& options);
  };
  const Knob knobs[] = {
      {"SPIRITOS_HANDLER_THREADS", 1, 64, [](const Options& o) { return o.fault.handler_threads; }},
      {"SPIRITOS_MAX_EVICTORS", 0, 4, [](const Options& o) { return o.evict.max_evictors; }},
      {"SPIRITOS_ASSIST_PAGES", 16, 1024, [](const Options& o) { return o.evict.assist_pages; }},
      {"SPIRITOS_EVICT_PIPELINE", 1, 4, [](const Options& o) { return o.evict.pipeline; }},
      {"SPIRITOS_PREFETCH_WINDOW", 1, 256, [](const Options& o) { return o.prefetch.max_window; }},
      {"SPIRITOS_FAULT_AROUND", 1, 64, [](const Options& o) { return o.prefetch.fault_around; }},
  };
  for (const Knob& knob : knobs) {
    const std::string name = knob.name;
    for (const uint64_t value : {knob.low, (knob.low + knob.high) / 2, knob.high}) {
      CAPTURE(name, value);
      CHECK(knob.get(With(name + "=" + std::to_string(value))) == value);
    }
    std::vector<std::string> wrong = {std::to_string(knob.high + 1),
                                      "4294967297",
                                      "18446744073709551617",
                                      "-1",
                                      "",
                                      "x",
                                      "1x",
                                      "1.5",
                                      " 1"};
    if (knob.low != 0) wrong.push_back(std::to_string(knob.low - 1));
    for (const std::string& value : wrong) {
      CAPTURE(name, value);
      const std::string refusal = Refusal(name + "=" + value);
      INFO(refusal);
      CHECK(Holds(refusal, name));
      CHECK(Holds(refusal, "\"" + value + "\""));
      CHECK(Holds(refusal, "is not a number from " + std::to_string(knob.low) + " to " +
                               std::to_string(knob.high)));
    }
  }
}

TEST_CASE("a choice takes its names, and a refusal lists them", "[options]") {
  CHECK(With("SPIRITOS_FAULT_MODE=auto").fault.mode == FaultMode::kAuto);
  CHECK(With("SPIRITOS_FAULT_MODE=sigbus").fault.mode == FaultMode::kSigbus);
  CHECK(With("SPIRITOS_FAULT_MODE=thread").fault.mode == FaultMode::kThread);
  CHECK(With("SPIRITOS_OLDEST_CALLS=1").fault.oldest_calls);
  CHECK_FALSE(With("SPIRITOS_OLDEST_CALLS=0").fault.oldest_calls);
  using Assist = EvictOptions::Assist;
  CHECK(With("SPIRITOS_ASSIST=measured").evict.assist == Assist::kMeasured);
  CHECK(With("SPIRITOS_ASSIST=always").evict.assist == Assist::kAlways);
  CHECK(With("SPIRITOS_ASSIST=never").evict.assist == Assist::kNever);
  using Prefetch = PrefetchOptions::Kind;
  CHECK(With("SPIRITOS_PREFETCH=none").prefetch.kind == Prefetch::kNone);
  CHECK(With("SPIRITOS_PREFETCH=sequential").prefetch.kind == Prefetch::kSequential);
  CHECK(With("SPIRITOS_PREFETCH=trend").prefetch.kind == Prefetch::kTrend);
  CHECK(Refusal("SPIRITOS_FAULT_MODE=Auto") ==
        "SPIRITOS_FAULT_MODE: \"Auto\" is none of auto, sigbus, thread");
  CHECK(Refusal("SPIRITOS_OLDEST_CALLS=yes") == "SPIRITOS_OLDEST_CALLS: \"yes\" is none of 0, 1");
  CHECK(Refusal("SPIRITOS_ASSIST=") == "SPIRITOS_ASSIST: \"\" is none of measured, always, never");
  CHECK(Holds(Refusal("SPIRITOS_PREFETCH=trend "), "none, sequential, trend"));
}

TEST_CASE("switches are 0 or 1", "[options]") {
  CHECK(With("SPIRITOS_LIVE_STATS=1").live_stats);
  CHECK_FALSE(With("SPIRITOS_LIVE_STATS=0").live_stats);
  CHECK(With("SPIRITOS_OLDEST_CALLS=1").fault.oldest_calls);
  CHECK(Refusal("SPIRITOS_LIVE_STATS=yes") == "SPIRITOS_LIVE_STATS: \"yes\" is none of 0, 1");
}

TEST_CASE("sizes, times and the pool's name reach their fields", "[options]") {
  CHECK(With("SPIRITOS_BUDGET=1.5G").budget == Bytes(uint64_t{3} << 29));
  CHECK(With("SPIRITOS_POOL=file:///tmp/a=b").remote.pool == "file:///tmp/a=b");
  CHECK(With("SPIRITOS_POOL_SIZE=2G").remote.pool_size == 2_GiB);
  CHECK(With("SPIRITOS_EMULATE_LATENCY=10us").remote.emulated_latency_ns == 10'000);
  CHECK(With("SPIRITOS_EMULATE_BANDWIDTH=1G").remote.emulated_bytes_per_second == 1u << 30);
  for (const char* name : {"SPIRITOS_BUDGET", "SPIRITOS_POOL_SIZE", "SPIRITOS_EMULATE_BANDWIDTH"}) {
    CHECK(Refusal(std::string(name) + "=much") ==
          std::string(name) + ": \"much\" is not a size such as 64M or 1.5G");
  }
  CHECK(Refusal("SPIRITOS_EMULATE_LATENCY=10") ==
        "SPIRITOS_EMULATE_LATENCY: \"10\" is not a time such as 10us or 1.5ms");
}

TEST_CASE("pages may be at several servers, in a backup, or both", "[options]") {
  const auto durability = [](const std::string& value) {
    const Options options = With("SPIRITOS_DURABILITY=" + value);
    return std::pair(options.remote.copies, options.remote.backup);
  };
  CHECK(durability("none") == std::pair(1u, std::string()));
  CHECK(durability("mirror=3") == std::pair(3u, std::string()));
  CHECK(durability("backup=/a") == std::pair(1u, std::string("/a")));
  CHECK(durability("mirror=2,backup=/a,b=c") == std::pair(2u, std::string("/a,b=c")));
  CHECK(durability("backup=/a,mirror=2") == std::pair(1u, std::string("/a,mirror=2")));
  for (const char* value :
       {"", "mirror=4", "mirror=2,", ",backup=/a", "backup", "mirror=4,backup=/a"}) {
    CAPTURE(value);
    CHECK(Holds(Refusal(std::string("SPIRITOS_DURABILITY=") + value),
                "is none of none, mirror=2, mirror=3, backup=/path, mirror=2,backup=/path"));
  }
  for (const char* value : {"backup=", "backup=a", "mirror=2,backup=./a"}) {
    CAPTURE(value);
    CHECK(Holds(Refusal(std::string("SPIRITOS_DURABILITY=") + value),
                "is no absolute path of a file"));
  }
  CHECK(With("SPIRITOS_BACKUP_BUFFER=1M").remote.backup_buffer == 1_MiB);
}

TEST_CASE("a list of CPUs is taken as long as they exist", "[options]") {
  CHECK(With("SPIRITOS_EVICTOR_CPUS=").evict.cpus.empty());
  CHECK(With("SPIRITOS_EVICTOR_CPUS=0").evict.cpus == std::vector<int>{0});
  const std::string last = std::to_string(CoreCount() - 1);
  CHECK(With("SPIRITOS_EVICTOR_CPUS=0," + last).evict.cpus ==
        std::vector<int>{0, static_cast<int>(CoreCount() - 1)});
  const std::string beyond = std::to_string(CoreCount());
  for (const std::string& value : {beyond, "0," + beyond, std::string("0,,0"), std::string(",0"),
                                   std::string("0-1"), std::string("0, 0"), std::string("all")}) {
    CAPTURE(value);
    const std::string refusal = Refusal("SPIRITOS_EVICTOR_CPUS=" + value);
    CHECK(Holds(refusal, "SPIRITOS_EVICTOR_CPUS: "));
    CHECK(Holds(refusal, "is not a number from 0 to " + last));
  }
}

TEST_CASE("variables apply in order over the base, the last one counts", "[options]") {
  Options base;
  base.evict.pipeline = 3;
  base.remote.pool = "elsewhere:";
  const auto options =
      ApplyOptions(base, {"SPIRITOS_BUDGET=8M", "SPIRITOS_FAULT_AROUND=4", "SPIRITOS_BUDGET=16M"});
  REQUIRE(options.ok());
  CHECK(options->budget == 16_MiB);
  CHECK(options->prefetch.fault_around == 4);
  CHECK(options->evict.pipeline == 3);
  CHECK(options->remote.pool == "elsewhere:");
}

TEST_CASE("an unknown variable is refused with the nearest known one", "[options]") {
  const std::pair<const char*, const char*> cases[] = {
      {"SPIRITOS_BUGDET", "SPIRITOS_BUDGET"},
      {"SPIRITOS_BUDGE", "SPIRITOS_BUDGET"},
      {"SPIRITOS_FAULTMODE", "SPIRITOS_FAULT_MODE"},
      {"SPIRITOS_PREFETCH_WINDOWS", "SPIRITOS_PREFETCH_WINDOW"},
      {"SPIRITOS_EVICTOR_CPU", "SPIRITOS_EVICTOR_CPUS"},
      {"SPIRITOS_POOLSIZE", "SPIRITOS_POOL_SIZE"},
      {"SPIRITOS_EMULATE_LATENCE", "SPIRITOS_EMULATE_LATENCY"},
      {"spiritos_assist", "SPIRITOS_ASSIST"},
  };
  for (const auto& [name, nearest] : cases) {
    CAPTURE(name);
    const std::string refusal = Refusal(std::string(name) + "=1");
    // A name all in small letters is as far from every other: it need not be guessed.
    if (std::string_view(name).starts_with("SPIRITOS_")) {
      CHECK(refusal == std::string("unknown option ") + name + "; did you mean " + nearest + "?");
    } else {
      CHECK(Holds(refusal, std::string("unknown option ") + name + "; did you mean SPIRITOS_"));
    }
  }
  CHECK(Holds(Refusal(""), "unknown option ;"));
  CHECK(Holds(Refusal("SPIRITOS_BUDGET"), "SPIRITOS_BUDGET: \"\" is not a size"));
}

TEST_CASE("a budget below the minimum is refused by value and knob", "[options]") {
  CHECK(With("SPIRITOS_BUDGET=4M").budget == kMinBudget);
  const std::string refusal = Refusal("SPIRITOS_BUDGET=4194303");
  INFO(refusal);
  CHECK(Holds(refusal, "4194303"));
  CHECK(Holds(refusal, "minimum of 4194304 bytes"));
  CHECK(Holds(refusal, "SPIRITOS_BUDGET"));
}

TEST_CASE("options under which nobody would evict are refused", "[options]") {
  const auto refused = ApplyOptions({}, {"SPIRITOS_MAX_EVICTORS=0", "SPIRITOS_ASSIST=never"});
  REQUIRE_FALSE(refused.ok());
  INFO(refused.status().ToString());
  CHECK(Holds(refused.status().ToString(), "SPIRITOS_MAX_EVICTORS=0"));
  CHECK(Holds(refused.status().ToString(), "SPIRITOS_ASSIST"));
  CHECK(ApplyOptions({}, {"SPIRITOS_MAX_EVICTORS=0", "SPIRITOS_ASSIST=measured"}).ok());
  CHECK(ApplyOptions({}, {"SPIRITOS_MAX_EVICTORS=1", "SPIRITOS_ASSIST=never"}).ok());
}

TEST_CASE("options set in code are held to the same ranges", "[options]") {
  CHECK(CheckOptions({}).ok());
  const std::pair<const char*, void (*)(Options&)> cases[] = {
      {"SPIRITOS_BUDGET", [](Options& o) { o.budget = Bytes(0); }},
      {"SPIRITOS_HANDLER_THREADS", [](Options& o) { o.fault.handler_threads = 0; }},
      {"SPIRITOS_HANDLER_THREADS", [](Options& o) { o.fault.handler_threads = 65; }},
      {"SPIRITOS_MAX_EVICTORS", [](Options& o) { o.evict.max_evictors = 5; }},
      {"SPIRITOS_ASSIST_PAGES", [](Options& o) { o.evict.assist_pages = 15; }},
      {"SPIRITOS_ASSIST_PAGES", [](Options& o) { o.evict.assist_pages = 1025; }},
      {"SPIRITOS_EVICT_PIPELINE", [](Options& o) { o.evict.pipeline = 0; }},
      {"SPIRITOS_EVICT_PIPELINE", [](Options& o) { o.evict.pipeline = 5; }},
      {"SPIRITOS_PREFETCH_WINDOW", [](Options& o) { o.prefetch.max_window = 0; }},
      {"SPIRITOS_PREFETCH_WINDOW", [](Options& o) { o.prefetch.max_window = 257; }},
      {"SPIRITOS_FAULT_AROUND", [](Options& o) { o.prefetch.fault_around = 0; }},
      {"SPIRITOS_FAULT_AROUND", [](Options& o) { o.prefetch.fault_around = 65; }},
      {"SPIRITOS_BACKUP_BUFFER",
       [](Options& o) { o.remote.backup_buffer = Bytes(o.budget.raw() / 4 + 1); }},
      {"SPIRITOS_EVICTOR_CPUS", [](Options& o) { o.evict.cpus = {-1}; }},
      {"SPIRITOS_EVICTOR_CPUS",
       [](Options& o) {
         o.evict.cpus = {0, static_cast<int>(CoreCount())};
       }},
  };
  for (const auto& [knob, spoil] : cases) {
    Options options;
    spoil(options);
    const absl::Status status = CheckOptions(options);
    CAPTURE(knob);
    INFO(status.ToString());
    CHECK(status.code() == absl::StatusCode::kInvalidArgument);
    CHECK(Holds(status.ToString(), knob));
  }
}

// In a child, so that this process's environment stays as it is. Prints what came.
ChildEnd FromEnvironment(std::vector<std::string> variables) {
  return RunInChild([&] {
    if (clearenv() != 0) return 1;
    for (std::string& variable : variables) putenv(variable.data());
    const auto options = OptionsFromEnvironment();
    const std::string text = options.ok() ? "budget " + std::to_string(options->budget.raw())
                                          : std::string(options.status().message());
    return write(STDOUT_FILENO, text.data(), text.size()) > 0 ? 0 : 1;
  });
}

TEST_CASE("the environment is read, and what belongs to others is left alone", "[options]") {
  CHECK(FromEnvironment({}).text == "budget " + std::to_string(256u << 20));
  CHECK(FromEnvironment({"SPIRITOS_BUDGET=32M", "HOME=/", "SPIRIT=x", "XSPIRITOS_BUDGET=1"}).text ==
        "budget " + std::to_string(32u << 20));
  CHECK(FromEnvironment({"SPIRITOS_LOG=info", "SPIRITOS_TEST_SEED=5", "SPIRITOS_VM=1"}).text ==
        "budget " + std::to_string(256u << 20));
  CHECK(Holds(FromEnvironment({"SPIRITOS_BUDGETS=32M"}).text,
              "unknown option SPIRITOS_BUDGETS; did you mean SPIRITOS_BUDGET?"));
  CHECK(Holds(FromEnvironment({"SPIRITOS_BUDGET=lots"}).text, "SPIRITOS_BUDGET: \"lots\""));
}

}  // namespace
}  // namespace spiritos
