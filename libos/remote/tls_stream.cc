// SPDX-License-Identifier: Apache-2.0
// OpenSSL's calls with the manners of sendmsg(2) and recvmsg(2).
#include "libos/remote/tls_stream.h"

#include <fmt/core.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

namespace spiritos {
namespace {

// What one record holds at most (RFC 8446, section 5.1).
constexpr size_t kRecord = size_t{1} << 14;

int SocketOf(BIO* bio) { return static_cast<int>(reinterpret_cast<intptr_t>(BIO_get_data(bio))); }

// OpenSSL's own socket BIO raises SIGPIPE.
int WriteSocket(BIO* bio, const char* bytes, size_t size, size_t* written) {
  BIO_clear_retry_flags(bio);
  ssize_t sent;
  do {
    sent = send(SocketOf(bio), bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  if (sent < 0 && errno == EAGAIN) BIO_set_retry_write(bio);
  *written = sent > 0 ? static_cast<size_t>(sent) : 0;
  return sent > 0 ? 1 : 0;
}

int ReadSocket(BIO* bio, char* bytes, size_t size, size_t* read) {
  BIO_clear_retry_flags(bio);
  ssize_t got;
  do {
    got = recv(SocketOf(bio), bytes, size, MSG_DONTWAIT);
  } while (got < 0 && errno == EINTR);
  if (got < 0 && errno == EAGAIN) BIO_set_retry_read(bio);
  *read = got > 0 ? static_cast<size_t>(got) : 0;
  return got > 0 ? 1 : 0;
}

long ControlSocket(BIO*, int command, long, void*) { return command == BIO_CTRL_FLUSH ? 1 : 0; }

BIO* NewSocketBio(int socket) {
  static const BIO_METHOD* const method = [] {
    BIO_METHOD* const made = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "socket");
    BIO_meth_set_write_ex(made, WriteSocket);
    BIO_meth_set_read_ex(made, ReadSocket);
    BIO_meth_set_ctrl(made, ControlSocket);
    return made;
  }();
  BIO* const bio = BIO_new(method);
  if (bio == nullptr) return nullptr;
  BIO_set_data(bio, reinterpret_cast<void*>(static_cast<intptr_t>(socket)));
  BIO_set_init(bio, 1);
  return bio;
}

// An address is matched as one, any other name as a host's.
bool ExpectHost(SSL* ssl, const std::string& host) {
  X509_VERIFY_PARAM* const expected = SSL_get0_param(ssl);
  if (X509_VERIFY_PARAM_set1_ip_asc(expected, host.c_str()) == 1) return true;
  X509_VERIFY_PARAM_set_hostflags(expected, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
  return SSL_set_tlsext_host_name(ssl, host.c_str()) == 1 &&
         X509_VERIFY_PARAM_set1_host(expected, host.data(), host.size()) == 1;
}

}  // namespace

std::unique_ptr<TlsStream> TlsStream::Make(const TlsContext& context, int socket) {
  SSL* const ssl = SSL_new(context.get());
  if (ssl == nullptr) return nullptr;
  std::unique_ptr<TlsStream> stream(new TlsStream(ssl));
  BIO* const bio = NewSocketBio(socket);
  if (bio == nullptr) return nullptr;
  SSL_set_bio(ssl, bio, bio);
  SSL_set_app_data(ssl, stream.get());
  return stream;
}

std::unique_ptr<TlsStream> TlsStream::Accept(const TlsContext& context, int socket) {
  std::unique_ptr<TlsStream> stream = Make(context, socket);
  if (stream != nullptr) SSL_set_accept_state(stream->ssl_);
  return stream;
}

std::unique_ptr<TlsStream> TlsStream::Connect(const TlsContext& context, int socket,
                                              const std::string& host) {
  std::unique_ptr<TlsStream> stream = Make(context, socket);
  if (stream == nullptr) return nullptr;
  SSL_set_connect_state(stream->ssl_);
  if (!context.has_keys() && !ExpectHost(stream->ssl_, host)) return nullptr;
  return stream;
}

TlsStream::~TlsStream() { SSL_free(ssl_); }

void TlsStream::NotePeer(ssl_st* ssl, std::string_view tenant) {
  static_cast<TlsStream*>(SSL_get_app_data(ssl))->peer_ = tenant;
}

TlsStream::Progress TlsStream::Handshake() noexcept {
  ERR_clear_error();
  const int result = SSL_do_handshake(ssl_);
  if (result != 1) {
    Stopped(result);
    return broken_ ? Progress::kFailed : Progress::kWaits;
  }
  wants_to_write_ = false;
  if (X509* const certificate = SSL_get0_peer_certificate(ssl_); certificate != nullptr) {
    peer_ = CommonNameOf(certificate);
  }
  ready_ = true;
  return Progress::kDone;
}

ssize_t TlsStream::Stopped(int result) noexcept {
  const int why = SSL_get_error(ssl_, result);
  wants_to_write_ = why == SSL_ERROR_WANT_WRITE;
  if (why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE) {
    errno = EAGAIN;
    return -1;
  }
  broken_ = true;
  if (why == SSL_ERROR_ZERO_RETURN) return 0;
  error_ = ERR_peek_last_error();  // The outermost.
  errno = EPROTO;
  return -1;
}

ssize_t TlsStream::Receive(std::span<const iovec> parts) noexcept {
  size_t total = 0;
  for (const iovec& part : parts) {
    for (size_t filled = 0; filled < part.iov_len;) {
      ERR_clear_error();
      size_t got = 0;
      const int result = SSL_read_ex(ssl_, static_cast<std::byte*>(part.iov_base) + filled,
                                     part.iov_len - filled, &got);
      // What stopped it behind some bytes stops the next call too.
      if (result != 1) return total != 0 ? static_cast<ssize_t>(total) : Stopped(result);
      filled += got;
      total += got;
    }
  }
  return static_cast<ssize_t>(total);
}

ssize_t TlsStream::Send(std::span<const iovec> parts) noexcept {
  // Small parts go together: a record costs as much as some hundred bytes.
  std::array<std::byte, kRecord> gathered;
  const void* bytes = parts.front().iov_base;
  size_t size = parts.front().iov_len;
  if (size < kRecord && parts.size() > 1) {
    size = 0;
    for (const iovec& part : parts) {
      const size_t n = std::min(part.iov_len, kRecord - size);
      std::memcpy(gathered.data() + size, part.iov_base, n);
      size += n;
    }
    bytes = gathered.data();
  }
  ERR_clear_error();
  size_t sent = 0;
  const int result = SSL_write_ex(ssl_, bytes, size, &sent);
  if (result == 1) {
    wants_to_write_ = false;
    return static_cast<ssize_t>(sent);
  }
  const ssize_t stopped = Stopped(result);
  if (stopped == 0) errno = EPIPE;
  return -1;
}

void TlsStream::Close() noexcept {
  if (!ready_ || broken_) return;
  ERR_clear_error();
  SSL_shutdown(ssl_);
}

std::string TlsErrorText(unsigned long error) {
  if (error == 0) return "the connection ended";
  if (ERR_SYSTEM_ERROR(error)) return strerror(ERR_GET_REASON(error));
  const char* const reason = ERR_reason_error_string(error);
  return reason != nullptr ? reason : fmt::format("error {:#x}", error);
}

std::string CommonNameOf(const x509_st* certificate) {
  const X509_NAME* const subject = X509_get_subject_name(certificate);
  const int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
  if (at < 0 || X509_NAME_get_index_by_NID(subject, NID_commonName, at) >= 0) return {};
  const ASN1_STRING* const data = X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at));
  unsigned char* text = nullptr;
  const int size = ASN1_STRING_to_UTF8(&text, data);
  if (size < 0) return {};
  std::string name(reinterpret_cast<const char*>(text), static_cast<size_t>(size));
  OPENSSL_free(text);
  return name;
}

}  // namespace spiritos
