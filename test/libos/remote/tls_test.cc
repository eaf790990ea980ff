// SPDX-License-Identifier: Apache-2.0
// Pools over TLS: who gets in, who does not, and what a hostile network can do.
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/ssl.h>

#include <cerrno>
#include <string>

#include "libos/remote/pool_factory.h"
#include "libos/remote/tls_tunnel.h"
#include "test/libos/remote/remote_rig.h"
#include "test/support/certificates.h"
#include "test/support/key_file.h"
#include "test/support/proxy.h"
#include "test/support/together.h"

namespace spiritos {
namespace {

constexpr uint64_t kSecond = 1'000'000'000;

ServerOptions Serving(TlsOptions tls) {
  return {
      .tcp_port = 0, .memory = Bytes(2 * kSlabSize), .lock_memory = false, .tls = std::move(tls)};
}

auto Connect(const ServerAddress& address, const TlsOptions& tls, const std::string& tenant = "") {
  return MakePool({.pool = address.ToString(), .tenant = tenant, .tls = tls});
}

std::string ErrorOf(const ServerAddress& address, const TlsOptions& tls,
                    const std::string& tenant = "") {
  const auto pool = Connect(address, tls, tenant);
  REQUIRE_FALSE(pool.ok());
  return std::string(pool.status().message());
}

uint64_t Count(ServerThread& server, ServerCounter counter) {
  return server.server().counters().Get(counter);
}

// A client may hear of its failure before the server has counted it.
void AwaitCount(ServerThread& server, ServerCounter counter, uint64_t n) {
  YieldUntil([&] { return Count(server, counter) >= n; });
  CHECK(Count(server, counter) == n);
}

// Writes and reads back one page.
bool Keeps(RemoteBackend& pool) {
  const Pages pages(2);
  SlotId slot;
  if (pool.PlaceSlab(&slot) != IoResult::kOk) return false;
  WritePage(pages[0], 5, 7);
  return Run(pool, IoOp::kWrite, Lane::kWriteBack, slot, 1, pages[0]) == 0 &&
         Run(pool, IoOp::kRead, Lane::kDemand, slot, 1, pages[1]) == 0 && PageHolds(pages[1], 5, 7);
}

// A server with the keys of two tenants.
struct KeyRig {
  const TempDir dir;
  const TlsKey a = *TlsKey::Make("a");
  const TlsKey b = *TlsKey::Make("b");
  ServerThread server{Serving({.psk = WriteKeys(dir, {a, b})})};

