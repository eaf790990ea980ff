// SPDX-License-Identifier: Apache-2.0
// Tenancy: who rents which slabs of a memory server, and for how long still.
//
// A client is one space of a tenant's process; it owns the slabs it places and can
// name no others. Every frame it sends renews its lease; a client that no connection
// has heard of for a lease loses its slabs, all at once; one that is a process of this
// machine, and has ended, at once. Slabs are counted, for each client that has them: a
// child of fork(2) is a client that begins with all of its parent's, and the last Release
// of anybody's frees. A client without slabs is forgotten with its last connection: nobody
// fills these books by coming and going.
//
// A slab that a reply still reads is held: it is gone for its client at once, its
// memory once the reply is sent. With a state folder each slab has its record, up to date
// before the answer that depends on it; from those a restarted server knows its clients
// again. Threads: one.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "libos/base/fd.h"
#include "libos/remote/server/pacer.h"
#include "libos/remote/server/remote_access.h"
#include "libos/remote/server/slab_store.h"
#include "libos/remote/wire.h"

namespace spiritos {

struct RentedSlab {
  uint64_t id = 0;  // Never used twice, not even by a server's next life.
  uint32_t epoch = 1;
  uint32_t references = 1;  // Of all clients that have it.
  uint32_t holds = 0;       // Frames that read or write its memory now.
  bool released = false;    // Kept for the holds alone.
  SlabMemory memory;
  std::unique_ptr<RemoteAccess> access;  // To the memory; null for most.
};

// What the clients of one tenant share.
struct Account {
  uint64_t clients = 0;
  uint64_t slabs = 0;
  Pacer pacer;
};

struct Client {
  WireId id{};
  WireId token{};
  std::string tenant;
  Account* account = nullptr;
  uint64_t heard_ns = 0;
  uint32_t connections = 0;
  // The last question that changed something, and its answer: when it is asked again,
  // because the connection broke before the answer came, it is not done again.
  uint64_t answered = 0;
  FrameHeader answer;
  std::unordered_map<uint64_t, uint32_t> slabs;  // With its references to each.
  UniqueFd process;                              // A pidfd, where it is a process of this machine.
  uint64_t wanted = 0;  // Of its slabs, so many are to be given back: which, is its choice.
  // It has a slab mapped, or its device has: it cannot move such, and is not asked for any.
  bool keeps = false;
  std::unique_ptr<RemoteAccess> access;  // Its slabs' end before it.
};

// What a tenant has, for operators.
struct TenantFigures {
  std::string name;
  uint64_t clients = 0;  // With slabs: each holds a lease.
  uint64_t slabs = 0;
  uint64_t lease_left_ms = 0;  // Of the client that is silent for the longest.
  uint64_t bytes = 0;          // To and from it, since it is known.
  uint64_t pauses = 0;         // For its bandwidth.
};

class Tenancy {
 public:
  struct Options {
    uint64_t lease_ns = 0;
    uint64_t slab_quota = 0;        // Of a tenant; 0 = none.
    uint64_t tenant_bandwidth = 0;  // Bytes a second; 0 = any number.
  };

  // A tenant's name, with what the connection proves about it.
  static constexpr size_t kMaxTenant = sizeof(SlabRecord::tenant) - 1;
  // Clients of one tenant.
  static constexpr size_t kMaxClients = 1024;

  Tenancy(SlabStore& store, const Options& options);

  // Finds the slabs and clients of the server before this one; how many slabs.
  uint64_t Restore(uint64_t now_ns);

  // The client, made known if it is new. Null when another tenant uses that id (ids
  // are random, so that is no accident), when the tenant's name is too long, or when it
  // has too many clients.
  Client* Enter(const WireId& id, std::string_view tenant, uint64_t now_ns);
  // One connection of the client less; it may be gone for that.
  void Leave(Client& client);
  // The client that was given the token, or null.
  Client* FindByToken(const WireId& id, const WireId& token);

  WireStatus Place(Client& client, RentedSlab** placed);
  // Takes over a slab that the client kept when its server went.
  WireStatus Adopt(Client& client, UniqueFd file, RentedSlab** adopted);
  // Gives the client's queue pairs access to its slab.
  WireStatus Expose(Client& client, RentedSlab& slab, uint32_t* key);
  void set_exposer(SlabExposer* exposer) { exposer_ = exposer; }
  // The client's slab, if it is one and `epoch` is not fenced off.
  WireStatus Find(Client& client, uint64_t slab, uint32_t epoch, RentedSlab** found);
  WireStatus Share(Client& client, uint64_t slab);
  // Makes a client `id` that has all slabs of `parent`. kNotPermitted: their memory is in
  // files of a state folder, or known to a device, which both speak of one client alone.
  WireStatus Fork(Client& parent, const WireId& id, uint64_t now_ns);
  // References of others to the client's slab.
  WireStatus Holders(Client& client, uint64_t slab, uint64_t* others);
  WireStatus Release(Client& client, uint64_t slab);
  WireStatus Fence(Client& client, uint64_t slab, uint32_t epoch);

  // From now on; slabs beyond the quota stay.
  void SetLimits(uint64_t slab_quota, uint64_t tenant_bandwidth);

  // Asks clients for `excess` slabs in all, each for its share, in place of what was asked
  // for before; how many of them no client can move.
  uint64_t AskBack(uint64_t excess);

  // The client's question about the slab is answered, with a change: what a server
  // after this one has to know is noted. REQUIRES: before the answer is sent.
  void Record(const Client& client, uint64_t slab);

  static void Hold(RentedSlab& slab) { ++slab.holds; }
  void LetGo(RentedSlab& slab);

  // Takes the slabs of clients whose lease is over, or whose process; how many clients.
  uint32_t Expire(uint64_t now_ns);

  // Of the tenants that have slabs, in no order.
  std::vector<TenantFigures> Figures(uint64_t now_ns) const;
  // Slabs that nobody rents; some may still have to be cleared.
  uint64_t soon() const { return store_.free(); }
  const Options& options() const { return options_; }
  size_t client_count() const { return clients_.size(); }
  // Tenants that have slabs.
  size_t tenant_count() const;

 private:
  void RestoreOne(const SlabRecord& record, SlabMemory memory, uint64_t now_ns);
  Client& Introduce(const WireId& id, std::string_view tenant, uint64_t now_ns);
  void Dismiss(Client& client);
  RentedSlab* Rent(Client& client, SlabMemory memory);
  bool OverQuota(const Client& client) const;
  void Drop(RentedSlab& slab);
  // So many references of a client that has the slab no more.
  void Unrefer(Client& client, uint64_t slab, uint32_t references);

  SlabStore& store_;
  Options options_;
  SlabExposer* exposer_ = nullptr;  // Null where slabs are reached through sessions alone.
  uint64_t next_slab_;
  struct IdHash {
    size_t operator()(const WireId& id) const noexcept;
  };
  std::unordered_map<WireId, std::unique_ptr<Client>, IdHash> clients_;
  std::unordered_map<uint64_t, std::unique_ptr<RentedSlab>> slabs_;
  std::unordered_map<std::string, Account> accounts_;  // Each with a client.
};

}  // namespace spiritos
