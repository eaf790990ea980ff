// SPDX-License-Identifier: Apache-2.0
// TlsStream: TLS over a connected, non-blocking socket.
//
//   Handshake() until kDone  -->  Receive(), Send(): as recvmsg(2) and sendmsg(2)
//
// What breaks it breaks it for good: a record that does not verify, a connection that
// ends without a goodbye. Nothing that was not authenticated is ever handed out.
//
// A Send() that would block is repeated with the same bytes, and maybe more after them:
// some of them are encrypted already. What has arrived may wait inside: whoever waits for
// the socket receives first, until that would block.
//
// Context: any; OpenSSL allocates. One thread at a time.
#pragma once

#include <sys/types.h>
#include <sys/uio.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "libos/remote/tls_context.h"

struct ssl_st;
struct x509_st;

namespace spiritos {

class TlsStream {
 public:
  enum class Progress : uint8_t { kDone, kWaits, kFailed };

  // Of a server, for whoever has connected; of a client, to the server at `host`. Borrows
  // both. Null without memory.
  static std::unique_ptr<TlsStream> Accept(const TlsContext& context, int socket);
  static std::unique_ptr<TlsStream> Connect(const TlsContext& context, int socket,
                                            const std::string& host);
  ~TlsStream();
  TlsStream(const TlsStream&) = delete;
  TlsStream& operator=(const TlsStream&) = delete;

  // One step. kWaits: for the socket, to write to it if wants_to_write().
  Progress Handshake() noexcept;
  bool ready() const { return ready_; }
  bool wants_to_write() const { return wants_to_write_; }
  // The tenant that a client has proved to be. REQUIRES: ready(), a server's stream.
  const std::string& peer() const { return peer_; }

  // Bytes received; 0 = the peer said goodbye; -1 with errno, EAGAIN or final.
  ssize_t Receive(std::span<const iovec> parts) noexcept;
  // Bytes sent, of one record at most; -1 with errno, EAGAIN or final.
  ssize_t Send(std::span<const iovec> parts) noexcept;
  // Says goodbye, if the socket takes it.
  void Close() noexcept;
  // What OpenSSL has to say about the failure; 0 = nothing, the connection just ended.
  unsigned long error() const { return error_; }

  // For TlsContext: the name that a peer goes by, proved once the stream is ready.
  static void NotePeer(ssl_st* ssl, std::string_view tenant);

 private:
  explicit TlsStream(ssl_st* ssl) : ssl_(ssl) {}
  static std::unique_ptr<TlsStream> Make(const TlsContext& context, int socket);
  // Whether what OpenSSL has stopped at is the end; errno as of Receive().
  ssize_t Stopped(int result) noexcept;

  ssl_st* const ssl_;
  bool ready_ = false;
  bool wants_to_write_ = false;
  bool broken_ = false;
  unsigned long error_ = 0;
  std::string peer_;
};

// A line about an error that OpenSSL has numbered.
std::string TlsErrorText(unsigned long error);
// A certificate's common name; empty unless it has exactly one.
std::string CommonNameOf(const x509_st* certificate);

}  // namespace spiritos
