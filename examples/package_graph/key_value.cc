// SPDX-License-Identifier: Apache-2.0
#include "examples/package_graph/key_value.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "examples/package_graph/threads.h"

namespace package_graph {
namespace {

constexpr double kExponent = 0.99;
constexpr uint64_t kUpdateEvery = 20;  // Operations per update, on average.
constexpr uint64_t kProgressStep = 1024;

// Zipf-distributed ranks by the method of Gray et al., "Quickly generating
// billion-record synthetic databases", SIGMOD 1994: rank 0 is the favourite.
class Zipf {
 public:
  explicit Zipf(uint64_t n) : n_(static_cast<double>(n)) {
    for (uint64_t i = 1; i <= n; ++i) zeta_ += std::pow(static_cast<double>(i), -kExponent);
    double zeta2 = 1 + std::pow(0.5, kExponent);
    second_ = zeta2;
    alpha_ = 1 / (1 - kExponent);
    eta_ = n > 2 ? (1 - std::pow(2 / n_, 1 - kExponent)) / (1 - zeta2 / zeta_) : 0;
  }
  uint64_t Rank(double unit) const {
    double uz = unit * zeta_;
    if (uz < 1) return 0;
    if (uz < second_ || n_ < 3) return 1;
    return static_cast<uint64_t>(n_ * std::pow(eta_ * unit - eta_ + 1, alpha_));
  }

 private:
  double n_;
  double zeta_ = 0;
  double second_ = 0;
  double alpha_ = 0;
  double eta_ = 0;
};

void Get(const Corpus& corpus, PackageId id, KeyValueResult& result) {
  std::optional<PackageId> found = corpus.catalog.Find(corpus.NameOf(id));
  ++result.gets;
  if (found != id) {
    ++result.bad_records;
    return;
  }
  const Record& record = corpus.catalog[id];
  uint64_t checksum = record.ComputeChecksum();
  if (checksum != record.checksum()) ++result.bad_records;
  result.hash += Mix(checksum ^ id);
}

// "1.2-3" becomes "1.2-3+u1", that becomes "1.2-3+u2", and so on.
std::string NextVersion(std::string_view version) {
  size_t mark = version.rfind("+u");
  uint64_t count = 0;
  if (mark != std::string_view::npos) {
    std::string_view digits = version.substr(mark + 2);
    bool ours =
        !digits.empty() && digits.size() < 10 &&
        std::all_of(digits.begin(), digits.end(), [](char c) { return c >= '0' && c <= '9'; });
    if (ours) {
      count = std::stoull(std::string(digits));
      version = version.substr(0, mark);
    }
  }
  return std::string(version) + "+u" + std::to_string(count + 1);
}

void Update(Corpus& corpus, PackageId id, KeyValueResult& result) {
  std::optional<PackageId> found = corpus.catalog.Find(corpus.NameOf(id));
  ++result.updates;
  if (found != id) {
    ++result.bad_records;
    return;
  }
  Record& record = corpus.catalog[id];
  record.SetVersion(NextVersion(record.version()));
}

}  // namespace

KeyValueResult RunKeyValue(Corpus& corpus, uint64_t operations, uint64_t seed, unsigned threads,
                           Progress& progress) {
  const uint64_t packages = corpus.catalog.size();
  const Zipf zipf(packages);
  progress.Begin("key-value", operations);
  std::vector<KeyValueResult> parts(threads);
  RunThreads(threads, [&](unsigned thread) {
    KeyValueResult part;
    // Every thread draws the whole sequence and does its own packages' share.
    Random random(seed);
    for (uint64_t i = 0; i < operations; ++i) {
      uint64_t rank = std::min(zipf.Rank(random.Unit()), packages - 1);
      bool update = random.Below(kUpdateEvery) == 0;
      // Scatters the favourites: a prime larger than any number of packages.
      auto id = static_cast<PackageId>(rank * 4294967311ull % packages);
      if (id % threads == thread) {
        if (update) {
          Update(corpus, id, part);
        } else {
          Get(corpus, id, part);
        }
      }
      if (thread == 0 && i % kProgressStep == 0) progress.Advance(kProgressStep);
    }
    parts[thread] = part;
  });
  KeyValueResult total;
  for (const KeyValueResult& part : parts) {
    total.gets += part.gets;
    total.updates += part.updates;
    total.bad_records += part.bad_records;
    total.hash += part.hash;
  }
  return total;
}

}  // namespace package_graph
