// SPDX-License-Identifier: Apache-2.0
// TlsContext: who we are and whom we believe, the same for all TLS connections of a
// memory server or of a client's pool.
//
//   keys           a client has one, a server one of each tenant: who has the key of a
//                  tenant is that tenant, or a server of it
//   certificates   ours, its key, and the authority that both sides' are signed by; a
//                  client's common name is its tenant, a server's must be the host's
//
// TLS 1.3 alone, with a fresh (EC)DH secret on every connection; no tickets, no early data.
// A name that the server has no key for gets one that nobody has: it fails as a wrong key
// does, so nobody learns who the tenants are by trying.
//
// Context: any. A context is not changed once made; it outlives its streams.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "libos/base/options.h"
#include "libos/remote/tls_keys.h"

struct ssl_ctx_st;

namespace spiritos {

class TlsContext {
 public:
  // Errors name the variable.
  static absl::StatusOr<std::unique_ptr<TlsContext>> ForClient(const TlsOptions& options);
  // Errors name the flag of `spiritos memd`.
  static absl::StatusOr<std::unique_ptr<TlsContext>> ForServer(const TlsOptions& options);
  ~TlsContext();

  ssl_ctx_st* get() const { return context_; }
  // Who a client is.
  const std::string& tenant() const { return tenant_; }
  // A server's key for a tenant, or nobody's.
  const TlsKey& KeyOf(std::string_view tenant) const;
  const TlsKey& own_key() const { return keys_.front(); }
  bool has_keys() const { return !keys_.empty(); }

 private:
  struct Side;  // What the two differ in.
  static const Side kClient;
  static const Side kServer;

  TlsContext() = default;
  static absl::StatusOr<std::unique_ptr<TlsContext>> Make(const TlsOptions& options,
                                                          const Side& side);
  absl::Status UseKeys(const std::string& path, const Side& side);
  absl::Status UseCertificates(const TlsOptions& options, const Side& side);

  ssl_ctx_st* context_ = nullptr;
  std::vector<TlsKey> keys_;
  TlsKey nobodys_;
  std::string tenant_;
};

}  // namespace spiritos
