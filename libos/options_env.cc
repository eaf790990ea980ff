// SPDX-License-Identifier: Apache-2.0
// One row a variable.
#include "libos/options_env.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <numeric>
#include <span>

#include "libos/base/core.h"
#include "libos/base/status.h"
#include "libos/remote/wire.h"

extern char** environ;

namespace spiritos {
namespace {

struct Suffix {
  std::string_view text;
  double factor;
};

absl::StatusOr<double> ParseScaled(std::string_view text, std::span<const Suffix> suffixes,
                                   std::string_view expected) {
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const std::string_view suffix(end, static_cast<size_t>(text.data() + text.size() - end));
  const auto match = std::find_if(suffixes.begin(), suffixes.end(),
                                  [&](const Suffix& s) { return s.text == suffix; });
  const bool valid = error == std::errc() && std::isfinite(number) && number >= 0 &&
                     match != suffixes.end() && number * match->factor < 9e18;
  if (!valid) return InvalidArgument("\"{}\" is not {}", text, expected);
  return number * match->factor;
}

absl::StatusOr<uint64_t> ParseNumber(std::string_view text, uint64_t low, uint64_t high) {
  uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || number < low || number > high) {
    return InvalidArgument("\"{}\" is not a number from {} to {}", text, low, high);
  }
  return number;
}

absl::Status SetNumber(std::string_view text, uint64_t low, uint64_t high, uint32_t* field) {
  SPIRITOS_ASSIGN_OR_RETURN(const uint64_t number, ParseNumber(text, low, high));
  *field = static_cast<uint32_t>(number);
  return absl::OkStatus();
}

template <typename Enum>
struct Choice {
  std::string_view name;
  Enum value;
};

template <typename Enum, size_t n>
absl::Status SetChoice(std::string_view text, const Choice<Enum> (&choices)[n], Enum* field) {
  std::string names;
  for (const auto& choice : choices) {
    if (choice.name == text) {
      *field = choice.value;
      return absl::OkStatus();
    }
    names += fmt::format("{}{}", names.empty() ? "" : ", ", choice.name);
  }
  return InvalidArgument("\"{}\" is none of {}", text, names);
}

absl::Status SetCpus(std::string_view text, std::vector<int>* cpus) {
  std::vector<int> parsed;
  while (!text.empty()) {
    const size_t comma = std::min(text.find(','), text.size());
    SPIRITOS_ASSIGN_OR_RETURN(const uint64_t cpu,
                              ParseNumber(text.substr(0, comma), 0, CoreCount() - 1));
    parsed.push_back(static_cast<int>(cpu));
    text.remove_prefix(std::min(comma + 1, text.size()));
  }
  *cpus = std::move(parsed);
  return absl::OkStatus();
}

// At least a millisecond.
absl::Status SetDuration(std::string_view text, uint64_t* nanoseconds) {
  SPIRITOS_ASSIGN_OR_RETURN(const uint64_t parsed, ParseNanoseconds(text));
  if (parsed < 1'000'000) return InvalidArgument("\"{}\" is below 1ms", text);
  *nanoseconds = parsed;
  return absl::OkStatus();
}

constexpr Choice<uint32_t> kDurabilities[] = {{"none", 1}, {"mirror=2", 2}, {"mirror=3", 3}};
constexpr std::string_view kBackup = "backup=";

// A choice, a backup's path, or both; the path is the rest, commas and all.
absl::Status SetDurability(std::string_view text, RemoteOptions* remote) {
  RemoteOptions chosen;
  std::string_view choice = text;
  const bool alone = text.starts_with(kBackup);
  const size_t comma = text.find(fmt::format(",{}", kBackup));
  if (alone || comma != text.npos) {
    chosen.backup = text.substr(kBackup.size() + (alone ? 0 : comma + 1));
    if (!chosen.backup.starts_with('/')) {
      return InvalidArgument("\"{}\" is no absolute path of a file, as in backup=/path",
                             chosen.backup);
    }
    choice = alone ? "none" : text.substr(0, comma);
  }
  if (!SetChoice(choice, kDurabilities, &chosen.copies).ok()) {
    return InvalidArgument(
        "\"{}\" is none of none, mirror=2, mirror=3, backup=/path, "
        "mirror=2,backup=/path",
        text);
  }
  remote->copies = chosen.copies;
  remote->backup = std::move(chosen.backup);
  return absl::OkStatus();
}

struct Row {
  std::string_view name;
  absl::Status (*apply)(std::string_view value, Options* options);
};

constexpr Choice<FaultMode> kFaultModes[] = {
    {"auto", FaultMode::kAuto}, {"sigbus", FaultMode::kSigbus}, {"thread", FaultMode::kThread}};
constexpr Choice<Encryption> kEncryptions[] = {{"none", Encryption::kNone},
                                               {"aes256gcm", Encryption::kAes256Gcm}};
constexpr Choice<Verify> kVerifies[] = {{"mapped", Verify::kMapped}, {"copied", Verify::kCopied}};
constexpr Choice<EvictOptions::Assist> kAssists[] = {{"measured", EvictOptions::Assist::kMeasured},
                                                     {"always", EvictOptions::Assist::kAlways},
                                                     {"never", EvictOptions::Assist::kNever}};
constexpr Choice<PrefetchOptions::Kind> kPrefetchers[] = {
    {"none", PrefetchOptions::Kind::kNone},
    {"sequential", PrefetchOptions::Kind::kSequential},
    {"trend", PrefetchOptions::Kind::kTrend}};
constexpr Choice<bool> kSwitch[] = {{"0", false}, {"1", true}};

constexpr Row kRows[] = {
    {"SPIRITOS_BUDGET",
     [](std::string_view value, Options* options) {
       SPIRITOS_ASSIGN_OR_RETURN(options->budget, ParseBytes(value));
       return absl::OkStatus();
     }},
    {"SPIRITOS_FAULT_MODE",
     [](std::string_view value, Options* options) {
       return SetChoice(value, kFaultModes, &options->fault.mode);
     }},
    {"SPIRITOS_HANDLER_THREADS",
     [](std::string_view value, Options* options) {
       return SetNumber(value, 1, 64, &options->fault.handler_threads);
     }},
    {"SPIRITOS_OLDEST_CALLS",
     [](std::string_view value, Options* options) {
       return SetChoice(value, kSwitch, &options->fault.oldest_calls);
     }},
    {"SPIRITOS_LIVE_STATS",
     [](std::string_view value, Options* options) {
       return SetChoice(value, kSwitch, &options->live_stats);
     }},
    {"SPIRITOS_MAX_EVICTORS",
     [](std::string_view value, Options* options) {
       return SetNumber(value, 0, 4, &options->evict.max_evictors);
     }},
    {"SPIRITOS_EVICTOR_CPUS",
     [](std::string_view value, Options* options) { return SetCpus(value, &options->evict.cpus); }},
    {"SPIRITOS_ASSIST",
     [](std::string_view value, Options* options) {
       return SetChoice(value, kAssists, &options->evict.assist);
     }},
    {"SPIRITOS_ASSIST_PAGES",
     [](std::string_view value, Options* options) {
       return SetNumber(value, 16, kZonePages, &options->evict.assist_pages);
     }},
    {"SPIRITOS_EVICT_PIPELINE",
     [](std::string_view value, Options* options) {
       return SetNumber(value, 1, 4, &options->evict.pipeline);
     }},
    {"SPIRITOS_PREFETCH",
     [](std::string_view value, Options* options) {
       return SetChoice(value, kPrefetchers, &options->prefetch.kind);
     }},
    {"SPIRITOS_PREFETCH_WINDOW",
     [](std::string_view value, Options* options) {
       return SetNumber(value, 1, 256, &options->prefetch.max_window);
     }},
    {"SPIRITOS_FAULT_AROUND",
     [](std::string_view value, Options* options) {
       return SetNumber(value, 1, 64, &options->prefetch.fault_around);
     }},
    {"SPIRITOS_POOL",
     [](std::string_view value, Options* options) {
       options->remote.pool = std::string(value);
       return absl::OkStatus();
     }},
    {"SPIRITOS_TENANT",
     [](std::string_view value, Options* options) {
       if (!IsTenantName(value)) {
         return InvalidArgument("tenant \"{}\" is not 1 to 47 printable characters", value);
       }
       options->remote.tenant = std::string(value);
       return absl::OkStatus();
     }},
    {"SPIRITOS_ENCRYPT",
     [](std::string_view value, Options* options) {
       return SetChoice(value, kEncryptions, &options->remote.encrypt);
     }},
    {"SPIRITOS_VERIFY",
     [](std::string_view value, Options* options) {
       return SetChoice(value, kVerifies, &options->remote.verify);
     }},
    {"SPIRITOS_DURABILITY",
     [](std::string_view value, Options* options) {
       return SetDurability(value, &options->remote);
     }},
    {"SPIRITOS_BACKUP_BUFFER",
     [](std::string_view value, Options* options) {
       SPIRITOS_ASSIGN_OR_RETURN(options->remote.backup_buffer, ParseBytes(value));
       return absl::OkStatus();
     }},
    {"SPIRITOS_DEAD_AFTER",
     [](std::string_view value, Options* options) {
       return SetDuration(value, &options->remote.dead_after_ns);
     }},
    {"SPIRITOS_GIVE_UP_AFTER",
     [](std::string_view value, Options* options) {
       return SetDuration(value, &options->remote.give_up_after_ns);
     }},
    {"SPIRITOS_TLS_PSK",
     [](std::string_view value, Options* options) {
       options->remote.tls.psk = std::string(value);
       return absl::OkStatus();
     }},
    {"SPIRITOS_TLS_CERT",
     [](std::string_view value, Options* options) {
       options->remote.tls.cert = std::string(value);
       return absl::OkStatus();
     }},
    {"SPIRITOS_TLS_KEY",
     [](std::string_view value, Options* options) {
       options->remote.tls.key = std::string(value);
       return absl::OkStatus();
     }},
    {"SPIRITOS_TLS_CA",
     [](std::string_view value, Options* options) {
       options->remote.tls.ca = std::string(value);
       return absl::OkStatus();
     }},
    {"SPIRITOS_POOL_SIZE",
     [](std::string_view value, Options* options) {
       SPIRITOS_ASSIGN_OR_RETURN(options->remote.pool_size, ParseBytes(value));
       return absl::OkStatus();
     }},
    {"SPIRITOS_EMULATE_LATENCY",
     [](std::string_view value, Options* options) {
       SPIRITOS_ASSIGN_OR_RETURN(options->remote.emulated_latency_ns, ParseNanoseconds(value));
       return absl::OkStatus();
     }},
    {"SPIRITOS_EMULATE_BANDWIDTH",
     [](std::string_view value, Options* options) {
       SPIRITOS_ASSIGN_OR_RETURN(const Bytes rate, ParseBytes(value));
       options->remote.emulated_bytes_per_second = rate.raw();
       return absl::OkStatus();
     }},
};

// Names of this family that other parts read.
constexpr std::string_view kForeign[] = {"SPIRITOS_LOG", "SPIRITOS_VM", "SPIRITOS_TEST"};

size_t EditDistance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = row[0]++;
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t substituted = diagonal + (a[i] != b[j]);
      diagonal = row[j + 1];
      row[j + 1] = std::min({row[j] + 1, row[j + 1] + 1, substituted});
    }
  }
  return row.back();
}

