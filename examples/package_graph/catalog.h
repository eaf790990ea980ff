// SPDX-License-Identifier: Apache-2.0
// Catalog: all records, numbered from 0, and a hash table from name to number.
//
// The table is open addressing with linear probing over 8-byte slots, so that a
// look-up reads one page of it, then the record that the slot's hash promises.
#pragma once

#include <cstdint>
#include <memory_resource>
#include <optional>
#include <string_view>
#include <vector>

#include "examples/package_graph/record.h"

namespace package_graph {

using PackageId = uint32_t;

class Catalog {
 public:
  explicit Catalog(std::pmr::memory_resource* memory) : records_(memory), slots_(memory) {}

  // Makes room for `packages` in all; Add() grows by doubling where that is not said.
  void Reserve(size_t packages);

  // The new record's number; nothing when the name is taken.
  std::optional<PackageId> Add(const Record::Parts& parts);
  std::optional<PackageId> Find(std::string_view name) const;

  size_t size() const { return records_.size(); }
  Record& operator[](PackageId id) { return records_[id]; }
  const Record& operator[](PackageId id) const { return records_[id]; }

 private:
  struct Slot {
    uint32_t hash = 0;
    uint32_t id_plus_1 = 0;  // 0: free.
  };

  static uint32_t HashName(std::string_view name) {
    return static_cast<uint32_t>(HashBytes(name) >> 32);
  }
  // The slot that has `name`, or the free one where it belongs. REQUIRES: slots_ is not empty.
  size_t Probe(std::string_view name, uint32_t hash) const;
  void Resize(size_t slots);

  std::pmr::vector<Record> records_;
  std::pmr::vector<Slot> slots_;  // A power of two of them, at most half in use.
};

}  // namespace package_graph