  TlsOptions With(const TlsKey& key) const { return {.psk = WriteKeys(dir, {key})}; }
};

TEST_CASE("a tenant with its key has slabs, and its name goes without saying", "[remote][tls]") {
  KeyRig rig;
  const auto unnamed = Connect(rig.server.tcp(), rig.With(rig.a));
  INFO(unnamed.status().ToString());
  REQUIRE(unnamed.ok());
  CHECK(Keeps(**unnamed));
  const auto named = Connect(rig.server.tcp(), rig.With(rig.b), "b");
  REQUIRE(named.ok());
  CHECK(Keeps(**named));
  CHECK(Count(rig.server, ServerCounter::kFailedHandshakes) == 0);
  CHECK(Count(rig.server, ServerCounter::kNotPermitted) == 0);
}

TEST_CASE("a wrong key and an unknown name are refused, and look the same", "[remote][tls]") {
  KeyRig rig;
  const std::string wrong = ErrorOf(rig.server.tcp(), rig.With(*TlsKey::Make("a")));
  const std::string unknown = ErrorOf(rig.server.tcp(), rig.With(*TlsKey::Make("x")));
  CHECK(wrong == unknown);
  CHECK_THAT(wrong, Catch::Contains("TLS handshake"));
  AwaitCount(rig.server, ServerCounter::kFailedHandshakes, 2);
  CHECK(rig.server.server().clients() == 0);
}

TEST_CASE("a tenant is not another because it says so", "[remote][tls]") {
  KeyRig rig;
  CHECK_THAT(ErrorOf(rig.server.tcp(), rig.With(rig.a), "b"),
             Catch::Contains("SPIRITOS_TENANT") && Catch::Contains("\"a\", not \"b\""));
  auto tunnel = TlsTunnel::Create(*TlsContext::ForClient(rig.With(rig.a)));
  REQUIRE(tunnel.ok());
  const uint64_t deadline = NowNs() + 5 * kSecond;
  const auto greet = [&](const HelloBody& hello) {
    auto socket = (*tunnel)->Wrap(*Dial(rig.server.tcp(), deadline), "127.0.0.1", deadline);
    REQUIRE(socket.ok());
    return Greet(socket->get(), hello, deadline);
  };
  HelloBody hello;
  hello.tenant[0] = 'b';
  CHECK(absl::IsPermissionDenied(greet(hello).status()));
  AwaitCount(rig.server, ServerCounter::kNotPermitted, 1);

  // Nor by a token that it got hold of.
  hello.tenant[0] = 'a';
  const auto welcome = greet(hello);
  REQUIRE(welcome.ok());
  auto others = TlsTunnel::Create(*TlsContext::ForClient(rig.With(rig.b)));
  std::swap(*tunnel, *others);
  hello.tenant[0] = 'b';
  hello.role = HelloBody::Role::kDemand;
  hello.token = welcome->token;
  CHECK(absl::IsPermissionDenied(greet(hello).status()));
}

TEST_CASE("nobody talks to a TLS server without, nor the other way around", "[remote][tls]") {
  KeyRig rig;
  ErrorOf(rig.server.tcp(), {});
  AwaitCount(rig.server, ServerCounter::kPlainPeers, 1);
  CHECK(Count(rig.server, ServerCounter::kFailedHandshakes) == 0);
  ServerThread plain(Serving({}));
  CHECK_THAT(ErrorOf(plain.tcp(), rig.With(rig.a)),
             Catch::Contains("TLS handshake with 127.0.0.1 failed"));
  AwaitCount(plain, ServerCounter::kBadFrames, 1);
}

TEST_CASE("no TLS before 1.3 is spoken", "[remote][tls]") {
  Authority authority;
  ServerThread server(Serving(authority.Issue({.common_name = "s", .hosts = "IP:127.0.0.1"})));
  const std::unique_ptr<SSL_CTX, void (*)(SSL_CTX*)> context(SSL_CTX_new(TLS_client_method()),
                                                             SSL_CTX_free);
  SSL_CTX_set_max_proto_version(context.get(), TLS1_2_VERSION);
  const std::unique_ptr<SSL, void (*)(SSL*)> ssl(SSL_new(context.get()), SSL_free);
  const UniqueFd socket = *Dial(server.tcp(), NowNs() + 5 * kSecond);
  REQUIRE(fcntl(socket.get(), F_SETFL, 0) == 0);  // Blocks.
  SSL_set_fd(ssl.get(), socket.get());
  CHECK(SSL_connect(ssl.get()) != 1);
  CHECK(ERR_GET_REASON(ERR_get_error()) == SSL_R_TLSV1_ALERT_PROTOCOL_VERSION);
  AwaitCount(server, ServerCounter::kFailedHandshakes, 1);
}

TEST_CASE("another machine is not talked to without TLS, nor listened to", "[remote][tls]") {
  for (const char* const host : {"192.0.2.1", "127.0.0.1.example.com", "[2001:db8::1]"}) {
    const auto pool = MakePool({.pool = fmt::format("tcp://{}:7070", host)});
    CHECK(absl::IsInvalidArgument(pool.status()));
    CHECK_THAT(std::string(pool.status().message()),
               Catch::Contains("SPIRITOS_TLS_PSK") && Catch::Contains("SPIRITOS_TLS_CERT"));
    ServerOptions options = Serving({});
    options.tcp_host = host;
    const auto server = MemoryServer::Create(options);
    CHECK(absl::IsInvalidArgument(server.status()));
    CHECK_THAT(std::string(server.status().message()),
               Catch::Contains("--tls-psk") && Catch::Contains("--tls-cert"));
  }
}

TEST_CASE("a choice of keys and certificates that is none is refused", "[remote][tls]") {
  const TempDir dir;
  const std::string psk = WriteKeys(dir, {*TlsKey::Make("a"), *TlsKey::Make("b")});
  const auto error = [](const TlsOptions& options) {
    return std::string(TlsContext::ForClient(options).status().message());
  };
  CHECK_THAT(error({.psk = psk}), Catch::Contains("2 keys") && Catch::Contains("SPIRITOS_TLS_PSK"));
  CHECK_THAT(error({.psk = psk, .ca = "x"}), Catch::Contains("both"));
  CHECK_THAT(error({.cert = "x", .key = "y"}), Catch::Contains("SPIRITOS_TLS_CA"));
  Authority authority;
  TlsOptions good = authority.Issue({.common_name = "a"});
  CHECK(TlsContext::ForClient(good).ok());
  TlsOptions bad = good;
  bad.cert = dir.file("none");
  CHECK_THAT(error(bad), Catch::Contains("none") && Catch::Contains("SPIRITOS_TLS_CERT"));
  bad = good;
  bad.key = authority.Issue({.common_name = "b"}).key;  // Another's.
  CHECK_THAT(error(bad), Catch::Contains("SPIRITOS_TLS_KEY"));
  bad = good;
  bad.ca = WriteText(dir, "nonsense");
  CHECK_THAT(error(bad), Catch::Contains("SPIRITOS_TLS_CA"));
  CHECK_THAT(error(authority.Issue({.common_name = "two words"})), Catch::Contains("common name"));
  REQUIRE(chmod(good.key.c_str(), 0644) == 0);
  CHECK_THAT(error(good), Catch::Contains("chmod 600"));
}

TEST_CASE("certificates of one authority know each other", "[remote][tls]") {
  Authority authority;
  const TlsOptions servers = authority.Issue({.common_name = "s", .hosts = "IP:127.0.0.1"});
  ServerThread server(Serving(servers));
  const auto pool = Connect(server.tcp(), authority.Issue({.common_name = "batch"}));
  INFO(pool.status().ToString());
  REQUIRE(pool.ok());
  CHECK(Keeps(**pool));
  // By name, where it is one.
  ServerThread named(Serving(authority.Issue({.common_name = "s", .hosts = "DNS:localhost"})));
  ServerAddress address = named.tcp();
  CHECK_THAT(ErrorOf(address, authority.Issue({.common_name = "batch"})),
             Catch::Contains("certificate verify failed"));
  address.host = "localhost";
  CHECK(Connect(address, authority.Issue({.common_name = "batch"})).ok());
}

TEST_CASE("a certificate that is not good is not let in", "[remote][tls]") {
  Authority authority;
  Authority foreign;
  ServerThread server(Serving(authority.Issue({.common_name = "s", .hosts = "IP:127.0.0.1"})));
  const ServerAddress address = server.tcp();

  SECTION("a client's of a foreign authority") {
    TlsOptions tls = foreign.Issue({.common_name = "batch"});
    CHECK_THAT(ErrorOf(address, tls), Catch::Contains("certificate verify failed"));
    tls.ca = authority.Issue({}).ca;  // Believes the server, and is not believed.
    CHECK_THAT(ErrorOf(address, tls), Catch::Contains("unknown ca"));
    AwaitCount(server, ServerCounter::kFailedHandshakes, 2);
  }
  SECTION("a client's that has expired") {
    CHECK_THAT(ErrorOf(address, authority.Issue({.common_name = "batch", .expired = true})),
               Catch::Contains("certificate expired"));
  }
  SECTION("a client's that another has the name of") {
    CHECK_THAT(ErrorOf(address, authority.Issue({.common_name = "batch"}), "web"),
               Catch::Contains("SPIRITOS_TENANT"));
  }
  SECTION("no certificate but a key") {
    const TempDir dir;
    ErrorOf(address, {.psk = WriteKeys(dir, {*TlsKey::Make("batch")})});
    AwaitCount(server, ServerCounter::kFailedHandshakes, 1);
  }
  SECTION("a server's that is foreign, expired, or of another host") {
    const TlsOptions ours = authority.Issue({.common_name = "batch"});
    for (const TlsOptions& theirs :
         {foreign.Issue({.common_name = "s", .hosts = "IP:127.0.0.1"}),
          authority.Issue({.common_name = "s", .hosts = "IP:127.0.0.1", .expired = true}),
          authority.Issue({.common_name = "s", .hosts = "IP:127.0.0.2"}),
          authority.Issue({.common_name = "127.0.0.1"})}) {
      ServerThread other(Serving(theirs));
      CHECK_THAT(ErrorOf(other.tcp(), ours), Catch::Contains("certificate verify failed"));
      CHECK(other.server().clients() == 0);
    }
  }
  CHECK(server.server().clients() == 0);
}

// What comes through a network that damages it is right, or comes again.
TEST_CASE("a record that was changed or cut breaks its connection and no data", "[remote][tls]") {
  const uint64_t seed = TestSeed();
  INFO("SPIRITOS_TEST_SEED=" << seed);
  std::mt19937_64 random(seed);
  KeyRig rig;
  Proxy proxy(rig.server.tcp());
  const auto pool = Connect(proxy.address(), rig.With(rig.a));
  REQUIRE(pool.ok());
  SlotId slab;
  REQUIRE((*pool)->PlaceSlab(&slab) == IoResult::kOk);
  constexpr uint32_t kSlots = 64;
  std::array<uint64_t, kSlots> versions{};
  const Pages pages(8);
  for (uint64_t round = 1; round <= Rounds(20); ++round) {
    const bool flips = round % 2 == 0;
    flips ? proxy.FlipNext() : proxy.CutNext();
    while (!proxy.done()) {
      const auto first = static_cast<uint32_t>(random() % (kSlots - 8));
      const SlotId slot = slab + PageCount(first);
      if (random() % 2 == 0) {
        for (uint32_t i = 0; i < 8; ++i) {
          versions[first + i] = round;
          WritePage(pages[i], first + i, round);
        }
        REQUIRE(Run(**pool, IoOp::kWrite, Lane::kWriteBack, slot, 8, pages[0]) == 0);
      }
      REQUIRE(Run(**pool, IoOp::kRead, Lane::kDemand, slot, 8, pages[0]) == 0);
      for (uint32_t i = 0; i < 8; ++i) {
        if (versions[first + i] == 0) continue;
        REQUIRE(PageHolds(pages[i], first + i, versions[first + i]));
      }
    }
  }
  CHECK(Count(rig.server, ServerCounter::kDamagedFrames) == 0);  // None got that far.
}

}  // namespace
}  // namespace spiritos
