// SPDX-License-Identifier: Apache-2.0
// Record: one package. Its text is a single block:
//
//   | name | version | description | fields: "Key: value\n" ... |
//
// One block and not one per string, because a heap keeps sizes apart: four
// strings would lie on four pages, and a look-up would take four faults.
//
// Threads: readers of different records and of the same one; a writer alone.
#pragma once

#include <cstdint>
#include <memory_resource>
#include <string>
#include <string_view>
#include <utility>

#include "examples/package_graph/hash.h"

namespace package_graph {

class Record {
 public:
  // Makes std::pmr::vector<Record> hand its memory resource down to text_.
  using allocator_type = std::pmr::polymorphic_allocator<char>;

  struct Parts {
    std::string_view name;
    std::string_view version;
    std::string_view description;
    std::string_view fields;
  };

  Record(const Parts& parts, const allocator_type& allocator) : text_(allocator) {
    text_.reserve(parts.name.size() + parts.version.size() + parts.description.size() +
                  parts.fields.size());
    text_.append(parts.name);
    version_at_ = static_cast<uint32_t>(text_.size());
    text_.append(parts.version);
    description_at_ = static_cast<uint32_t>(text_.size());
    text_.append(parts.description);
    fields_at_ = static_cast<uint32_t>(text_.size());
    text_.append(parts.fields);
    checksum_ = HashBytes(text_);
  }
  Record(Record&& other, const allocator_type& allocator)
      : text_(std::move(other.text_), allocator),
        version_at_(other.version_at_),
        description_at_(other.description_at_),
        fields_at_(other.fields_at_),
        checksum_(other.checksum_) {}
  Record(Record&&) noexcept = default;
  Record(const Record&) = delete;
  Record& operator=(const Record&) = delete;

  // Views, valid until SetVersion().
  std::string_view name() const { return Slice(0, version_at_); }
  std::string_view version() const { return Slice(version_at_, description_at_); }
  std::string_view description() const { return Slice(description_at_, fields_at_); }
  std::string_view fields() const { return Slice(fields_at_, text_.size()); }

  void SetVersion(std::string_view version) {
    auto growth = static_cast<uint32_t>(version.size() - this->version().size());
    text_.replace(version_at_, description_at_ - version_at_, version);
    description_at_ += growth;  // Modulo 2^32, so that it may shrink.
    fields_at_ += growth;
    checksum_ = HashBytes(text_);
  }

  // The hash of the text when it was last written, and of what it is now.
  uint64_t checksum() const { return checksum_; }
  uint64_t ComputeChecksum() const { return HashBytes(text_); }

 private:
  std::string_view Slice(size_t begin, size_t end) const {
    return std::string_view(text_).substr(begin, end - begin);
  }

  std::pmr::string text_;
  uint32_t version_at_ = 0;
  uint32_t description_at_ = 0;
  uint32_t fields_at_ = 0;
  uint64_t checksum_ = 0;
};

}  // namespace package_graph
