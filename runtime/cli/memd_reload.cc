// SPDX-License-Identifier: Apache-2.0
// What is different in a file that is read again.
#include "runtime/cli/memd_reload.h"

#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <string_view>

#include "libos/base/log.h"
#include "libos/base/status.h"
#include "runtime/cli/config_file.h"
#include "runtime/cli/memd_options.h"

namespace spiritos::cli {
namespace {

constexpr std::array<std::string_view, 3> kMayChange = {"memory", "quota", "tenant-bandwidth"};

absl::Status Give(const MemdFlags& flags, MemoryServer& server) {
  SPIRITOS_ASSIGN_OR_RETURN(const ServerOptions options, OptionsOf(flags));
  SPIRITOS_RETURN_IF_ERROR(RaiseDescriptorLimit(options));
  return server.Reconfigure(options);
}

// Keys that take another start, and are different now.
void WarnOfOthers(const CLI::App& before, const CLI::App& now) {
  for (const CLI::Option* option : now.get_options()) {
    const std::string key = option->get_single_name();
    const bool may_change =
        std::find(kMayChange.begin(), kMayChange.end(), key) != kMayChange.end();
    const CLI::Option* const was = before.get_option_no_throw("--" + key);
    if (may_change || was == nullptr || was->results() == option->results()) continue;
    LogWarning(
        fmt::format("{} is different now, and stays as it was until the server is started "
                    "again (--{})",
                    key, key));
  }
}

}  // namespace

MemdReload::MemdReload(const CLI::App& memd) : memd_(memd) {
  for (const CLI::Option* option : memd.get_options()) {
    if (option->count() != 0) {
      command_line_.emplace_back(option->get_single_name(), option->results());
    }
  }
}

void MemdReload::Apply(MemoryServer& server) {
  CLI::App again;
  MemdFlags flags;
  AddMemdOptions(again, &flags);
  for (const auto& [name, words] : command_line_) {
    CLI::Option* const option = again.get_option("--" + name);
    option->add_result(words);
    option->run_callback();  // It has passed before.
  }
  absl::Status status =
      flags.config.empty() ? absl::OkStatus() : ApplyConfigFile(flags.config, again);
  if (status.ok()) status = Give(flags, server);
  if (!status.ok()) {
    LogWarning(fmt::format("options are not taken over: {}", std::string(status.message())));
    return;
  }
  WarnOfOthers(memd_, again);
  LogWarning(fmt::format("options have been read again: {} slabs of 64 MiB", server.slabs()));
}

}  // namespace spiritos::cli
