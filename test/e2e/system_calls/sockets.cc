// SPDX-License-Identifier: Apache-2.0
// Sockets: messages, addresses, options; queues of messages and semaphores.
#include <fcntl.h>
#include <mqueue.h>
#include <netinet/in.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>

#include <cstddef>

#include "test/e2e/system_calls/trial.h"

namespace system_calls {
namespace {

constexpr size_t kSize = 3000;
constexpr int kNow = MSG_DONTWAIT | MSG_NOSIGNAL;

struct Pair {
  explicit Pair(int type) : Pair(Make(type)) {}
  explicit Pair(std::array<int, 2> ends) : a(ends[0]), b(ends[1]) {}
  static std::array<int, 2> Make(int type) {
    std::array<int, 2> ends;
    Require(socketpair(AF_UNIX, type, 0, ends.data()) == 0, "socketpair");
    return ends;
  }
  File a;
  File b;
};

sockaddr_in Loopback(uint16_t port = 0) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = port;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

// Bound to a port that nobody else has.
struct Inet {
  explicit Inet(int type) : fd(socket(AF_INET, type, 0)), address(Loopback()) {
    socklen_t size = sizeof(address);
    auto* const at = reinterpret_cast<sockaddr*>(&address);
    Require(bind(fd, at, size) == 0 && getsockname(fd, at, &size) == 0, "bind");
  }
  File fd;
  sockaddr_in address;
};

sockaddr_un Named(const char* name) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, name, sizeof(address.sun_path) - 1);
  return address;
}
const sockaddr* Generic(const void* address) { return static_cast<const sockaddr*>(address); }
sockaddr* Generic(void* address) { return static_cast<sockaddr*>(address); }

void Fill(int fd, size_t size) {
  std::array<std::byte, kPage> bytes;
  FillPattern(bytes.data(), size);
  Require(send(fd, bytes.data(), size, kNow) == static_cast<ssize_t>(size), "send");
}

// How much has come, and how much of it is the pattern.
void SeeArrived(Trial& t, int fd) {
  std::array<std::byte, kPage> bytes;
  const ssize_t size = recv(fd, bytes.data(), bytes.size(), kNow);
  ssize_t same = 0;
  while (same < size && bytes[static_cast<size_t>(same)] == Pattern(static_cast<size_t>(same)))
    ++same;
  t.See(size);
  t.See(same);
}

void Send(Trial& t, int type) {
  const Pair pair(type);
  std::byte* const from = t.Out(kSize);
  FillPattern(from, kSize);
  t.Ready();
  t.Returned(send(pair.a, from, kSize, kNow));
  SeeArrived(t, pair.b);
}

void Receive(Trial& t, int type, int flags = 0) {
  const Pair pair(type);
  Fill(pair.a, kSize);
  std::byte* const to = t.Out(kSize);
  t.Ready();
  t.Returned(recv(pair.b, to, kSize, kNow | flags));
  SeeArrived(t, pair.b);  // What is left.
}

struct Connected {
  Connected() : listener(SOCK_STREAM), a(socket(AF_INET, SOCK_STREAM, 0)), b(Accept()) {}
  int Accept() {
    Require(listen(listener.fd, 1) == 0, "listen");
    Require(connect(a, Generic(&listener.address), sizeof(listener.address)) == 0, "connect");
    return accept(listener.fd, nullptr, nullptr);
  }
  Inet listener;
  File a;
  File b;
};

void AwaitArrival(int fd, size_t size) {
  std::array<std::byte, kPage> bytes;
  Require(recv(fd, bytes.data(), size, MSG_PEEK | MSG_WAITALL) == static_cast<ssize_t>(size),
          "recv");
}

void ReceiveTcp(Trial& t) {
  const Connected connected;
  Fill(connected.a, kSize);
  AwaitArrival(connected.b, kSize);
  std::byte* const to = t.Out(kSize);
  t.Ready();
  t.Returned(recv(connected.b, to, kSize, kNow));
  SeeArrived(t, connected.b);
}

void SendTcp(Trial& t) {
  const Connected connected;
  std::byte* const from = t.Out(kSize);
  FillPattern(from, kSize);
  t.Ready();
  const long sent = t.Returned(send(connected.a, from, kSize, kNow));
  if (sent > 0) AwaitArrival(connected.b, static_cast<size_t>(sent));
  SeeArrived(t, connected.b);
}

