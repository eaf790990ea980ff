// SPDX-License-Identifier: Apache-2.0
// Judges configurations against their targets and prints them.
#include "bench/rival_report.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>

#include "bench/far_block.h"

namespace spiritos::bench {
namespace {

constexpr uint64_t kTargetPercent = 25;
constexpr std::array<double, kRivalProgramCount> kRateTargets = {1.8, 1.6, 1.5, 5, 4, 1.5, 1.5};
constexpr double kOneCoreTarget = 1.3;  // Of random read.
constexpr double kTailTarget = 0.2;

bool JudgedByStalls(Program program) {
  return program == Program::kZipfGet || program == Program::kQuicksort;
}

// Medians of one system's good runs.
struct Side {
  size_t runs = 0;
  double rate = NAN, spread = NAN, cpu_ns = NAN, stalled = NAN;
  double p50 = NAN, p99 = NAN, p999 = NAN;  // Of operations or of stalls.
};

Side SideOf(const std::vector<RunOutcome>& runs, bool by_stalls) {
  std::vector<double> rate, cpu, stalled, p50, p99, p999;
  for (const RunOutcome& run : runs) {
    if (!run.result.error.empty()) continue;
    rate.push_back(run.result.rate());
    cpu.push_back(run.result.cpu_ns_per_operation());
    const RunResult& one = run.result;
    stalled.push_back(static_cast<double>(one.stalls) / static_cast<double>(one.latencies));
    p50.push_back(static_cast<double>(by_stalls ? one.stall_p50_ns : one.p50_ns));
    p99.push_back(static_cast<double>(by_stalls ? one.stall_p99_ns : one.p99_ns));
    p999.push_back(static_cast<double>(by_stalls ? one.stall_p999_ns : one.p999_ns));
  }
  if (rate.empty()) return {};
  return {rate.size(),     Median(rate), Spread(rate), Median(cpu),
          Median(stalled), Median(p50),  Median(p99),  Median(p999)};
}

// A ratio of spiritos to zram and what is asked of it.
struct Judgement {
  double ratio = NAN;
  std::optional<double> target;
  bool at_least = true;  // Or at most.

