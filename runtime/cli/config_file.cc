// SPDX-License-Identifier: Apache-2.0
// From TOML's values to the words of a command line.
#include "runtime/cli/config_file.h"

#include <fmt/core.h>
#include <toml++/toml.h>

#include <CLI/CLI.hpp>
#include <optional>
#include <string_view>
#include <vector>

#include "libos/base/status.h"

namespace spiritos::cli {
namespace {

enum class Kind { kSwitch, kNumber, kText };

// What the option takes, by what CLI11 tells its users.
Kind KindOf(const CLI::Option& option) {
  if (option.get_items_expected_max() == 0) return Kind::kSwitch;
  const std::string type = option.get_type_name();
  const bool number = type.starts_with("FLOAT") || type.starts_with("UINT") ||
                      type.starts_with("INT") || type.starts_with("SECONDS");
  return number ? Kind::kNumber : Kind::kText;
}

std::string_view NameOf(Kind kind) {
  switch (kind) {
    case Kind::kSwitch:
      return "true or false";
    case Kind::kNumber:
      return "a number";
    default:
      return "a text in quotes";
  }
}

// The value as the command line would have it; nothing when it is of another type. A
// text may be a whole number: a port, a size in bytes.
std::optional<std::string> WordOf(const toml::node& value, Kind kind) {
  if (kind == Kind::kSwitch) {
    if (const auto* const on = value.as_boolean()) return on->get() ? "true" : "false";
    return std::nullopt;
  }
  if (const auto* const whole = value.as_integer()) return fmt::format("{}", whole->get());
  if (kind == Kind::kNumber) {
    if (const auto* const number = value.as_floating_point()) {
      return fmt::format("{}", number->get());
    }
    return std::nullopt;
  }
  if (const auto* const text = value.as_string()) return text->get();
  return std::nullopt;
}

bool IsKey(const std::string& name) {
  return name != "config" && name != "help" && name != "help-all";
}

std::string KnownKeys(const CLI::App& command) {
  std::string keys;
  for (const CLI::Option* option : command.get_options()) {
    const std::string key = option->get_single_name();
    if (!IsKey(key)) continue;
    keys += fmt::format("{}{}", keys.empty() ? "" : ", ", key);
  }
  return keys;
}

absl::Status ApplyKey(const std::string& key, const toml::node& value, CLI::App& command) {
  CLI::Option* const option = IsKey(key) ? command.get_option_no_throw("--" + key) : nullptr;
  if (option == nullptr) {
    return InvalidArgument("unknown key {}; known are {}", key, KnownKeys(command));
  }
  if (option->count() != 0) return absl::OkStatus();  // The command line says otherwise.
  const Kind kind = KindOf(*option);
  std::vector<std::string> words;
  const auto add = [&](const toml::node& item) {
    const std::optional<std::string> word = WordOf(item, kind);
    if (word) words.push_back(*word);
    return word.has_value();
  };
  bool good = true;
  if (const auto* const list = value.as_array();
      list != nullptr && option->get_expected_max() > 1) {
    for (const toml::node& item : *list) good = good && add(item);
  } else {
    good = add(value);
  }
  if (!good) return InvalidArgument("{} must be {}", key, NameOf(kind));
  try {
    option->add_result(words);
    option->run_callback();
  } catch (const CLI::Error& error) {
    return InvalidArgument("{}", error.what());
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ApplyConfigFile(const std::string& path, CLI::App& command) {
  toml::table table;
  try {
    table = toml::parse_file(path);
  } catch (const toml::parse_error& error) {
    const auto line = error.source().begin.line;
    return InvalidArgument("{}:{}: {} (--config)", path, line == 0 ? 1 : line, error.description());
  }
  for (const auto& [key, value] : table) {
    const absl::Status status = ApplyKey(std::string(key.str()), value, command);
    if (!status.ok()) {
      return InvalidArgument("{}:{}: {} (--config)", path, key.source().begin.line,
                             std::string(status.message()));
    }
  }
  return absl::OkStatus();
}

}  // namespace spiritos::cli