void SendUdp(Trial& t) {
  const Inet to(SOCK_DGRAM);
  const File from(socket(AF_INET, SOCK_DGRAM, 0));
  const sockaddr_in* const address = t.Kept(t.In(to.address));
  std::byte* const bytes = t.Out(kSize);
  FillPattern(bytes, kSize);
  t.Ready();
  t.Returned(sendto(from, bytes, kSize, kNow, Generic(address), sizeof(*address)));
  SeeArrived(t, to.fd);
}

void ReceiveUdp(Trial& t) {
  const Inet to(SOCK_DGRAM);
  const Inet from(SOCK_DGRAM);
  Require(connect(from.fd, Generic(&to.address), sizeof(to.address)) == 0, "connect");
  Fill(from.fd, kSize);
  std::byte* const bytes = t.Out(kSize);
  sockaddr_in* const address = t.Ignored(t.Out<sockaddr_in>());
  socklen_t* const size = t.In(socklen_t{sizeof(sockaddr_in)});
  t.Ready();
  const long got = t.Returned(recvfrom(to.fd, bytes, kSize, kNow, Generic(address), size));
  if (got > 0) t.See(t.Get(address).sin_port == from.address.sin_port);
  SeeArrived(t, to.fd);
}

// What carries a descriptor beside a message.
using Control = std::array<std::byte, CMSG_SPACE(sizeof(int))>;
Control ControlOf(int fd) {
  Control control{};
  const cmsghdr header{CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
  std::memcpy(control.data(), &header, sizeof(header));
  std::memcpy(control.data() + CMSG_LEN(0), &fd, sizeof(fd));
  return control;
}

// A message of two parts.
msghdr* MessageOf(Trial& t, bool filled, int fd) {
  std::byte* const first = t.Out(1000);
  std::byte* const second = t.Out(500);
  for (size_t i = 0; i < 1000 && filled; ++i) first[i] = Pattern(i);
  for (size_t i = 0; i < 500 && filled; ++i) second[i] = Pattern(1000 + i);
  msghdr message{};
  message.msg_iov = t.Kept(t.In(std::array<iovec, 2>{{{first, 1000}, {second, 500}}}), 2);
  message.msg_iovlen = 2;
  message.msg_control = t.Ignored(t.In(ControlOf(fd)), sizeof(Control));
  message.msg_controllen = CMSG_LEN(sizeof(int));
  return t.Ignored(t.In(message));
}

void CloseReceived(Trial& t, const msghdr* message) {
  const auto seen = t.Get(message);
  t.See(seen.msg_flags);
  if (seen.msg_controllen < CMSG_LEN(sizeof(int))) return;
  const auto* const control = static_cast<const std::byte*>(seen.msg_control);
  t.See(close(t.Get(reinterpret_cast<const int*>(control + CMSG_LEN(0)))));
}

void SendMessage(Trial& t) {
  const Pair pair(SOCK_STREAM);
  const File other(open(kPatternFile, O_RDONLY));
  const msghdr* const message = MessageOf(t, true, other);
  t.Ready();
  t.Returned(sendmsg(pair.a, message, kNow));
  SeeArrived(t, pair.b);
}

void ReceiveMessage(Trial& t) {
  const Pair pair(SOCK_SEQPACKET);
  const File other(open(kPatternFile, O_RDONLY));
  std::array<std::byte, 1500> bytes;
  FillPattern(bytes.data(), bytes.size());
  iovec from{bytes.data(), bytes.size()};
  Control control = ControlOf(other);
  msghdr sent{};
  sent.msg_iov = &from;
  sent.msg_iovlen = 1;
  sent.msg_control = control.data();
  sent.msg_controllen = CMSG_LEN(sizeof(int));
  Require(sendmsg(pair.a, &sent, kNow) == 1500, "sendmsg");
  msghdr* const message = MessageOf(t, false, -1);
  t.Ready();
  if (t.Returned(recvmsg(pair.b, message, kNow)) > 0) CloseReceived(t, message);
  SeeArrived(t, pair.b);
}

mmsghdr* Messages(Trial& t, bool filled) {
  std::array<mmsghdr, 2> messages{};
  for (mmsghdr& message : messages) {
    std::byte* const bytes = t.Out(700);
    if (filled) FillPattern(bytes, 700);
    message.msg_hdr.msg_iov = t.Kept(t.In(iovec{bytes, 700}));
    message.msg_hdr.msg_iovlen = 1;
  }
  return t.Ignored(t.In(messages), 2);
}

void SendMessages(Trial& t) {
  const Pair pair(SOCK_DGRAM);
  mmsghdr* const messages = Messages(t, true);
  t.Ready();
  const long sent = t.Returned(sendmmsg(pair.a, messages, 2, kNow));
  for (long i = 0; i < sent; ++i) t.See(t.Get(messages, static_cast<size_t>(i)).msg_len);
  SeeArrived(t, pair.b);
}

void ReceiveMessages(Trial& t) {
  const Pair pair(SOCK_DGRAM);
  Fill(pair.a, 600);
  Fill(pair.a, 500);
  mmsghdr* const messages = Messages(t, false);
  timespec* const timeout = t.Ignored(t.In(timespec{100, 0}));
  t.Ready();
  const long got =
      t.Returned(syscall(SYS_recvmmsg, static_cast<int>(pair.b), messages, 2, kNow, timeout));
  for (long i = 0; i < got; ++i) t.See(t.Get(messages, static_cast<size_t>(i)).msg_len);
  SeeArrived(t, pair.b);
}

void Options(Trial& t) {
  const File fd(socket(AF_UNIX, SOCK_STREAM, 0));
  const timeval* const in = t.In(timeval{12, 0});
  timeval* const out = t.Out<timeval>();
  socklen_t* const size = t.In(socklen_t{sizeof(timeval)});
  t.Ready();
  t.Returned(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, in, sizeof(*in)));
  t.Ready();
  t.Returned(getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, out, size));
}