  bool met() const { return at_least ? ratio >= *target : ratio <= *target; }
  bool judged() const { return target.has_value() && std::isfinite(ratio) && FarBlock::kFar; }
  std::string RatioText() const {
    return std::isfinite(ratio) ? fmt::format("{:.2f}", ratio) : "-";
  }
  std::string TargetText() const {
    return target ? fmt::format("{} {:.1f}", at_least ? ">=" : "<=", *target) : "-";
  }
  std::string VerdictText() const { return !judged() ? "-" : met() ? "met" : "MISSED"; }
};

struct Judged {
  Side far, zram;
  Judgement rate, p99, p999;
};

Judged Judge(const Configuration& at) {
  const bool by_stalls = JudgedByStalls(at.program);
  Judged judged{SideOf(at.runs[0], by_stalls), SideOf(at.runs[1], by_stalls), {}, {}, {}};
  const Side &far = judged.far, &zram = judged.zram;
  judged.rate.ratio = far.rate / zram.rate;
  judged.p99 = {far.p99 / zram.p99, std::nullopt, false};
  judged.p999 = {far.p999 / zram.p999, std::nullopt, false};
  if (at.local_percent != kTargetPercent) return judged;
  if (at.variant != Variant::kOneCore) {
    judged.rate.target = kRateTargets[static_cast<size_t>(at.program)];
    judged.p99.target = kTailTarget;
  } else if (at.program == Program::kRandomRead) {
    judged.rate.target = kOneCoreTarget;
  }
  if (at.variant == Variant::kPinned) judged.p999.target = kTailTarget;
  return judged;
}

std::string Cell(double value, std::string (*format)(double)) {
  return std::isfinite(value) ? format(value) : "failed";
}

std::vector<std::string> NameCells(const Configuration& at) {
  return {FormatSize(at.size), fmt::format("{} %", at.local_percent),
          std::string(ProgramName(at.program)),
          std::string(kVariantNames[static_cast<size_t>(at.variant)])};
}

std::string FormatRates(const std::vector<Configuration>& configurations) {
  Table table({"set", "local", "program", "variant", "spiritos/s", "zram/s", "ratio", "target",
               "verdict", "CPU/op", "zram CPU/op", "MAD", "runs"});
  for (const Configuration& at : configurations) {
    const Judged judged = Judge(at);
    std::vector<std::string> row = NameCells(at);
    const auto spread = [](double value) {
      return std::isfinite(value) ? fmt::format("{:.0f} %", value * 100) : std::string("-");
    };
    for (std::string cell :
         {Cell(judged.far.rate, FormatRate), Cell(judged.zram.rate, FormatRate),
          judged.rate.RatioText(), judged.rate.TargetText(), judged.rate.VerdictText(),
          Cell(judged.far.cpu_ns, FormatNs), Cell(judged.zram.cpu_ns, FormatNs),
          spread(judged.far.spread) + " / " + spread(judged.zram.spread),
          fmt::format("{} / {}", judged.far.runs, judged.zram.runs)})
      row.push_back(std::move(cell));
    table.Add(std::move(row));
  }
  return table.ToText();
}

std::string FormatLatencies(const std::vector<Configuration>& configurations) {
  Table table({"set", "local", "program", "variant", "of", "stalled", "zram", "p50", "zram", "p99",
               "zram", "ratio", "target", "verdict", "p999", "zram", "ratio", "target", "verdict"});
  const auto percent = [](double value) {
    return std::isfinite(value) ? fmt::format("{:.3g} %", value * 100) : std::string("-");
  };
  for (const Configuration& at : configurations) {
    const Judged judged = Judge(at);
    std::vector<std::string> row = NameCells(at);
    for (std::string cell :
         {std::string(JudgedByStalls(at.program) ? "stalls" : "ops"), percent(judged.far.stalled),
          percent(judged.zram.stalled), Cell(judged.far.p50, FormatNs),
          Cell(judged.zram.p50, FormatNs), Cell(judged.far.p99, FormatNs),
          Cell(judged.zram.p99, FormatNs), judged.p99.RatioText(), judged.p99.TargetText(),
          judged.p99.VerdictText(), Cell(judged.far.p999, FormatNs),
          Cell(judged.zram.p999, FormatNs), judged.p999.RatioText(), judged.p999.TargetText(),
          judged.p999.VerdictText()})
      row.push_back(std::move(cell));
    table.Add(std::move(row));
  }
  return table.ToText();
}

// What a reader must know beside the tables, one line each.
std::vector<std::string> Notes(const Configuration& at) {
  std::vector<std::string> notes;
  std::set<std::string> errors;
  std::set<uint64_t> checksums;
  int repeats = 0, failures = 0;
  Bytes swap;
  uint64_t resident = 0;
  std::vector<double> share;  // Of a CPU that the single thread of zram's runs got.
  for (size_t system = 0; system < 2; ++system) {
    for (const RunOutcome& run : at.runs[system]) {
      repeats += run.oom_repeats;
      if (run.oom_repeats > 0) swap = std::max(swap, run.swap_size);
      if (!run.result.error.empty()) {
        ++failures;
        errors.insert(fmt::format("{}: {}", kSystemNames[system], run.result.error));
        continue;
      }
      checksums.insert(run.result.checksum);
      if (system == 0) resident = std::max(resident, run.result.resident_bytes);
      if (system == 1)
        share.push_back(run.result.rate() * run.result.cpu_ns_per_operation() * 1e-9);
      if (system == 1 && run.result.swapped_in == 0)
        errors.insert("swap: a run never swapped in: not a comparison of far memory");
    }
  }
  if (Median(share) < 0.9)
    notes.push_back(fmt::format("NOISE: zram's thread had a CPU for {:.0f} % of the time only",
                                Median(share) * 100));
  if (failures > 0) notes.push_back(fmt::format("{} runs failed", failures));
  for (const std::string& error : errors) notes.push_back(error);
  if (repeats > 0)
    notes.push_back(
        fmt::format("zram was killed for want of memory {} times and repeated, with up "
                    "to {} MiB of swap",
                    repeats, swap.raw() >> 20));
  if (HasFixedWork(at.program) && checksums.size() > 1)
    notes.push_back("DATA: the systems computed different results");
  if (FarBlock::kFar && resident > at.local().raw())
    notes.push_back(fmt::format("BUDGET: {} KiB of the block were resident, {} KiB allowed",
                                resident >> 10, at.local().raw() >> 10));
  return notes;
}

void Count(const Configuration& at, Tally& tally) {
  const Judged judged = Judge(at);
  for (const Judgement& one : {judged.rate, judged.p99, judged.p999})
    if (one.judged()) ++(one.met() ? tally.met : tally.missed);
  std::set<uint64_t> checksums;
  for (const auto& runs : at.runs) {
    for (const RunOutcome& run : runs) {
      tally.failed_runs += !run.result.error.empty();
      if (run.result.error.empty()) checksums.insert(run.result.checksum);
    }
  }
  tally.failed_runs += HasFixedWork(at.program) && checksums.size() > 1;
}

std::string FormatAllowance(const std::vector<Configuration>& configurations) {
  uint64_t near_low = UINT64_MAX, near_high = 0;
  double original = 0, compressed = 0;
  for (const Configuration& at : configurations) {
    for (const RunOutcome& run : at.runs[1]) {
      if (!run.result.error.empty()) continue;
      const uint64_t allowance = run.result.limit_bytes - at.local().raw();
      near_low = std::min(near_low, allowance);
      near_high = std::max(near_high, allowance);
      original += static_cast<double>(run.result.original_bytes);
      compressed += static_cast<double>(run.result.compressed_bytes);
    }
  }
  if (near_high == 0) return {};
  return fmt::format(
      "zram: limit = local + {:.1f} to {:.1f} MiB for near memory, page tables and "
      "charge batches; it held pages at {:.2f} of their size\n",
      static_cast<double>(near_low) / (1 << 20), static_cast<double>(near_high) / (1 << 20),
      compressed / original);
}

void SideToJson(Json& json, const Side& side, const std::vector<RunOutcome>& runs) {
  json.Open('{');
  json.Field("rate", side.rate).Field("rate_mad_fraction", side.spread);
  json.Field("cpu_ns_per_operation", side.cpu_ns);
  json.Field("stalled_fraction", side.stalled);
  json.Field("p50_ns", side.p50).Field("p99_ns", side.p99).Field("p999_ns", side.p999);
  json.Key("runs").Open('[');
  for (const RunOutcome& run : runs) {
    json.Open('{').Field("error", std::string_view(run.result.error));
    for (const auto& field : RunResult::Fields()) json.Field(field.name, run.result.*field.member);
    json.Field("oom_repeats", static_cast<uint64_t>(run.oom_repeats));
    json.Field("swap_bytes", run.swap_size.raw());
    json.Field("stats", std::string_view(run.result.stats)).Close();
  }
  json.Close().Close();
}

void JudgementToJson(Json& json, std::string_view name, const Judgement& judgement) {
  json.Key(name).Open('{').Field("ratio", judgement.ratio);
  json.Field("target", judgement.target.value_or(NAN));
  json.Field("verdict", std::string_view(judgement.VerdictText())).Close();
}

}  // namespace

std::string Configuration::Name() const {
  return fmt::format("{}, {} %, {}, {}", FormatSize(size), local_percent, ProgramName(program),
                     kVariantNames[static_cast<size_t>(variant)]);
}

std::string FormatReport(const std::vector<Configuration>& configurations, Tally& tally) {
  std::string text =
      "Rates: medians; CPU/op counts all threads of the process; MAD is spiritos / "
      "zram\n\n";
  text += FormatRates(configurations) +
          "\nLatencies: medians of each run's quantiles, of operations or of "
          "stalls (operations of 2 us and more)\n\n";
  text += FormatLatencies(configurations) + "\n" + FormatAllowance(configurations);
  for (const Configuration& at : configurations) {
    Count(at, tally);
    for (const std::string& note : Notes(at)) text += fmt::format("{}: {}\n", at.Name(), note);
  }
  if (!FarBlock::kFar)
    return text + "no verdicts: built without a space, the spiritos side is plain local memory\n";
  return text + fmt::format("targets: {} met, {} missed; failed runs: {}\n", tally.met,
                            tally.missed, tally.failed_runs);
}

std::string ReportToJson(const MachineInfo& machine, const std::string& command_line,
                         const std::vector<Configuration>& configurations) {
  Json json;
  json.Open('{').Field("benchmark", "rival_swap");
  json.Field("command", std::string_view(command_line)).Field("far_memory", FarBlock::kFar);
  json.Key("machine").Open('{').Field("cpu", std::string_view(machine.cpu_model));
  json.Field("kernel", std::string_view(machine.kernel));
  json.Field("cpus", static_cast<uint64_t>(machine.cpus));
  json.Field("memory_bytes", machine.memory.raw()).Field("load", machine.load);
  json.Field("huge_pages", std::string_view(machine.huge_pages));
  json.Field("lru", std::string_view(machine.lru)).Close();
  json.Key("configurations").Open('[');
  for (const Configuration& at : configurations) {
    const Judged judged = Judge(at);
    json.Open('{').Field("set_bytes", at.size.raw()).Field("local_bytes", at.local().raw());
    json.Field("local_percent", at.local_percent).Field("program", ProgramName(at.program));
    json.Field("operation", OperationName(at.program));
    json.Field("latencies_of", JudgedByStalls(at.program) ? "stalls" : "operations");
    json.Field("variant", kVariantNames[static_cast<size_t>(at.variant)]);
    json.Field("page_cluster", at.page_cluster);
    json.Field("calibration_cluster_0", at.calibration[0]);
    json.Field("calibration_cluster_3", at.calibration[1]);
    JudgementToJson(json, "rate", judged.rate);
    JudgementToJson(json, "p99", judged.p99);
    JudgementToJson(json, "p999", judged.p999);
    json.Key("spiritos");
    SideToJson(json, judged.far, at.runs[0]);
    json.Key("zram");
    SideToJson(json, judged.zram, at.runs[1]);
    json.Close();
  }
  json.Close().Close();
  return json.text() + "\n";
}

}  // namespace spiritos::bench
