// SPDX-License-Identifier: Apache-2.0
// Authority: certificates for tests, made on the spot.
#pragma once

#include <fmt/core.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>

#include <atomic>
#include <cstdio>
#include <memory>
#include <string>

#include "libos/base/check.h"
#include "libos/base/options.h"
#include "test/support/temp_dir.h"

namespace spiritos {

// What a certificate says. A server's names hosts, as OpenSSL writes them in a
// configuration: "IP:127.0.0.1".
struct CertificateOf {
  std::string common_name;
  std::string hosts;
  bool expired = false;
};

// Files are named after what they are of, in a directory of the authority's own.
class Authority {
 public:
  Authority() : key_(NewKey()), certificate_(X509_new(), X509_free) {
    static std::atomic<int> authorities{0};
    Fill(certificate_.get(), {.common_name = fmt::format("authority {}", ++authorities)},
         key_.get());
    AddExtension(certificate_.get(), NID_basic_constraints, "critical,CA:TRUE");
    Sign(certificate_.get());
    Write(certificate_.get(), dir_.file("ca.pem"));
  }

  // Makes a certificate, and says where it, its key and the authority's are.
  TlsOptions Issue(const CertificateOf& what) {
    const Key key = NewKey();
    const Certificate certificate(X509_new(), X509_free);
    Fill(certificate.get(), what, key.get());
    if (!what.hosts.empty()) {
      AddExtension(certificate.get(), NID_subject_alt_name, what.hosts.c_str());
    }
    Sign(certificate.get());
    const std::string name = std::to_string(++serial_);
    TlsOptions options{.cert = dir_.file((name + ".pem").c_str()),
                       .key = dir_.file((name + ".key").c_str()),
                       .ca = dir_.file("ca.pem")};
    Write(certificate.get(), options.cert);
    FILE* const file = Open(options.key, 0600);
    SPIRITOS_CHECK(
        PEM_write_PrivateKey(file, key.get(), nullptr, nullptr, 0, nullptr, nullptr) == 1,
        "no test key");
    std::fclose(file);
    return options;
  }

 private:
  using Key = std::unique_ptr<EVP_PKEY, void (*)(EVP_PKEY*)>;
  using Certificate = std::unique_ptr<X509, void (*)(X509*)>;

  static Key NewKey() { return Key(EVP_EC_gen("P-256"), EVP_PKEY_free); }
  static FILE* Open(const std::string& path, mode_t mode) {
    FILE* const file = std::fopen(path.c_str(), "w");
    SPIRITOS_CHECK(file != nullptr && fchmod(fileno(file), mode) == 0, "cannot write {}", path);
    return file;
  }
  static void Write(X509* certificate, const std::string& path) {
    FILE* const file = Open(path, 0644);
    SPIRITOS_CHECK(PEM_write_X509(file, certificate) == 1, "no test certificate");
    std::fclose(file);
  }
  void Fill(X509* certificate, const CertificateOf& what, EVP_PKEY* key) {
    constexpr long kHour = 3600;
    X509_set_version(certificate, X509_VERSION_3);
    ASN1_INTEGER_set(X509_get_serialNumber(certificate), ++serial_);
    X509_gmtime_adj(X509_getm_notBefore(certificate), -2 * kHour);
    X509_gmtime_adj(X509_getm_notAfter(certificate), what.expired ? -kHour : kHour);
    X509_set_pubkey(certificate, key);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate), "CN", MBSTRING_ASC,
                               reinterpret_cast<const unsigned char*>(what.common_name.c_str()), -1,
                               -1, 0);
    X509_set_issuer_name(certificate, X509_get_subject_name(certificate_.get()));
  }
  void AddExtension(X509* certificate, int kind, const char* value) {
    X509V3_CTX context;
    X509V3_set_ctx_nodb(&context);
    X509V3_set_ctx(&context, certificate_.get(), certificate, nullptr, nullptr, 0);
    X509_EXTENSION* const extension = X509V3_EXT_conf_nid(nullptr, &context, kind, value);
    SPIRITOS_CHECK(extension != nullptr, "no extension {}", value);
    X509_add_ext(certificate, extension, -1);
    X509_EXTENSION_free(extension);
  }
  void Sign(X509* certificate) {
    SPIRITOS_CHECK(X509_sign(certificate, key_.get(), EVP_sha256()) != 0, "cannot sign");
  }

  TempDir dir_;
  Key key_;
  Certificate certificate_;
  long serial_ = 0;
};

}  // namespace spiritos
