// SPDX-License-Identifier: Apache-2.0
// The one instance of CLI11 that plain programs share.
#include "bench/command_line.h"

#include <CLI/CLI.hpp>

namespace spiritos::bench {

struct CommandLine::Parser {
  CLI::App app;
};

CommandLine::CommandLine(const std::string& what) : parser_(std::make_unique<Parser>()) {
  parser_->app.description(what);
}
CommandLine::~CommandLine() = default;

void CommandLine::Add(const std::string& name, uint32_t* to, const std::string& help) {
  parser_->app.add_option(name, *to, help)->capture_default_str();
}
void CommandLine::Add(const std::string& name, uint64_t* to, const std::string& help) {
  parser_->app.add_option(name, *to, help)->capture_default_str();
}
void CommandLine::Add(const std::string& name, double* to, const std::string& help) {
  parser_->app.add_option(name, *to, help)->capture_default_str();
}
void CommandLine::Add(const std::string& name, bool* to, const std::string& help) {
  parser_->app.add_flag(name, *to, help);
}
void CommandLine::Add(const std::string& name, std::string* to, const std::string& help) {
  parser_->app.add_option(name, *to, help);
}
void CommandLine::Add(const std::string& name, std::vector<std::string>* to,
                      const std::string& help) {
  parser_->app.add_option(name, *to, help);
}

std::optional<int> CommandLine::Parse(int argc, char** argv) {
  try {
    parser_->app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return parser_->app.exit(error);
  }
  return std::nullopt;
}

}  // namespace spiritos::bench