absl::Status ApplyOne(std::string_view variable, Options* options) {
  const size_t equals = std::min(variable.find('='), variable.size());
  const std::string_view name = variable.substr(0, equals);
  const std::string_view value = variable.substr(std::min(equals + 1, variable.size()));
  for (const Row& row : kRows) {
    if (row.name != name) continue;
    const absl::Status status = row.apply(value, options);
    if (status.ok()) return status;
    const auto message = status.message();
    return InvalidArgument("{}: {}", name, std::string_view(message.data(), message.size()));
  }
  const Row& nearest =
      *std::min_element(std::begin(kRows), std::end(kRows), [&](const Row& a, const Row& b) {
        return EditDistance(a.name, name) < EditDistance(b.name, name);
      });
  return InvalidArgument("unknown option {}; did you mean {}?", name, nearest.name);
}

}  // namespace

absl::StatusOr<Bytes> ParseBytes(std::string_view text) {
  static constexpr std::array<Suffix, 5> kSuffixes = {{{"", 1},
                                                       {"K", 1024},
                                                       {"M", 1024.0 * 1024},
                                                       {"G", 1024.0 * 1024 * 1024},
                                                       {"T", 1024.0 * 1024 * 1024 * 1024}}};
  SPIRITOS_ASSIGN_OR_RETURN(const double bytes,
                            ParseScaled(text, kSuffixes, "a size such as 64M or 1.5G"));
  return Bytes(static_cast<uint64_t>(bytes));
}

