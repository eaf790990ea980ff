// SPDX-License-Identifier: Apache-2.0
// Names of files, and what the kernel tells of files and systems.
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/time.h>
#include <sys/utsname.h>
#include <sys/vfs.h>

#include "test/e2e/system_calls/trial.h"

namespace system_calls {
namespace {

// Both halves of the name are in pages of their own.
constexpr std::string_view kOther = "another-name";

void MakeFile(const char* name) { const File made(open(name, O_CREAT | O_RDWR, 0644)); }

// Calls `call` on two names: of a file that is there, and of one that is not.
template <typename Call>
void OnNames(Trial& t, Call&& call) {
  MakeFile("old-name-of-a-file");
  const char* const from = t.Text("old-name-of-a-file");
  const char* const to = t.Text(kOther);
  t.Ready();
  t.Returned(call(from, to));
  t.See(access("old-name-of-a-file", F_OK));
  t.See(access(kOther.data(), F_OK));
  unlink("old-name-of-a-file");
  unlink(kOther.data());
}

template <typename Call>
void OnFile(Trial& t, Call&& call) {
  MakeFile(kOther.data());
  const char* const name = t.Text(kOther);
  t.Ready();
  t.Returned(call(name));
  t.See(access(kOther.data(), F_OK));
  unlink(kOther.data());
}

void SeeStatus(Trial& t, const struct stat* at) {
  if (!t.usable()) return;
  const auto status = t.Get(at);
  t.See(status.st_size);
  t.See(static_cast<long>(status.st_mode));
  t.See(static_cast<long>(status.st_nlink));
}

template <typename Call>
void Status(Trial& t, Call&& call) {
  const char* const name = t.Text(kPatternFile);
  auto* const status = t.Ignored(t.Out<struct stat>());
  t.Ready();
  t.Returned(call(name, status));
  SeeStatus(t, status);
}

void ExtendedStatus(Trial& t) {
  const char* const name = t.Text(kPatternFile);
  auto* const status = t.Ignored(t.Out<struct statx>());
  t.Ready();
  t.Returned(syscall(SYS_statx, AT_FDCWD, name, 0, STATX_BASIC_STATS, status));
  if (!t.usable()) return;
  const auto seen = t.Get(status);
  t.See(static_cast<long>(seen.stx_size));
  t.See(seen.stx_mode);
  t.See(seen.stx_nlink);
}

void OpenByHow(Trial& t) {
  const char* const name = t.Text(kPatternFile);
  open_how how{};
  how.flags = O_RDONLY;
  how.resolve = RESOLVE_BENEATH;
  const auto* const far = t.In(how);
  t.Ready();
  t.ReturnedFd(syscall(SYS_openat2, AT_FDCWD, name, far, sizeof(how)));
}

void ReadLink(Trial& t) {
  Require(symlink("where-this-leads-to", "a-symbolic-link") == 0, "symlink");
  const char* const name = t.Text("a-symbolic-link");
  char* const to = reinterpret_cast<char*>(t.Out(40));
  t.Ready();
  t.Returned(readlink(name, to, 40));
  t.Ready();
  t.Returned(readlinkat(AT_FDCWD, name, to, 40));
  unlink("a-symbolic-link");
}

// Another one in each run.
void CurrentFolder(Trial& t) {
  std::array<char, 512> expected;
  const long size = syscall(SYS_getcwd, expected.data(), expected.size());
  std::byte* const to = t.Ignored(t.Out(expected.size()), expected.size());
  t.Ready();
  const long got = t.Returned(syscall(SYS_getcwd, to, expected.size()) == size ? 0 : -1);
  if (got == 0) t.See(std::memcmp(to, expected.data(), static_cast<size_t>(size)));
}

void SetTimes(Trial& t) {
  MakeFile(kOther.data());
  const char* const name = t.Text(kOther);
  const timespec* const times = t.In(std::array<timespec, 2>{{{1000, 1}, {2000, 2}}});
  t.Ready();
  t.Returned(syscall(SYS_utimensat, AT_FDCWD, name, times, 0));
  struct stat status {};
  stat(kOther.data(), &status);
  t.See(status.st_mtime < 10000 ? status.st_mtime : -1);
  unlink(kOther.data());
}

void Attributes(Trial& t) {
  MakeFile(kOther.data());
  const char* const file = t.Text(kOther);
  const char* const name = t.Text("user.colour");
  const char* const value = t.Text("ultramarine");
  std::byte* const got = t.Out(64);
  char* const list = reinterpret_cast<char*>(t.Out(64));
  t.Ready();
  t.Returned(syscall(SYS_setxattr, file, name, value, 11, 0));
  t.Ready();
  t.Returned(syscall(SYS_getxattr, file, name, got, 64));
  t.Ready();
  t.Returned(syscall(SYS_listxattr, file, list, 64));
  t.Ready();
  t.Returned(syscall(SYS_removexattr, file, name));
  unlink(kOther.data());
}

void FileSystem(Trial& t) {
  const char* const name = t.Text(".");
  auto* const status = t.Ignored(t.Out<struct statfs>());
  t.Ready();
  t.Returned(syscall(SYS_statfs, name, status));
  if (t.usable()) t.See(t.Get(status).f_bsize);
  t.Ready();
  const File folder(open(".", O_RDONLY));
  t.Returned(syscall(SYS_fstatfs, static_cast<int>(folder), status));
}

void System(Trial& t) {
  auto* const info = t.Ignored(t.Out<struct sysinfo>());
  t.Ready();
  t.Returned(syscall(SYS_sysinfo, info));
  if (t.usable()) t.See(t.Get(info).totalram > 0);
}

void Handle(Trial& t) {
  struct Handle {
    file_handle header;
    std::array<unsigned char, 128> bytes;
  };
  Handle handle{};
  handle.header.handle_bytes = 128;
  const char* const name = t.Text(kPatternFile);
  Handle* const at = t.Ignored(t.In(handle));
  int* const mount = t.Ignored(t.Out<int>());
  t.Ready();
  t.Returned(syscall(SYS_name_to_handle_at, AT_FDCWD, name, at, mount, 0));
  if (t.usable()) t.See(t.Get(at).header.handle_type);
}

constexpr Row kRows[] = {
    {"open",
     [](Trial& t) {
       const char* const name = t.Text(kPatternFile);
       t.Ready();
       t.ReturnedFd(open(name, O_RDONLY));
     }},
    {"openat",
     [](Trial& t) {
       const char* const name = t.Text(kPatternFile);
       t.Ready();
       t.ReturnedFd(openat(AT_FDCWD, name, O_RDONLY));
     }},
    {"openat2", OpenByHow},
    {"creat",
     [](Trial& t) {
       const char* const name = t.Text(kOther);
       t.Ready();
       t.ReturnedFd(creat(name, 0600));
       t.See(unlink(kOther.data()));
     }},
    {"a name that is not there",
     [](Trial& t) {
       const char* const name = t.Text("no/such/name");
       t.Ready();
       t.ReturnedFd(open(name, O_RDONLY));
     }},
    {"rename",
     [](Trial& t) { OnNames(t, [](const char* a, const char* b) { return rename(a, b); }); }},
    {"renameat2",
     [](Trial& t) {
       OnNames(t, [](const char* a, const char* b) {
         return syscall(SYS_renameat2, AT_FDCWD, a, AT_FDCWD, b, RENAME_NOREPLACE);
       });
     }},
    {"link", [](Trial& t) { OnNames(t, [](const char* a, const char* b) { return link(a, b); }); }},
    {"symlink",
     [](Trial& t) { OnNames(t, [](const char* a, const char* b) { return symlink(a, b); }); }},
    {"unlink", [](Trial& t) { OnFile(t, unlink); }},
    {"mkdir",
     [](Trial& t) {
       const char* const name = t.Text(kOther);
       t.Ready();
       t.Returned(mkdir(name, 0700));
       t.See(rmdir(kOther.data()));
     }},
    {"rmdir",
     [](Trial& t) {
       Require(mkdir(kOther.data(), 0700) == 0, "mkdir");
       const char* const name = t.Text(kOther);
       t.Ready();
       t.Returned(rmdir(name));
       t.See(rmdir(kOther.data()));
     }},
    {"chdir",
     [](Trial& t) {
       const char* const name = t.Text("../.");
       const File here(open(".", O_RDONLY));
       t.Ready();
       t.Returned(chdir(name));
       Require(fchdir(here) == 0, "fchdir");
     }},
    {"mknod",
     [](Trial& t) {
       const char* const name = t.Text(kOther);
       t.Ready();
       t.Returned(syscall(SYS_mknod, name, S_IFIFO | 0600, 0));
       t.See(unlink(kOther.data()));
     }},
    {"access", [](Trial& t) { OnFile(t, [](const char* name) { return access(name, R_OK); }); }},
    {"faccessat2",
     [](Trial& t) {
       OnFile(t, [](const char* name) { return syscall(SYS_faccessat2, AT_FDCWD, name, W_OK, 0); });
     }},
    {"chmod", [](Trial& t) { OnFile(t, [](const char* name) { return chmod(name, 0600); }); }},
    {"chown",
     [](Trial& t) { OnFile(t, [](const char* name) { return chown(name, getuid(), getgid()); }); }},
    {"truncate", [](Trial& t) { OnFile(t, [](const char* name) { return truncate(name, 99); }); }},
    {"utimensat", SetTimes},
    {"stat",
     [](Trial& t) {
       Status(t, [](const char* name, struct stat* to) { return syscall(SYS_stat, name, to); });
     }},
    {"lstat",
     [](Trial& t) {
       Status(t, [](const char* name, struct stat* to) { return syscall(SYS_lstat, name, to); });
     }},
    {"newfstatat",
     [](Trial& t) {
       Status(t, [](const char* name, struct stat* to) {
         return syscall(SYS_newfstatat, AT_FDCWD, name, to, 0);
       });
     }},
    {"fstat",
     [](Trial& t) {
       const File file(open(kPatternFile, O_RDONLY));
       auto* const status = t.Ignored(t.Out<struct stat>());
       t.Ready();
       t.Returned(syscall(SYS_fstat, static_cast<int>(file), status));
       SeeStatus(t, status);
     }},
    {"statx", ExtendedStatus},
    {"statfs", FileSystem},
    {"readlink", ReadLink},
    {"extended attributes", Attributes},
    {"name_to_handle_at", Handle},
    {"getcwd", CurrentFolder},
    {"uname",
     [](Trial& t) {
       auto* const to = t.Out<utsname>();
       t.Ready();
       t.Returned(uname(to));
     }},
    {"sysinfo", System},
};

}  // namespace

std::span<const Row> NameRows() { return kRows; }

}  // namespace system_calls