void Addresses(Trial& t) {
  const File listener(socket(AF_UNIX, SOCK_STREAM, 0));
  const File client(socket(AF_UNIX, SOCK_STREAM, 0));
  const sockaddr_un* const name = t.In(Named("name-of-a-socket"));
  t.Ready();
  if (t.Returned(bind(listener, Generic(name), sizeof(*name))) == 0) {
    Require(listen(listener, 1) == 0, "listen");
    t.Ready();
    t.Returned(connect(client, Generic(name), sizeof(*name)));
    sockaddr_un* const peer = t.Out<sockaddr_un>();
    socklen_t* const size = t.In(socklen_t{sizeof(*peer)});
    t.Ready();
    t.Returned(getpeername(client, Generic(peer), size));
  }
  unlink("name-of-a-socket");
}

// Both ends have names, and whoever accepts or asks is told.
void TheirNames(Trial& t) {
  const File listener(socket(AF_UNIX, SOCK_STREAM, 0));
  const File client(socket(AF_UNIX, SOCK_STREAM, 0));
  const sockaddr_un here = Named("listener");
  const sockaddr_un there = Named("client");
  Require(bind(listener, Generic(&here), sizeof(here)) == 0, "bind");
  Require(bind(client, Generic(&there), sizeof(there)) == 0, "bind");
  Require(listen(listener, 1) == 0, "listen");
  Require(connect(client, Generic(&here), sizeof(here)) == 0, "connect");
  sockaddr_un* const peer = t.Out<sockaddr_un>();
  socklen_t* const size = t.In(socklen_t{sizeof(*peer)});
  sockaddr_un* const own = t.Out<sockaddr_un>();
  socklen_t* const own_size = t.In(socklen_t{sizeof(*own)});
  t.Ready();
  t.ReturnedFd(accept4(listener, Generic(peer), size, SOCK_CLOEXEC));
  t.Ready();
  t.Returned(getsockname(listener, Generic(own), own_size));
  unlink("listener");
  unlink("client");
}

