// SPDX-License-Identifier: Apache-2.0
// Options to an SSL_CTX, and the two callbacks that hand out keys.
#include "libos/remote/tls_context.h"

#include <fmt/core.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <string.h>

#include <algorithm>
#include <utility>

#include "libos/base/status.h"
#include "libos/remote/tls_stream.h"
#include "libos/remote/wire.h"

namespace spiritos {
namespace {

// Both with SHA-256, which is what keys are used with.
constexpr char kCiphers[] = "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256";
constexpr unsigned char kAes128Gcm[] = {0x13, 0x01};
constexpr char kGroups[] = "X25519:P-256";

const TlsContext& ContextOf(SSL* ssl) {
  return *static_cast<const TlsContext*>(SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl)));
}

// A key in the form that OpenSSL takes one; null without memory.
SSL_SESSION* SessionOf(SSL* ssl, const TlsKey& key) {
  SSL_SESSION* const session = SSL_SESSION_new();
  const auto* const secret = reinterpret_cast<const unsigned char*>(key.secret.data());
  const SSL_CIPHER* const cipher = SSL_CIPHER_find(ssl, kAes128Gcm);
  if (session != nullptr && SSL_SESSION_set1_master_key(session, secret, key.secret.size()) == 1 &&
      SSL_SESSION_set_cipher(session, cipher) == 1 &&
      SSL_SESSION_set_protocol_version(session, TLS1_3_VERSION) == 1) {
    return session;
  }
  SSL_SESSION_free(session);
  return nullptr;
}

int OfferKey(SSL* ssl, const EVP_MD*, const unsigned char** name, size_t* name_size,
             SSL_SESSION** session) {
  const TlsKey& key = ContextOf(ssl).own_key();
  *name = reinterpret_cast<const unsigned char*>(key.tenant.data());
  *name_size = key.tenant.size();
  *session = SessionOf(ssl, key);
  return *session != nullptr ? 1 : 0;
}

int FindKey(SSL* ssl, const unsigned char* name, size_t name_size, SSL_SESSION** session) {
  const std::string_view tenant(reinterpret_cast<const char*>(name), name_size);
  TlsStream::NotePeer(ssl, tenant);
  *session = SessionOf(ssl, ContextOf(ssl).KeyOf(tenant));
  return *session != nullptr ? 1 : 0;
}

absl::Status Refused(std::string_view file, std::string_view knob) {
  return InvalidArgument("{}: {} ({})", file, TlsErrorText(ERR_peek_last_error()), knob);
}

}  // namespace

struct TlsContext::Side {
  bool server;
  std::string_view psk, cert, key, ca;  // What the options are called.
};
const TlsContext::Side TlsContext::kClient{false, "SPIRITOS_TLS_PSK", "SPIRITOS_TLS_CERT",
                                           "SPIRITOS_TLS_KEY", "SPIRITOS_TLS_CA"};
const TlsContext::Side TlsContext::kServer{true, "--tls-psk", "--tls-cert", "--tls-key",
                                           "--tls-ca"};

absl::StatusOr<std::unique_ptr<TlsContext>> TlsContext::ForClient(const TlsOptions& options) {
  return Make(options, kClient);
}

absl::StatusOr<std::unique_ptr<TlsContext>> TlsContext::ForServer(const TlsOptions& options) {
  return Make(options, kServer);
}

