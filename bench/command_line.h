// SPDX-License-Identifier: Apache-2.0
// CommandLine: plain options of test and benchmark programs, parsed by CLI11.
//
//   CommandLine line("what a fault costs");
//   line.Add("--runs", &runs, "interleaved runs");
//   if (const auto status = line.Parse(argc, argv)) return *status;
//
// CLI11's templates take a compiler ten seconds: here they are compiled once.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace spiritos::bench {

class CommandLine {
 public:
  explicit CommandLine(const std::string& what);
  ~CommandLine();
  CommandLine(const CommandLine&) = delete;
  CommandLine& operator=(const CommandLine&) = delete;

  // `*to` holds the default and is set by Parse(); a bool is a flag.
  void Add(const std::string& name, uint32_t* to, const std::string& help);
  void Add(const std::string& name, uint64_t* to, const std::string& help);
  void Add(const std::string& name, double* to, const std::string& help);
  void Add(const std::string& name, bool* to, const std::string& help);
  void Add(const std::string& name, std::string* to, const std::string& help);
  void Add(const std::string& name, std::vector<std::string>* to, const std::string& help);

  // The status to exit with, after --help or a bad option; empty to go on.
  std::optional<int> Parse(int argc, char** argv);

 private:
  struct Parser;
  std::unique_ptr<Parser> parser_;
};

}  // namespace spiritos::bench