absl::StatusOr<uint64_t> ParseNanoseconds(std::string_view text) {
  static constexpr std::array<Suffix, 4> kSuffixes = {
      {{"ns", 1}, {"us", 1e3}, {"ms", 1e6}, {"s", 1e9}}};
  SPIRITOS_ASSIGN_OR_RETURN(const double ns,
                            ParseScaled(text, kSuffixes, "a time such as 10us or 1.5ms"));
  return static_cast<uint64_t>(ns);
}

absl::StatusOr<Options> ApplyOptions(Options base, const std::vector<std::string>& variables) {
  for (const std::string& variable : variables) {
    SPIRITOS_RETURN_IF_ERROR(ApplyOne(variable, &base));
  }
  SPIRITOS_RETURN_IF_ERROR(CheckOptions(base));
  return base;
}

absl::StatusOr<Options> OptionsFromEnvironment(Options base) {
  std::vector<std::string> variables;
  // clearenv(3) leaves no array at all.
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string_view variable(*entry);
    if (!variable.starts_with("SPIRITOS_")) continue;
    const bool foreign = std::any_of(std::begin(kForeign), std::end(kForeign),
                                     [&](std::string_view f) { return variable.starts_with(f); });
    if (!foreign) variables.emplace_back(variable);
  }
  return ApplyOptions(std::move(base), variables);
}