absl::StatusOr<std::unique_ptr<TlsContext>> TlsContext::Make(const TlsOptions& options,
                                                             const Side& side) {
  const bool certified = !options.cert.empty() && !options.key.empty() && !options.ca.empty();
  const bool some = !options.cert.empty() || !options.key.empty() || !options.ca.empty();
  if (!options.psk.empty() && some) {
    return InvalidArgument("both keys and certificates: set {}, or {}, {} and {}", side.psk,
                           side.cert, side.key, side.ca);
  }
  if (options.psk.empty() && !certified) {
    return InvalidArgument("a certificate needs all three of {}, {} and {}", side.cert, side.key,
                           side.ca);
  }
  // A process may end while pools live: nothing is torn down under their threads.
  OPENSSL_init_ssl(OPENSSL_INIT_NO_ATEXIT, nullptr);
  std::unique_ptr<TlsContext> made(new TlsContext);
  SSL_CTX* const context = SSL_CTX_new(side.server ? TLS_server_method() : TLS_client_method());
  made->context_ = context;
  if (context == nullptr || SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) != 1 ||
      SSL_CTX_set_ciphersuites(context, kCiphers) != 1 ||
      SSL_CTX_set1_groups_list(context, kGroups) != 1 || SSL_CTX_set_num_tickets(context, 0) != 1) {
    return absl::InternalError(fmt::format("OpenSSL: {}", TlsErrorText(ERR_get_error())));
  }
  SSL_CTX_set_app_data(context, made.get());
  SSL_CTX_set_options(context, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION);
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_max_early_data(context, 0);
  SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  SSL_CTX_set_read_ahead(context, 1);
  const absl::Status status =
      options.psk.empty() ? made->UseCertificates(options, side) : made->UseKeys(options.psk, side);
  if (!status.ok()) return status;
  return made;
}

TlsContext::~TlsContext() {
  SSL_CTX_free(context_);
  for (TlsKey& key : keys_) explicit_bzero(key.secret.data(), key.secret.size());
}

absl::Status TlsContext::UseKeys(const std::string& path, const Side& side) {
  SPIRITOS_ASSIGN_OR_RETURN(keys_, ReadKeys(path, side.psk));
  SPIRITOS_ASSIGN_OR_RETURN(nobodys_, TlsKey::Make("nobody"));
  if (side.server) {
    SSL_CTX_set_psk_find_session_callback(context_, FindKey);
    return absl::OkStatus();
  }
  if (keys_.size() != 1) {
    return InvalidArgument("{} has {} keys, a client has one ({})", path, keys_.size(), side.psk);
  }
  tenant_ = keys_.front().tenant;
  SSL_CTX_set_psk_use_session_callback(context_, OfferKey);
  // A server that has no such key must not do with a certificate.
  SSL_CTX_set_verify(context_, SSL_VERIFY_PEER, nullptr);
  return absl::OkStatus();
}

absl::Status TlsContext::UseCertificates(const TlsOptions& options, const Side& side) {
  ERR_clear_error();
  if (SSL_CTX_use_certificate_chain_file(context_, options.cert.c_str()) != 1) {
    return Refused(options.cert, side.cert);
  }
  SPIRITOS_ASSIGN_OR_RETURN(std::string text, ReadSecretFile(options.key, side.key));
  const std::unique_ptr<BIO, int (*)(BIO*)> bio(
      BIO_new_mem_buf(text.data(), static_cast<int>(text.size())), BIO_free);
  const std::unique_ptr<EVP_PKEY, void (*)(EVP_PKEY*)> key(
      PEM_read_bio_PrivateKey(bio.get(), nullptr, nullptr, nullptr), EVP_PKEY_free);
  explicit_bzero(text.data(), text.size());
  if (key == nullptr || SSL_CTX_use_PrivateKey(context_, key.get()) != 1 ||
      SSL_CTX_check_private_key(context_) != 1) {
    return Refused(options.key, side.key);
  }
  if (SSL_CTX_load_verify_file(context_, options.ca.c_str()) != 1) {
    return Refused(options.ca, side.ca);
  }
  SSL_CTX_set_verify(context_, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  tenant_ = CommonNameOf(SSL_CTX_get0_certificate(context_));
  if (!side.server && !IsTenantName(tenant_)) {
    return InvalidArgument("{}: its common name \"{}\" is no tenant's name ({})", options.cert,
                           tenant_, side.cert);
  }
  return absl::OkStatus();
}

const TlsKey& TlsContext::KeyOf(std::string_view tenant) const {
  const auto at = std::find_if(keys_.begin(), keys_.end(),
                               [&](const TlsKey& key) { return key.tenant == tenant; });
  return at != keys_.end() ? *at : nobodys_;
}

}  // namespace spiritos
