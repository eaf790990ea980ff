// SPDX-License-Identifier: Apache-2.0
// One measured run, and how it crosses the process boundary.
#include "bench/rival_child.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "bench/far_block.h"
#include "bench/harness.h"
#include "bench/memory_cgroup.h"
#include "bench/zram_swap.h"
#include "libos/base/fd.h"
#include "libos/base/mapping.h"
#include "libos/base/status.h"

namespace spiritos::bench {
namespace {

// The kernel charges pages to a group in batches of 64 per CPU and kind.
constexpr uint64_t kChargeSlack = 512 << 10;

std::map<std::string, std::string> DecodePairs(std::string_view text, char separator) {
  std::map<std::string, std::string> pairs;
  for (const std::string& part : SplitList(text, separator)) {
    const size_t equals = part.find('=');
    if (equals != part.npos) pairs[part.substr(0, equals)] = part.substr(equals + 1);
  }
  return pairs;
}

uint64_t Nanoseconds(const timeval& time) {
  return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 +
         static_cast<uint64_t>(time.tv_usec) * 1000;
}

// The clocks and counters that bracket the measured part.
struct Meter {
  rusage usage{};
  uint64_t swapped_in = 0;
  uint64_t swapped_out = 0;

  static Meter Read() {
    Meter meter;
    getrusage(RUSAGE_SELF, &meter.usage);
    meter.swapped_in = ReadKeyedNumber("/proc/vmstat", "pswpin");
    meter.swapped_out = ReadKeyedNumber("/proc/vmstat", "pswpout");
    return meter;
  }

