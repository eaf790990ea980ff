// SPDX-License-Identifier: Apache-2.0
// Leases, ownership and counts of slabs.
#include "libos/remote/server/tenancy.h"

#include <fmt/core.h>
#include <poll.h>
#include <sys/random.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <span>
#include <utility>

#include "libos/base/check.h"
#include "libos/base/log.h"

namespace spiritos {

size_t Tenancy::IdHash::operator()(const WireId& id) const noexcept {
  size_t hash;  // Ids are random.
  std::memcpy(&hash, id.data(), sizeof(hash));
  return hash;
}

namespace {

bool HasEnded(const UniqueFd& process) {
  pollfd ended{.fd = process.get(), .events = POLLIN, .revents = 0};
  return process.valid() && poll(&ended, 1, 0) == 1;
}

void Randomize(std::span<std::byte> bytes) {
  SPIRITOS_CHECK(getrandom(bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()),
                 "the kernel gives no random bytes");
}

}  // namespace

Tenancy::Tenancy(SlabStore& store, const Options& options) : store_(store), options_(options) {
  // A message to a slab of a server that is gone must not meet another one by its number.
  Randomize(std::as_writable_bytes(std::span(&next_slab_, 1)));
}

uint64_t Tenancy::Restore(uint64_t now_ns) {
  SlabDirectory& directory = store_.state()->directory();
  for (uint32_t number = 0; number < directory.size(); ++number) {
    std::optional<SlabRecord> record = directory.Read(number);
    if (!record) continue;
    next_slab_ = std::max(next_slab_, record->slab + 1);
    if (record->references == 0) continue;
    absl::StatusOr<SlabMemory> memory = store_.Restore(number);
    if (memory.ok()) {
      RestoreOne(*record, *std::move(memory), now_ns);
      continue;
    }
    LogWarning(fmt::format("slab {} of tenant {} is lost: {}", record->slab, record->tenant.data(),
                           std::string(memory.status().message())));
    record->references = 0;
    directory.Write(number, *record);
  }
  return slabs_.size();
}

void Tenancy::RestoreOne(const SlabRecord& record, SlabMemory memory, uint64_t now_ns) {
  const auto at = clients_.find(record.client);
  Client& client =
      at != clients_.end() ? *at->second : Introduce(record.client, record.tenant.data(), now_ns);
  client.token = record.token;
  if (FrameHeader answer; record.answered > client.answered &&
                          DecodeFrame(record.answer, &answer) == FrameError::kNone) {
    client.answered = record.answered;
    client.answer = answer;
  }
  auto slab = std::make_unique<RentedSlab>();
  slab->id = record.slab;
  slab->epoch = record.epoch;
  slab->references = record.references;
  slab->memory = std::move(memory);
  ++client.account->slabs;
  client.slabs.emplace(slab->id, slab->references);
  slabs_.emplace(slab->id, std::move(slab));
}

void Tenancy::Record(const Client& client, uint64_t slab) {
  const auto at = slabs_.find(slab);
  // One that has been given back says so since then: see Drop().
  if (store_.state() == nullptr || at == slabs_.end() || at->second->released) return;
  SlabRecord record{.slab = slab,
                    .answered = client.answered,
                    .epoch = at->second->epoch,
                    .references = at->second->references,
                    .client = client.id,
                    .token = client.token,
                    .answer = {},
                    .tenant = {}};
  EncodeFrame(client.answer, &record.answer);
  std::copy(client.tenant.begin(), client.tenant.end(), record.tenant.begin());
  store_.state()->directory().Write(at->second->memory.number(), record);
}

Client* Tenancy::Enter(const WireId& id, std::string_view tenant, uint64_t now_ns) {
  if (tenant.size() > kMaxTenant) return nullptr;
  if (const auto at = clients_.find(id); at != clients_.end()) {
    if (at->second->tenant != tenant) return nullptr;
    at->second->heard_ns = now_ns;
    return at->second.get();
  }
  const auto account = accounts_.find(std::string(tenant));
  if (account != accounts_.end() && account->second.clients >= kMaxClients) return nullptr;
  Client& client = Introduce(id, tenant, now_ns);
  Randomize(client.token);
  return &client;
}

Client& Tenancy::Introduce(const WireId& id, std::string_view tenant, uint64_t now_ns) {
  auto client = std::make_unique<Client>();
  client->id = id;
  client->tenant = tenant;
  client->heard_ns = now_ns;
  client->account = &accounts_[client->tenant];
  if (client->account->clients++ == 0) client->account->pacer.SetRate(options_.tenant_bandwidth);
  return *(clients_[id] = std::move(client));
}

void Tenancy::Dismiss(Client& client) {
  if (--client.account->clients == 0) accounts_.erase(client.tenant);
  clients_.erase(WireId(client.id));
}

void Tenancy::SetLimits(uint64_t slab_quota, uint64_t tenant_bandwidth) {
  options_.slab_quota = slab_quota;
  options_.tenant_bandwidth = tenant_bandwidth;
  for (auto& [name, account] : accounts_) account.pacer.SetRate(tenant_bandwidth);
}

size_t Tenancy::tenant_count() const {
  return static_cast<size_t>(std::count_if(accounts_.begin(), accounts_.end(),
                                           [](const auto& of) { return of.second.slabs != 0; }));
}

void Tenancy::Leave(Client& client) {
  SPIRITOS_DCHECK(client.connections != 0, "client of {} has no connection", client.tenant);
  if (--client.connections == 0 && client.slabs.empty()) Dismiss(client);
}

Client* Tenancy::FindByToken(const WireId& id, const WireId& token) {
  const auto at = clients_.find(id);
  if (at == clients_.end()) return nullptr;
  // In time that does not depend on where they differ.
  std::byte difference{0};
  for (size_t i = 0; i < token.size(); ++i) difference |= at->second->token[i] ^ token[i];
  return difference == std::byte{0} ? at->second.get() : nullptr;
}

bool Tenancy::OverQuota(const Client& client) const {
  return options_.slab_quota != 0 && client.account->slabs >= options_.slab_quota;
}

RentedSlab* Tenancy::Rent(Client& client, SlabMemory memory) {
  auto slab = std::make_unique<RentedSlab>();
  slab->id = next_slab_++;
  slab->memory = std::move(memory);
  ++client.account->slabs;
  client.slabs.emplace(slab->id, 1);
  return slabs_.emplace(slab->id, std::move(slab)).first->second.get();
}

WireStatus Tenancy::Place(Client& client, RentedSlab** placed) {
  if (OverQuota(client)) return WireStatus::kOverQuota;
  SlabMemory memory = store_.Take();
  if (!memory.valid()) return WireStatus::kNoSpace;
  *placed = Rent(client, std::move(memory));
  return WireStatus::kOk;
}

WireStatus Tenancy::Adopt(Client& client, UniqueFd file, RentedSlab** adopted) {
  if (OverQuota(client)) return WireStatus::kOverQuota;
  absl::StatusOr<SlabMemory> memory = SlabMemory::Adopt(std::move(file));
  if (!memory.ok()) return WireStatus::kNotPermitted;
  store_.CountRented();
  *adopted = Rent(client, *std::move(memory));
  client.keeps = true;
  return WireStatus::kOk;
}

WireStatus Tenancy::Expose(Client& client, RentedSlab& slab, uint32_t* key) {
  if (exposer_ == nullptr) return WireStatus::kNotPermitted;
  const WireStatus status = exposer_->Expose(client, slab, key);
  client.keeps = client.keeps || status == WireStatus::kOk;
  return status;
}

WireStatus Tenancy::Find(Client& client, uint64_t slab, uint32_t epoch, RentedSlab** found) {
  // One answer for the slabs of others and for none: ids say nothing.
  if (!client.slabs.contains(slab)) return WireStatus::kNoSlab;
  RentedSlab& rented = *slabs_.at(slab);
  if (epoch < rented.epoch) return WireStatus::kStaleEpoch;
  *found = &rented;
  return WireStatus::kOk;
}

WireStatus Tenancy::Share(Client& client, uint64_t slab) {
  const auto own = client.slabs.find(slab);
  if (own == client.slabs.end()) return WireStatus::kNoSlab;
  ++own->second;
  ++slabs_.at(slab)->references;
  return WireStatus::kOk;
}

WireStatus Tenancy::Fork(Client& parent, const WireId& id, uint64_t now_ns) {
  if (store_.state() != nullptr || parent.access != nullptr) return WireStatus::kNotPermitted;
  if (clients_.contains(id) || parent.account->clients >= kMaxClients) {
    return WireStatus::kNotPermitted;
  }
  Client& child = Introduce(id, parent.tenant, now_ns);
  Randomize(child.token);
  child.keeps = parent.keeps;
  for (const auto& [slab, references] : parent.slabs) {
    child.slabs.emplace(slab, 1);
    ++slabs_.at(slab)->references;
  }
  return WireStatus::kOk;
}

WireStatus Tenancy::Holders(Client& client, uint64_t slab, uint64_t* others) {
  const auto own = client.slabs.find(slab);
  if (own == client.slabs.end()) return WireStatus::kNoSlab;
  *others = slabs_.at(slab)->references - own->second;
  return WireStatus::kOk;
}

WireStatus Tenancy::Release(Client& client, uint64_t slab) {
  const auto own = client.slabs.find(slab);
  if (own == client.slabs.end()) return WireStatus::kNoSlab;
  if (--own->second == 0) {
    client.slabs.erase(own);
    if (client.wanted != 0) --client.wanted;
  }
  Unrefer(client, slab, 1);
  return WireStatus::kOk;
}

void Tenancy::Unrefer(Client& client, uint64_t slab, uint32_t references) {
  RentedSlab& rented = *slabs_.at(slab);
  rented.references -= references;
  if (rented.references != 0) return;
  --client.account->slabs;  // Clients of other tenants never have it.
  Drop(rented);
}

WireStatus Tenancy::Fence(Client& client, uint64_t slab, uint32_t epoch) {
  RentedSlab* rented = nullptr;
  const WireStatus status = Find(client, slab, epoch, &rented);
  if (status == WireStatus::kOk) rented->epoch = epoch;
  return status;
}

void Tenancy::LetGo(RentedSlab& slab) {
  SPIRITOS_DCHECK(slab.holds != 0, "slab {} is not held", slab.id);
  if (--slab.holds == 0 && slab.released) Drop(slab);
}

void Tenancy::Drop(RentedSlab& slab) {
  if (!slab.released && store_.state() != nullptr) {
    SlabRecord returned{};
    returned.slab = slab.id;
    store_.state()->directory().Write(slab.memory.number(), returned);
  }
  slab.released = true;
  slab.access.reset();  // Its client may still have transfers under way.
  if (slab.holds != 0) return;
  SlabMemory memory = std::move(slab.memory);
  slabs_.erase(slab.id);
  store_.Return(std::move(memory));
}

uint64_t Tenancy::AskBack(uint64_t excess) {
  uint64_t movable = 0;
  for (const auto& [id, client] : clients_) movable += client->keeps ? 0 : client->slabs.size();
  const uint64_t sum = std::min(excess, movable);
  // Shares are rounded so that they make up the sum.
  uint64_t seen = 0;
  uint64_t asked = 0;
  for (const auto& [id, client] : clients_) {
    seen += client->keeps ? 0 : client->slabs.size();
    const uint64_t due = movable == 0 ? 0 : sum * seen / movable;
    client->wanted = due - asked;
    asked = due;
  }
  return excess - sum;
}

uint32_t Tenancy::Expire(uint64_t now_ns) {
  uint32_t expired = 0;
  for (auto at = clients_.begin(); at != clients_.end();) {
    Client& client = *(at++)->second;
    if (client.connections != 0) continue;
    if (now_ns - client.heard_ns < options_.lease_ns && !HasEnded(client.process)) continue;
    for (const auto& [slab, references] : client.slabs) Unrefer(client, slab, references);
    ++expired;
    Dismiss(client);
  }
  return expired;
}

std::vector<TenantFigures> Tenancy::Figures(uint64_t now_ns) const {
  std::unordered_map<std::string_view, TenantFigures> by_name;
  for (const auto& [id, client] : clients_) {
    if (client->slabs.empty()) continue;
    const uint64_t silent_ns = now_ns - std::min(now_ns, client->heard_ns);
    const uint64_t left_ms =
        (options_.lease_ns - std::min(options_.lease_ns, silent_ns)) / 1'000'000;
    TenantFigures& figures = by_name[client->tenant];
    figures.lease_left_ms =
        figures.clients == 0 ? left_ms : std::min(figures.lease_left_ms, left_ms);
    figures.name = client->tenant;
    figures.bytes = client->account->pacer.bytes();
    figures.pauses = client->account->pacer.pauses();
    figures.clients += 1;
    figures.slabs = client->account->slabs;
  }
  std::vector<TenantFigures> all;
  for (auto& [name, figures] : by_name) all.push_back(std::move(figures));
  return all;
}

}  // namespace spiritos
