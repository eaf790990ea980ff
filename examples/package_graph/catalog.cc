// SPDX-License-Identifier: Apache-2.0
// The hash table of the catalog; the records are a vector.
#include "examples/package_graph/catalog.h"

#include <algorithm>
#include <bit>

namespace package_graph {

namespace {
constexpr size_t kMinSlots = 1024;
}  // namespace

void Catalog::Reserve(size_t packages) {
  records_.reserve(packages);
  if (slots_.size() < 2 * packages) Resize(std::bit_ceil(2 * packages));
}

void Catalog::Resize(size_t slots) {
  std::pmr::vector<Slot> larger(std::max(slots, kMinSlots), Slot{}, slots_.get_allocator());
  for (const Slot& slot : slots_) {
    if (slot.id_plus_1 == 0) continue;
    size_t at = slot.hash & (larger.size() - 1);
    while (larger[at].id_plus_1 != 0) at = (at + 1) & (larger.size() - 1);
    larger[at] = slot;
  }
  slots_.swap(larger);
}

size_t Catalog::Probe(std::string_view name, uint32_t hash) const {
  size_t at = hash & (slots_.size() - 1);
  while (slots_[at].id_plus_1 != 0) {
    if (slots_[at].hash == hash && records_[slots_[at].id_plus_1 - 1].name() == name) break;
    at = (at + 1) & (slots_.size() - 1);
  }
  return at;
}

std::optional<PackageId> Catalog::Add(const Record::Parts& parts) {
  if (slots_.size() < 2 * (records_.size() + 1)) Resize(2 * slots_.size());
  uint32_t hash = HashName(parts.name);
  size_t at = Probe(parts.name, hash);
  if (slots_[at].id_plus_1 != 0) return std::nullopt;
  auto id = static_cast<PackageId>(records_.size());
  records_.emplace_back(parts);
  slots_[at] = {hash, id + 1};
  return id;
}

std::optional<PackageId> Catalog::Find(std::string_view name) const {
  if (slots_.empty()) return std::nullopt;
  const Slot& slot = slots_[Probe(name, HashName(name))];
  if (slot.id_plus_1 == 0) return std::nullopt;
  return slot.id_plus_1 - 1;
}

}  // namespace package_graph