  void Subtract(const Meter& earlier, RunResult& result) const {
    result.user_ns = Nanoseconds(usage.ru_utime) - Nanoseconds(earlier.usage.ru_utime);
    result.system_ns = Nanoseconds(usage.ru_stime) - Nanoseconds(earlier.usage.ru_stime);
    result.major_faults = static_cast<uint64_t>(usage.ru_majflt - earlier.usage.ru_majflt);
    result.swapped_in = swapped_in - earlier.swapped_in;
    result.swapped_out = swapped_out - earlier.swapped_out;
  }
};

// Counts the pages of a range that are mapped to a frame. The only look at the
// budget that does not ask the system under test.
uint64_t ResidentBytes(const std::byte* begin, uint64_t size) {
  const UniqueFd fd(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return 0;
  std::vector<uint64_t> entries(8192);
  uint64_t resident = 0;
  for (uint64_t page = 0, pages = size / kPageSize; page < pages;) {
    const size_t want = std::min<uint64_t>(entries.size(), pages - page) * sizeof(uint64_t);
    const auto at = static_cast<off_t>((Vpn::Of(begin).raw() + page) * sizeof(uint64_t));
    const ssize_t got = pread(fd.get(), entries.data(), want, at);
    if (got <= 0) break;
    const auto n = static_cast<uint64_t>(got) / sizeof(uint64_t);
    for (uint64_t i = 0; i < n; ++i) resident += entries[i] >> 63;
    page += n;
  }
  return resident * kPageSize;
}

// A block of either system; the system that is not used stays empty.
struct Block {
  std::optional<FarBlock> far;
  Mapping swapped;
  std::byte* begin = nullptr;
};

// Leaves the block `local` bytes under the group's limit; see the header.
absl::Status LimitSwap(const RunSpec& spec, RunResult& result) {
  const MemoryCgroup group = MemoryCgroup::Borrow(spec.cgroup);
  if (mlockall(MCL_CURRENT) != 0) return ErrnoStatus(errno, "locking near memory");
  SPIRITOS_ASSIGN_OR_RETURN(const Bytes near, group.Usage());
  const uint64_t page_tables = spec.size.raw() / kPageSize * sizeof(uint64_t);
  result.near_bytes = near.raw();
  result.limit_bytes = near.raw() + page_tables + kChargeSlack + spec.local.raw();
  return group.SetLimit(Bytes(result.limit_bytes));
}

absl::StatusOr<Block> MakeBlock(const RunSpec& spec, int evictor_cpu, RunResult& result) {
  Block block;
  if (spec.system == System::kSpiritos) {
    SPIRITOS_ASSIGN_OR_RETURN(
        block.far,
        FarBlock::Create({.size = spec.size, .budget = spec.local, .evictor_cpu = evictor_cpu}));
    block.begin = block.far->data();
    return block;
  }
  SPIRITOS_RETURN_IF_ERROR(LimitSwap(spec, result));
  SPIRITOS_ASSIGN_OR_RETURN(block.swapped,
                            Mapping::Anonymous(spec.size, kZoneSize, "swapped block"));
  madvise(block.swapped.data(), spec.size.raw(), MADV_NOHUGEPAGE);
  block.begin = block.swapped.data();
  return block;
}

void TakeOutcome(const WorkloadResult& outcome, RunResult& result) {
  const LatencyRecorder& latency = outcome.latency;
  const auto whole = [](double ns) { return static_cast<uint64_t>(ns); };
  result.operations = outcome.operations;
  result.wall_ns = outcome.wall_ns;
  result.checksum = outcome.checksum;
  result.p50_ns = whole(latency.QuantileNs(0.5));
  result.p99_ns = whole(latency.QuantileNs(0.99));
  result.p999_ns = whole(latency.QuantileNs(0.999));
  result.max_ns = whole(latency.MaxNs());
  result.latencies = latency.count();
  result.stalls = latency.stalls();
  result.stall_p50_ns = whole(latency.StallQuantileNs(0.5));
  result.stall_p99_ns = whole(latency.StallQuantileNs(0.99));
  result.stall_p999_ns = whole(latency.StallQuantileNs(0.999));
}

absl::Status Measure(const RunSpec& spec, RunResult& result) {
  const uint64_t begin_ns = NowNs();
  const std::vector<int> cpus = UsableCpus();
  const bool apart = spec.variant == Variant::kPinned;
  if (apart && cpus.size() < 2) return InvalidArgument("pinning apart needs two usable CPUs");
  if (spec.variant == Variant::kOneCore) SPIRITOS_RETURN_IF_ERROR(PinThisThread({cpus[0]}));

  NsPerTick();  // Calibrates now, not under the limit.
  const auto workload = MakeWorkload(spec.program, {.size = spec.size,
                                                    .seed = spec.seed,
                                                    .budget_ms = spec.budget_ms,
                                                    .graph_fd = spec.graph_fd});
  const auto outcome = std::make_unique<WorkloadResult>();
  // Threads of the space start with the whole mask; the caller is pinned after.
  SPIRITOS_ASSIGN_OR_RETURN(Block block, MakeBlock(spec, apart ? cpus[1] : -1, result));
  if (apart) SPIRITOS_RETURN_IF_ERROR(PinThisThread({cpus[0]}));

  const uint64_t fill_ns = NowNs();
  SPIRITOS_RETURN_IF_ERROR(workload->Fill(block.begin));
  result.fill_ns = NowNs() - fill_ns;
  workload->WarmUp();

  if (block.far) block.far->MarkStats();
  const Meter before = Meter::Read();
  workload->Run(*outcome);
  Meter::Read().Subtract(before, result);
  if (block.far) result.stats = block.far->StatsLine();

  result.resident_bytes = ResidentBytes(block.begin, spec.size.raw());
  if (!spec.zram.empty()) {
    const auto contents = ZramSwap::ReadContents(spec.zram);
    result.original_bytes = contents.original.raw();
    result.compressed_bytes = contents.compressed.raw();
  }
  TakeOutcome(*outcome, result);
  absl::Status verified = workload->Verify();
  result.total_ns = NowNs() - begin_ns;
  return verified;
}

template <size_t n>
absl::StatusOr<int> IndexOf(const std::array<std::string_view, n>& names, std::string_view name) {
  const auto at = std::find(names.begin(), names.end(), name);
  if (at == names.end()) return InvalidArgument("'{}' is not known", name);
  return static_cast<int>(at - names.begin());
}

}  // namespace

std::string RunSpec::Encode() const {
  return fmt::format(
      "system={},program={},variant={},size={},local={},seed={},ms={},graph={},"
      "cgroup={},zram={}",
      kSystemNames[static_cast<size_t>(system)], ProgramName(program),
      kVariantNames[static_cast<size_t>(variant)], size.raw(), local.raw(), seed, budget_ms,
      graph_fd, cgroup, zram);
}

absl::StatusOr<RunSpec> RunSpec::Decode(std::string_view text) {
  auto pairs = DecodePairs(text, ',');
  RunSpec spec;
  SPIRITOS_ASSIGN_OR_RETURN(const int system, IndexOf(kSystemNames, pairs["system"]));
  SPIRITOS_ASSIGN_OR_RETURN(const int variant, IndexOf(kVariantNames, pairs["variant"]));
  const auto program = ProgramFromName(pairs["program"]);
  if (!program) return InvalidArgument("'{}' is not a program", pairs["program"]);
  SPIRITOS_ASSIGN_OR_RETURN(spec.size, ParseSize(pairs["size"]));
  SPIRITOS_ASSIGN_OR_RETURN(spec.local, ParseSize(pairs["local"]));
  spec.system = static_cast<System>(system);
  spec.variant = static_cast<Variant>(variant);
  spec.program = *program;
  spec.seed = std::strtoull(pairs["seed"].c_str(), nullptr, 10);
  spec.budget_ms = std::strtoull(pairs["ms"].c_str(), nullptr, 10);
  spec.graph_fd = std::atoi(pairs["graph"].c_str());
  spec.cgroup = pairs["cgroup"];
  spec.zram = pairs["zram"];
  return spec;
}

const std::array<RunResult::Field, 24>& RunResult::Fields() {
  static const std::array<Field, 24> fields = {{
      {"operations", &RunResult::operations},
      {"wall_ns", &RunResult::wall_ns},
      {"user_ns", &RunResult::user_ns},
      {"system_ns", &RunResult::system_ns},
      {"p50_ns", &RunResult::p50_ns},
      {"p99_ns", &RunResult::p99_ns},
      {"p999_ns", &RunResult::p999_ns},
      {"max_ns", &RunResult::max_ns},
      {"latencies", &RunResult::latencies},
      {"stalls", &RunResult::stalls},
      {"stall_p50_ns", &RunResult::stall_p50_ns},
      {"stall_p99_ns", &RunResult::stall_p99_ns},
      {"stall_p999_ns", &RunResult::stall_p999_ns},
      {"major_faults", &RunResult::major_faults},
      {"swapped_in", &RunResult::swapped_in},
      {"swapped_out", &RunResult::swapped_out},
      {"checksum", &RunResult::checksum},
      {"fill_ns", &RunResult::fill_ns},
      {"total_ns", &RunResult::total_ns},
      {"resident_bytes", &RunResult::resident_bytes},
      {"near_bytes", &RunResult::near_bytes},
      {"limit_bytes", &RunResult::limit_bytes},
      {"original_bytes", &RunResult::original_bytes},
      {"compressed_bytes", &RunResult::compressed_bytes},
  }};
  return fields;
}

double RunResult::rate() const {
  return wall_ns == 0 ? 0 : static_cast<double>(operations) * 1e9 / static_cast<double>(wall_ns);
}

double RunResult::cpu_ns_per_operation() const {
  if (operations == 0) return 0;
  return static_cast<double>(user_ns + system_ns) / static_cast<double>(operations);
}

std::string RunResult::Encode() const {
  std::string text = fmt::format("error={}\nstats={}\n", error, stats);
  for (const Field& field : Fields())
    text += fmt::format("{}={}\n", field.name, this->*field.member);
  return text;
}

RunResult RunResult::Decode(std::string_view text) {
  const auto pairs = DecodePairs(text, '\n');
  RunResult result;
  for (const Field& field : Fields()) {
    const auto at = pairs.find(std::string(field.name));
    if (at == pairs.end()) {
      result.error = "the measured process ended early";
      return result;
    }
    result.*field.member = std::strtoull(at->second.c_str(), nullptr, 10);
  }
  if (const auto at = pairs.find("error"); at != pairs.end()) result.error = at->second;
  if (const auto at = pairs.find("stats"); at != pairs.end()) result.stats = at->second;
  return result;
}

int RunChild(const RunSpec& spec, int result_fd) {
  RunResult result;
  const absl::Status status = Measure(spec, result);
  if (!status.ok()) result.error = MessageOf(status);
  const std::string text = result.Encode();
  for (size_t at = 0; at < text.size();) {
    const ssize_t n = write(result_fd, text.data() + at, text.size() - at);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return 1;
    at += static_cast<size_t>(n);
  }
  return status.ok() ? 0 : 1;
}

}  // namespace spiritos::bench