void QueueOfMessages(Trial& t) {
  mq_attr attributes{};
  attributes.mq_maxmsg = 2;
  attributes.mq_msgsize = 64;
  // In a name space of the user's, not the folder's: nobody else has it by then.
  const std::string text = "spiritos-system-calls-" + std::to_string(getpid());
  const char* const name = t.Ignored(t.Text(text), text.size());
  const mq_attr* const made = t.In(attributes);
  mq_attr* const got = t.Out<mq_attr>();
  std::byte* const from = t.Out(64);
  std::byte* const to = t.Out(64);
  unsigned* const priority = t.Out<unsigned>();
  const timespec* const until = t.In(timespec{1, 0});
  t.Ready();
  const int opened =
      t.ReturnedFd(syscall(SYS_mq_open, name, O_CREAT | O_EXCL | O_RDWR | O_NONBLOCK, 0600, made));
  mq_unlink(("/" + text).c_str());
  if (opened < 0) return;
  t.Ready();
  t.Returned(syscall(SYS_mq_timedsend, opened, from, 64, 5, until));
  t.Ready();
  t.Returned(syscall(SYS_mq_getsetattr, opened, nullptr, got));
  t.Ready();
  t.Returned(syscall(SYS_mq_timedreceive, opened, to, 64, priority, until));
}

void SystemVMessages(Trial& t) {
  const int queue = msgget(IPC_PRIVATE, 0600);
  Require(queue >= 0, "msgget");
  struct Message {
    long type;
    std::array<char, 100> text;
  };
  Message message{3, {}};
  message.text.fill('m');
  const Message* const from = t.In(message);
  Message* const to = t.Out<Message>();
  t.Ready();
  t.Returned(msgsnd(queue, from, 100, IPC_NOWAIT));
  t.Ready();
  t.Returned(msgrcv(queue, to, 100, 0, IPC_NOWAIT));
  msgctl(queue, IPC_RMID, nullptr);
}

void Semaphores(Trial& t) {
  const int set = semget(IPC_PRIVATE, 2, 0600);
  Require(set >= 0, "semget");
  const unsigned short* const values = t.In(std::array<unsigned short, 2>{3, 4});
  unsigned short* const got = t.Out<std::array<unsigned short, 2>>()->data();
  sembuf* const operations = t.In(std::array<sembuf, 2>{{{0, -1, 0}, {1, 2, 0}}});
  const timespec* const timeout = t.In(timespec{100, 0});
  t.Ready();
  t.Returned(syscall(SYS_semctl, set, 0, SETALL, values));
  t.Ready();
  t.Returned(syscall(SYS_semtimedop, set, operations, 2, timeout));
  t.Ready();
  t.Returned(syscall(SYS_semctl, set, 0, GETALL, got));
  semctl(set, 0, IPC_RMID);
}

constexpr Row kRows[] = {
    {"send stream", [](Trial& t) { Send(t, SOCK_STREAM); }},
    {"send datagram", [](Trial& t) { Send(t, SOCK_DGRAM); }},
    {"send packet", [](Trial& t) { Send(t, SOCK_SEQPACKET); }},
    {"send TCP", SendTcp},
    {"sendto UDP", SendUdp},
    {"recv stream", [](Trial& t) { Receive(t, SOCK_STREAM); }},
    {"recv datagram", [](Trial& t) { Receive(t, SOCK_DGRAM); }},
    {"recv packet", [](Trial& t) { Receive(t, SOCK_SEQPACKET); }},
    {"recv MSG_PEEK", [](Trial& t) { Receive(t, SOCK_STREAM, MSG_PEEK); }},
    {"recv TCP", ReceiveTcp},
    {"recvfrom UDP", ReceiveUdp},
    {"sendmsg", SendMessage},
    {"recvmsg", ReceiveMessage},
    {"sendmmsg", SendMessages},
    {"recvmmsg", ReceiveMessages},
    {"setsockopt, getsockopt", Options},
    {"bind, connect, getpeername", Addresses},
    {"accept4, getsockname", TheirNames},
    {"socketpair",
     [](Trial& t) {
       int* const ends = t.Ignored(t.Out<std::array<int, 2>>())->data();
       t.Ready();
       if (t.Returned(socketpair(AF_UNIX, SOCK_STREAM, 0, ends)) != 0) return;
       const File a(t.Get(ends));
       const File b(t.Get(ends, 1));
       t.See(send(a, "ab", 2, kNow));
     }},
    {"mq_open, mq_timedsend, mq_timedreceive", QueueOfMessages},
    {"msgsnd, msgrcv", SystemVMessages},
    {"semctl, semtimedop", Semaphores},
};

}  // namespace

std::span<const Row> SocketRows() { return kRows; }

}  // namespace system_calls
