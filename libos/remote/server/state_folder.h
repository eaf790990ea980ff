// SPDX-License-Identifier: Apache-2.0
// StateFolder: the files that outlive a server, in a folder that is memory (tmpfs).
//
//   DIR/lock        held by the server that runs
//   DIR/directory   a SlabDirectory
//   DIR/slab-N      slab files, of those alone that are ready or rented
//
// Files of a folder cannot be sealed, so that they are never passed to tenants.
// Threads: MakeSlab() and RemoveSlab() from any.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libos/base/fd.h"
#include "libos/remote/server/slab_directory.h"

namespace spiritos {

class StateFolder {
 public:
  // Takes the folder, made if there is none; one server at a time has it. What a
  // server left there before the last boot, and slabs that nobody rents, are removed.
  // Errors name the folder and the option.
  static absl::StatusOr<std::unique_ptr<StateFolder>> Open(const std::string& path, uint32_t slabs);

  SlabDirectory& directory() { return *directory_; }

  // An empty file for slab `number`, which has none.
  absl::StatusOr<UniqueFd> MakeSlab(uint32_t number);
  absl::StatusOr<UniqueFd> OpenSlab(uint32_t number);
  void RemoveSlab(uint32_t number);

 private:
  StateFolder(std::string path, UniqueFd folder, UniqueFd lock)
      : path_(std::move(path)), folder_(std::move(folder)), lock_(std::move(lock)) {}
  absl::Status OpenDirectory(uint32_t slabs);
  absl::Status RemoveUnrented();
  absl::StatusOr<UniqueFd> OpenFile(const std::string& name, int flags) const;

  const std::string path_;
  const UniqueFd folder_;
  const UniqueFd lock_;
  std::unique_ptr<SlabDirectory> directory_;
};

}  // namespace spiritos