absl::Status CheckOptions(const Options& options) {
  if (options.budget < kMinBudget) {
    return InvalidArgument("budget {} is below the minimum of {} bytes (SPIRITOS_BUDGET)",
                           options.budget.raw(), kMinBudget.raw());
  }
  if (options.remote.backup_buffer.raw() > options.budget.raw() / 4) {
    return InvalidArgument(
        "{} bytes of copies for a backup are more than a quarter of the budget of {} "
        "(SPIRITOS_BACKUP_BUFFER, SPIRITOS_BUDGET)",
        options.remote.backup_buffer.raw(), options.budget.raw());
  }
  const uint32_t window = options.prefetch.max_window;
  if (window == 0 || window > 256) {
    return InvalidArgument("prefetch window {} is outside 1..256 pages (SPIRITOS_PREFETCH_WINDOW)",
                           window);
  }
  if (options.prefetch.fault_around == 0 || options.prefetch.fault_around > 64) {
    return InvalidArgument("fault-around {} is outside 1..64 pages (SPIRITOS_FAULT_AROUND)",
                           options.prefetch.fault_around);
  }
  if (options.evict.pipeline == 0 || options.evict.pipeline > 4) {
    return InvalidArgument("pipeline {} is outside 1..4 zones (SPIRITOS_EVICT_PIPELINE)",
                           options.evict.pipeline);
  }
  if (options.evict.max_evictors > 4) {
    return InvalidArgument("{} evictors are outside 0..4 (SPIRITOS_MAX_EVICTORS)",
                           options.evict.max_evictors);
  }
  if (options.evict.max_evictors == 0 && options.evict.assist == EvictOptions::Assist::kNever) {
    return InvalidArgument(
        "no evictor threads and no sweeps by faulting threads: nobody would evict "
        "(SPIRITOS_MAX_EVICTORS=0 needs SPIRITOS_ASSIST other than never)");
  }
  if (options.evict.assist_pages < 16 || options.evict.assist_pages > kZonePages) {
    return InvalidArgument("assist pages {} is outside 16..{} (SPIRITOS_ASSIST_PAGES)",
                           options.evict.assist_pages, kZonePages);
  }
  if (options.fault.handler_threads == 0 || options.fault.handler_threads > 64) {
    return InvalidArgument("handler threads {} is outside 1..64 (SPIRITOS_HANDLER_THREADS)",
                           options.fault.handler_threads);
  }
  for (const int cpu : options.evict.cpus) {
    if (cpu < 0 || static_cast<uint32_t>(cpu) >= CoreCount()) {
      return InvalidArgument("evictor CPU {} does not exist, there are {} (SPIRITOS_EVICTOR_CPUS)",
                             cpu, CoreCount());
    }
  }
  return absl::OkStatus();
}

}  // namespace spiritos
