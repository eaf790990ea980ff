// SPDX-License-Identifier: Apache-2.0
// PackagesList: the stanzas of Debian package indices, one after another.
//
// A `Packages` file is stanzas parted by empty lines; a stanza is fields,
// `Key: value`, and a line that starts with a blank goes on with the last one.
#pragma once

#include <array>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace package_graph {

// One package's fields. Views into a buffer that the next stanza reuses.
class Stanza {
 public:
  using Field = std::pair<std::string_view, std::string_view>;

  // Takes the text of one stanza, without the empty line that ends it.
  void Parse(std::string_view text);
  const std::vector<Field>& fields() const { return fields_; }
  std::string_view Get(std::string_view key) const;  // Empty when it has none.

 private:
  std::vector<Field> fields_;
};

// The files to read: `*_Packages` and `*Packages.*` in `directory`, in the order
// of their names. An empty `directory` means apt's own, and where apt has none,
// the sample that comes with this example. kNotFound when there is nothing.
absl::StatusOr<std::vector<std::filesystem::path>> FindLists(const std::string& directory);

// Calls `visit` for each stanza of `file`.
absl::Status ReadList(const std::filesystem::path& file,
                      const std::function<void(const Stanza&)>& visit);

}  // namespace package_graph
