// SPDX-License-Identifier: Apache-2.0
// Programs made of single accesses: random read and write, Zipf get, stride and
// pointer chase. Every access is timed on its own.
#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "bench/mixed_data.h"
#include "bench/workload.h"

namespace spiritos::bench {
namespace {

// What the programs below have in common: a block of mixed data and a loop that
// times an access, checks it outside the timed part and stops at a limit.
class AccessWorkload : public Workload {
 public:
  explicit AccessWorkload(const WorkloadConfig& config)
      : config_(config), pages_(config.size.raw() / kPageSize), random_(config.seed) {}

  absl::Status Fill(std::byte* block) override {
    words_ = reinterpret_cast<uint64_t*>(block);
    for (uint64_t i = 0; i < pages_ * kPageWords; ++i) words_[i] = WordAt(config_.seed, i);
    return absl::OkStatus();
  }

  absl::Status Verify() override {
    if (wrong_ == 0) return absl::OkStatus();
    return absl::DataLossError(fmt::format("{} accesses read wrong bytes", wrong_));
  }

 protected:
  // As many accesses as the block has pages turn local memory over several
  // times when it is small and once when it is half of the block.
  uint64_t warm_up_operations() const { return pages_; }
  // A slow rival must not warm up for ever.
  uint64_t warm_up_ms() const { return 5 * config_.budget_ms; }

  // Repeats: `pick` chooses the place, `access` touches it between two stamps
  // and returns what it read, `check` judges that.
  template <typename Pick, typename Access, typename Check>
  static void Repeat(uint64_t limit, uint64_t budget_ms, WorkloadResult& result, Pick pick,
                     Access access, Check check) {
    const uint64_t start_ns = NowNs();
    const auto deadline =
        Tsc() + static_cast<uint64_t>(static_cast<double>(budget_ms) * 1e6 / NsPerTick());
    uint64_t done = 0;
    for (uint64_t after = 0; done < limit && after < deadline; ++done) {
      const auto place = pick();
      const uint64_t before = TicksBefore();
      const auto value = access(place);
      after = TicksAfter();
      result.latency.Add(after > before ? after - before : 0);
      result.checksum += check(place, value);
    }
    result.operations = done;
    result.wall_ns = NowNs() - start_ns;
  }

  uint64_t CheckWord(uint64_t index, uint64_t value) {
    if (value != WordAt(config_.seed, index)) ++wrong_;
    return value;
  }

  const WorkloadConfig config_;
  const uint64_t pages_;
  Random random_;
  uint64_t* words_ = nullptr;
  uint64_t wrong_ = 0;
};

class RandomRead final : public AccessWorkload {
 public:
  using AccessWorkload::AccessWorkload;
  void WarmUp() override {
    WorkloadResult unused;
    Go(warm_up_operations(), warm_up_ms(), unused);
  }
  void Run(WorkloadResult& result) override {
    Go(config_.max_operations, config_.budget_ms, result);
  }

 private:
  void Go(uint64_t limit, uint64_t ms, WorkloadResult& result) {
    Repeat(
        limit, ms, result, [this] { return random_.Below(pages_ * kPageWords); },
        [this](uint64_t index) { return *const_cast<volatile uint64_t*>(words_ + index); },
        [this](uint64_t index, uint64_t value) { return CheckWord(index, value); });
  }
};

class RandomWrite final : public AccessWorkload {
 public:
  explicit RandomWrite(const WorkloadConfig& config)
      : AccessWorkload(config), last_write_(pages_, 0) {}
  void WarmUp() override {
    WorkloadResult unused;
    Go(warm_up_operations(), warm_up_ms(), unused);
  }
  void Run(WorkloadResult& result) override {
    Go(config_.max_operations, config_.budget_ms, result);
  }

  absl::Status Verify() override {
    for (uint64_t page = 0; page < pages_; ++page) {
      const uint64_t* const words = words_ + page * kPageWords;
      if (words[0] != WordAt(config_.seed, page * kPageWords)) ++wrong_;
      const uint32_t last = last_write_[page];
      if (last != 0 && words[last % kPageWords] != Written(page, last)) ++wrong_;
    }
    return AccessWorkload::Verify();
  }

 private:
  uint64_t Written(uint64_t page, uint32_t stamp) const {
    return Mix(config_.seed ^ (page << 32 | stamp));
  }

  void Go(uint64_t limit, uint64_t ms, WorkloadResult& result) {
    Repeat(
        limit, ms, result,
        [this] {
          const uint64_t page = random_.Below(pages_);
          const uint64_t word = 1 + random_.Below(kPageWords - 1);
          uint32_t& last = last_write_[page];
          last = static_cast<uint32_t>((last / kPageWords + 1) * kPageWords + word);
          return Place{words_ + page * kPageWords + word, Written(page, last)};
        },
        [](const Place& place) {
          *const_cast<volatile uint64_t*>(place.word) = place.value;
          return 0;
        },
        [](const Place&, int) { return 0; });
  }

