// SPDX-License-Identifier: Apache-2.0
// A fresh key, printed as the line that key files consist of.
#include "runtime/cli/key.h"

#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <string>

#include "libos/remote/tls_keys.h"

namespace spiritos::cli {

void AddKey(CLI::App& app, int* status) {
  auto tenant = std::make_shared<std::string>();
  CLI::App* const key = app.add_subcommand(
      "key", "Print a fresh key line for --tls-psk of memd and SPIRITOS_TLS_PSK of programs.");
  key->add_option("--tenant", *tenant, "whose key it is")->required();
  key->callback([tenant, status] {
    const absl::StatusOr<TlsKey> made = TlsKey::Make(*tenant);
    if (made.ok()) {
      fmt::print("{}\n", made->ToLine());
      return;
    }
    fmt::print(stderr, "spiritos key: {}\n", std::string(made.status().message()));
    *status = 1;
  });
}

}  // namespace spiritos::cli
