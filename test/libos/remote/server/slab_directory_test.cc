// SPDX-License-Identifier: Apache-2.0
// What a directory of slabs holds after its server was killed at a bad moment.
#include "libos/remote/server/slab_directory.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "test/support/temp_dir.h"

namespace spiritos {
namespace {

class DirectoryFile {
 public:
  absl::StatusOr<SlabDirectory> Open(uint32_t slabs) {
    return SlabDirectory::Open(UniqueFd(open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)),
                               slabs);
  }
  std::vector<std::byte> Bytes() {
    const UniqueFd file(open(path_.c_str(), O_RDONLY | O_CLOEXEC));
    std::vector<std::byte> bytes(size_t{1} << 16);
    const ssize_t got = read(file.get(), bytes.data(), bytes.size());
    REQUIRE(got > 0);
    bytes.resize(static_cast<size_t>(got));
    return bytes;
  }
  void FlipAt(size_t offset) {
    const UniqueFd file(open(path_.c_str(), O_RDWR | O_CLOEXEC));
    std::byte byte;
    REQUIRE(pread(file.get(), &byte, 1, static_cast<off_t>(offset)) == 1);
    byte ^= std::byte{0x10};
    REQUIRE(pwrite(file.get(), &byte, 1, static_cast<off_t>(offset)) == 1);
  }

 private:
  TempDir folder_;
  const std::string path_ = folder_.file("directory");
};

SlabRecord RecordOf(uint64_t slab, uint32_t references) {
  SlabRecord record;
  record.slab = slab;
  record.references = references;
  record.client.fill(std::byte{static_cast<uint8_t>(slab)});
  record.tenant = {'t'};
  return record;
}

TEST_CASE("a directory says after a restart what was written last", "[remote][server]") {
  DirectoryFile file;
  WireId name{};
  {
    auto directory = file.Open(3);
    REQUIRE(directory.ok());
    name = directory->server();
    CHECK(directory->size() == 3);
    CHECK_FALSE(directory->Read(1));
    for (uint64_t slab = 1; slab <= 5; ++slab) directory->Write(1, RecordOf(slab, 2));
    directory->Write(2, RecordOf(9, 1));
  }
  const uint32_t slabs = GENERATE(1u, 3u, 40u);
  auto directory = file.Open(slabs);
  REQUIRE(directory.ok());
  CHECK(directory->server() == name);
  CHECK(directory->size() == std::max(slabs, 3u));
  CHECK_FALSE(directory->Read(0));
  REQUIRE(directory->Read(1));
  CHECK(directory->Read(1)->slab == 5);
  CHECK(directory->Read(1)->client == RecordOf(5, 2).client);
  CHECK(directory->Read(2)->slab == 9);
}

TEST_CASE("a record that was torn while it was written is the one before it", "[remote][server]") {
  DirectoryFile file;
  auto directory = file.Open(2);
  REQUIRE(directory.ok());
  directory->Write(1, RecordOf(4, 1));
  const std::vector<std::byte> before = file.Bytes();
  directory->Write(1, RecordOf(5, 1));
  const std::vector<std::byte> after = file.Bytes();
  REQUIRE(before.size() == after.size());
  size_t changed = 0;
  for (size_t at = 0; at < after.size(); ++at) {
    if (before[at] == after[at]) continue;
    ++changed;
    file.FlipAt(at);
    REQUIRE(directory->Read(1));
    CHECK(directory->Read(1)->slab == 4);
    file.FlipAt(at);
  }
  CHECK(changed > 20);
  CHECK(directory->Read(1)->slab == 5);
}

TEST_CASE("of many writes the last is read after each", "[remote][server]") {
  DirectoryFile file;
  auto directory = file.Open(1);
  REQUIRE(directory.ok());
  for (uint64_t slab = 1; slab <= 1000; ++slab) {
    directory->Write(0, RecordOf(slab, 1));
    REQUIRE(directory->Read(0)->slab == slab);
  }
}

TEST_CASE("what is no directory is refused, and not overwritten", "[remote][server]") {
  DirectoryFile file;
  REQUIRE(file.Open(1).ok());
  const size_t magic = 0;
  const size_t version = 8;
  const size_t boot = 32;
  file.FlipAt(magic);
  CHECK(file.Open(1).status().code() == absl::StatusCode::kInvalidArgument);
  file.FlipAt(magic);
  file.FlipAt(version);
  CHECK(file.Open(1).status().code() == absl::StatusCode::kInvalidArgument);
  file.FlipAt(version);
  file.FlipAt(boot);
  CHECK(file.Open(1).status().code() == absl::StatusCode::kFailedPrecondition);
  file.FlipAt(boot);
  CHECK(file.Open(1).ok());
}

}  // namespace
}  // namespace spiritos
