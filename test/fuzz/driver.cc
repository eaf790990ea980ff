// SPDX-License-Identifier: Apache-2.0
// Runs a fuzz target without libFuzzer: its corpus, then inputs made from that by chance.
//
// usage: TARGET [--seconds N] [--seed N] FILE-OR-FOLDER...
//
// What it finds by itself is what is near to the corpus; what looks for more is fuzz.py.
// An input that stops the process is left in TARGET.crash of the working directory.
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <string_view>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

using Bytes = std::vector<uint8_t>;

std::string crash_path;

void Try(const Bytes& input) {
  std::ofstream last(crash_path, std::ios::binary | std::ios::trunc);
  last.write(reinterpret_cast<const char*>(input.data()),
             static_cast<std::streamsize>(input.size()));
  last.close();
  LLVMFuzzerTestOneInput(input.data(), input.size());
}

std::vector<Bytes> ReadCorpus(const std::vector<std::string>& paths) {
  std::vector<Bytes> corpus;
  const auto add = [&](const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    corpus.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  };
  for (const std::string& path : paths) {
    if (!std::filesystem::is_directory(path)) {
      add(path);
      continue;
    }
    for (const auto& entry : std::filesystem::directory_iterator(path)) add(entry.path());
  }
  return corpus;
}

// Some small changes, and now and then the end of another input.
Bytes Mutate(Bytes input, const std::vector<Bytes>& corpus, std::mt19937_64& random) {
  constexpr size_t kLongest = 4096;
  const auto place = [&] { return static_cast<ptrdiff_t>(random() % (input.size() + 1)); };
  for (uint64_t changes = 1 + random() % 8; changes != 0; --changes) {
    const auto byte = static_cast<uint8_t>(random() % 4 == 0 ? random() : random() % 12);
    switch (random() % 4) {
      case 0:
        input.insert(input.begin() + place(), byte);
        break;
      case 1:
        if (!input.empty()) input[random() % input.size()] = byte;
        break;
      case 2:
        input.erase(input.begin() + place(), input.end());
        break;
      default: {
        const Bytes& other = corpus[random() % corpus.size()];
        input.insert(input.begin() + place(), other.begin(), other.end());
      }
    }
  }
  input.resize(std::min(input.size(), kLongest));
  return input;
}

}  // namespace

int main(int argc, char** argv) {
  using Clock = std::chrono::steady_clock;
  std::chrono::seconds time{0};
  uint64_t seed = std::random_device()();
  std::vector<std::string> paths;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument == "--seconds" && i + 1 < argc) {
      time = std::chrono::seconds(std::atoi(argv[++i]));
    } else if (argument == "--seed" && i + 1 < argc) {
      seed = std::strtoull(argv[++i], nullptr, 10);
    } else {
      paths.emplace_back(argument);
    }
  }
  crash_path = std::filesystem::path(argv[0]).filename().string() + ".crash";
  const std::vector<Bytes> corpus = ReadCorpus(paths);
  if (corpus.empty()) {
    fmt::print(stderr, "no corpus: name its folder\n");
    return 2;
  }
  fmt::print("seed {}\n", seed);
  std::fflush(stdout);
  for (const Bytes& input : corpus) Try(input);
  std::mt19937_64 random(seed);
  uint64_t tries = corpus.size();
  for (const auto end = Clock::now() + time; Clock::now() < end; ++tries) {
    Try(Mutate(corpus[random() % corpus.size()], corpus, random));
  }
  std::filesystem::remove(crash_path);
  fmt::print("{} inputs\n", tries);
  return 0;
}