  struct Place {
    uint64_t* word;
    uint64_t value;
  };
  // Per page: how often it was written, times 512, plus the word written last.
  // Word 0 is never written: it keeps telling which page this is.
  std::vector<uint32_t> last_write_;
};

// Zipf-distributed ranks in [1, n] by rejection inversion (Hörmann, Derflinger
// 1996): no table, about 1.1 tries a draw. The exponent must not be 1.
class ZipfRanks {
 public:
  ZipfRanks(uint64_t n, double exponent)
      : n_(static_cast<double>(n)),
        exponent_(exponent),
        first_(Integral(1.5) - 1),
        last_(Integral(n_ + 0.5)),
        shortcut_(2 - Inverse(Integral(2.5) - Density(2))) {}

  uint64_t Draw(Random& random) const {
    for (;;) {
      const double u = last_ + random.Unit() * (first_ - last_);
      const double x = Inverse(u);
      const double rank = std::clamp(std::floor(x + 0.5), 1.0, n_);
      if (rank - x <= shortcut_ || u >= Integral(rank + 0.5) - Density(rank))
        return static_cast<uint64_t>(rank);
    }
  }

 private:
  double Density(double x) const { return std::pow(x, -exponent_); }
  double Integral(double x) const { return std::pow(x, 1 - exponent_) / (1 - exponent_); }
  double Inverse(double y) const { return std::pow(y * (1 - exponent_), 1 / (1 - exponent_)); }

  double n_, exponent_, first_, last_, shortcut_;
};

class ZipfGet final : public AccessWorkload {
 public:
  explicit ZipfGet(const WorkloadConfig& config)
      : AccessWorkload(config),
        values_(pages_ * kPageWords / kValueWords),
        ranks_(values_, config.zipf_exponent) {}
  void WarmUp() override {
    WorkloadResult unused;
    Go(4 * warm_up_operations(), warm_up_ms(), unused);
  }
  void Run(WorkloadResult& result) override {
    Go(config_.max_operations, config_.budget_ms, result);
  }

 private:
  static constexpr uint64_t kValueWords = 256 / sizeof(uint64_t);

  void Go(uint64_t limit, uint64_t ms, WorkloadResult& result) {
    uint64_t value[kValueWords];
    Repeat(
        limit, ms, result, [this] { return Scatter(ranks_.Draw(random_), values_) * kValueWords; },
        [&](uint64_t index) {
          std::memcpy(value, words_ + index, sizeof(value));
          // The copy is complete before the second stamp.
          asm volatile("" : : "r"(value) : "memory");
          return 0;
        },
        [&](uint64_t index, int) {
          return CheckWord(index, value[0]) +
                 CheckWord(index + kValueWords - 1, value[kValueWords - 1]);
        });
  }

  uint64_t values_;
  ZipfRanks ranks_;
};

class Stride final : public AccessWorkload {
 public:
  using AccessWorkload::AccessWorkload;
  void Run(WorkloadResult& result) override {
    const uint64_t step = std::max<uint64_t>(config_.stride.raw() / sizeof(uint64_t), 1);
    uint64_t next = 0;
    Repeat(
        config_.max_operations, config_.budget_ms, result,
        [&] {
          const uint64_t index = next;
          next += step;
          if (next >= pages_ * kPageWords) next %= kPageWords;
          return index;
        },
        [this](uint64_t index) { return *const_cast<volatile uint64_t*>(words_ + index); },
        [this](uint64_t index, uint64_t value) { return CheckWord(index, value); });
  }
};

class PointerChase final : public AccessWorkload {
 public:
  explicit PointerChase(const WorkloadConfig& config) : AccessWorkload(config), next_(pages_) {
    // Sattolo's shuffle: one cycle through all pages.
    for (uint64_t i = 0; i < pages_; ++i) next_[i] = static_cast<uint32_t>(i);
    for (uint64_t i = pages_ - 1; i > 0; --i) std::swap(next_[i], next_[random_.Below(i)]);
  }
  absl::Status Fill(std::byte* block) override {
    words_ = reinterpret_cast<uint64_t*>(block);
    for (uint64_t i = 0; i < pages_ * kPageWords; ++i)
      words_[i] = i % kPageWords == 0 ? next_[i / kPageWords] : WordAt(config_.seed, i);
    return absl::OkStatus();
  }
  void Run(WorkloadResult& result) override {
    uint64_t page = 0;
    Repeat(
        config_.max_operations, config_.budget_ms, result, [&] { return page; },
        [this](uint64_t at) { return *const_cast<volatile uint64_t*>(words_ + at * kPageWords); },
        [&](uint64_t at, uint64_t value) {
          if (value != next_[at]) ++wrong_;
          page = next_[at];
          return value;
        });
  }

 private:
  std::vector<uint32_t> next_;
};

}  // namespace

std::unique_ptr<Workload> MakeAccessWorkload(Program program, const WorkloadConfig& config) {
  switch (program) {
    case Program::kRandomWrite:
      return std::make_unique<RandomWrite>(config);
    case Program::kZipfGet:
      return std::make_unique<ZipfGet>(config);
    case Program::kStride:
      return std::make_unique<Stride>(config);
    case Program::kPointerChase:
      return std::make_unique<PointerChase>(config);
    default:
      return std::make_unique<RandomRead>(config);
  }
}

}  // namespace spiritos::bench
