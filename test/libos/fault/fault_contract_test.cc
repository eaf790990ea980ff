// SPDX-License-Identifier: Apache-2.0
// The contract of FaultBackend, run over every backend (fault_rig.h lists them)
// with the best calls of this kernel and with the oldest.
#include <fcntl.h>

#include <catch2/catch.hpp>
#include <cerrno>

#include "libos/base/fd.h"
#include "test/libos/fault/fault_rig.h"

namespace spiritos {
namespace {

TEST_CASE("filled pages have their bytes and their neighbours stay absent", "[fault][uffd]") {
  const auto rig = MakeFaultRig(8);
  if (rig == nullptr) return;
  std::vector<uint64_t> words;
  for (uint64_t i = 0; i < 3 * kPageSize / 8; ++i) words.push_back(i + 1);
  const MapOutcome outcome = rig->backend->Fill(
      rig->page(2), 3, reinterpret_cast<const std::byte*>(words.data()), FillMode::kWritable);
  CHECK(outcome.result == MapResult::kOk);
  CHECK(rig->PresentAre(8, {2, 3, 4}));
  CHECK(std::memcmp(rig->page(2).address(), words.data(), 3 * kPageSize) == 0);
  rig->Store(3, 77);
  CHECK(rig->Load(3) == 77);
  CHECK(rig->sink->faults == 0);
}

TEST_CASE("a touch of an absent page reaches the sink and sees what it fills", "[fault][uffd]") {
  const auto rig = MakeFaultRig(4);
  if (rig == nullptr) return;
  CHECK(rig->Load(2) == PatternOf(rig->page(2)));
  CHECK(rig->sink->faults == 1);
  CHECK(rig->sink->last_vpn == rig->page(2).raw());
  CHECK(rig->sink->last_kind == FaultKind::kMissing);
  rig->Store(1, 5);
  CHECK(rig->Load(1) == 5);
  CHECK(rig->word(1, 1).load() == PatternOf(rig->page(1)));
  CHECK(rig->sink->faults == 2);
  CHECK(rig->PresentAre(4, {1, 2}));
}

TEST_CASE("a fault that the sink only wants tried again is tried again", "[fault][uffd]") {
  const auto rig = MakeFaultRig(2);
  if (rig == nullptr) return;
  rig->sink->retries = 3;
  CHECK(rig->Load(1) == PatternOf(rig->page(1)));
  CHECK(rig->sink->faults == 4);
}

TEST_CASE("a fill stops at a page that is there and keeps its bytes", "[fault][uffd]") {
  const auto rig = MakeFaultRig(8);
  if (rig == nullptr) return;
  REQUIRE(rig->Fill(3, 1, 'a').result == MapResult::kOk);
  const MapOutcome outcome = rig->Fill(0, 6, 'b');
  CHECK(outcome.result == MapResult::kPresent);
  CHECK(outcome.done == 3);
  CHECK(outcome.error == EEXIST);
  CHECK(rig->PresentAre(8, {0, 1, 2, 3}));
  CHECK(rig->Load(0) == 'b');
  CHECK(rig->Load(2) == 'b');
  CHECK(rig->Load(3) == 'a');
  const MapOutcome again = rig->Fill(3, 2, 'c');
  CHECK(again.result == MapResult::kPresent);
  CHECK(again.done == 0);
  CHECK(rig->PresentAre(8, {0, 1, 2, 3}));
}

TEST_CASE("loads of a frozen page go on, the first store into it is seen", "[fault][uffd]") {
  const auto rig = MakeFaultRig(8);
  if (rig == nullptr) return;
  REQUIRE(rig->Fill(0, 8, 'a').result == MapResult::kOk);
  CHECK(rig->backend->Freeze(rig->run(1, 4)).result == MapResult::kOk);
  for (uint32_t i = 0; i < 8; ++i) CHECK(rig->Load(i) == 'a');
  for (const uint32_t i : {0u, 5u, 6u, 7u}) rig->Store(i, 'b');
  CHECK(rig->sink->faults == 0);
  rig->Store(2, 'c');
  CHECK(rig->sink->faults == 1);
  CHECK(rig->sink->last_vpn == rig->page(2).raw());
  CHECK(rig->sink->last_kind != FaultKind::kMissing);
  CHECK(rig->Load(2) == 'c');
  rig->Store(2, 'd');  // The sink thawed it.
  CHECK(rig->sink->faults == 1);
  rig->Store(4, 'e');  // The others are still frozen.
  CHECK(rig->sink->faults == 2);
  CHECK(rig->word(4, 1).load() == 'a');
}

TEST_CASE("thawed pages take stores without a fault, the others do not", "[fault][uffd]") {
  const auto rig = MakeFaultRig(8);
  if (rig == nullptr) return;
  REQUIRE(rig->Fill(0, 8, 'a').result == MapResult::kOk);
  REQUIRE(rig->backend->Freeze(rig->run(0, 8)).result == MapResult::kOk);
  CHECK(rig->backend->Thaw(rig->run(2, 3)).result == MapResult::kOk);
  for (uint32_t i = 2; i < 5; ++i) rig->Store(i, 'b');
  CHECK(rig->sink->faults == 0);
  rig->Store(1, 'b');
  rig->Store(5, 'b');
  CHECK(rig->sink->faults == 2);
}

TEST_CASE("freezing and thawing leave absent pages absent and to be filled", "[fault][uffd]") {
  const auto rig = MakeFaultRig(6);
  if (rig == nullptr) return;
  REQUIRE(rig->Fill(1, 1, 'a').result == MapResult::kOk);
  REQUIRE(rig->Fill(4, 1, 'a').result == MapResult::kOk);
  CHECK(rig->backend->Freeze(rig->run(0, 6)).result == MapResult::kOk);
  CHECK(rig->PresentAre(6, {1, 4}));
  CHECK(rig->Fill(2, 2, 'b').result == MapResult::kOk);
  rig->Store(2, 'c');  // It came after the freeze.
  CHECK(rig->sink->faults == 0);
  CHECK(rig->backend->Thaw(rig->run(0, 6)).result == MapResult::kOk);
  CHECK(rig->PresentAre(6, {1, 2, 3, 4}));
  rig->Store(1, 'c');
  CHECK(rig->sink->faults == 0);
  CHECK(rig->backend->Freeze(rig->run(0, 1)).result == MapResult::kOk);
}

TEST_CASE("dropped pages are absent, with the gaps in their runs; others stay", "[fault][uffd]") {
  const auto rig = MakeFaultRig(12);
  if (rig == nullptr) return;
  REQUIRE(rig->Fill(0, 3, 'a').result == MapResult::kOk);
  REQUIRE(rig->Fill(5, 7, 'a').result == MapResult::kOk);
  REQUIRE(rig->backend->Freeze(rig->run(0, 12)).result == MapResult::kOk);
  const PageRun runs[] = {rig->run(1, 6), rig->run(8, 1), rig->run(10, 1)};
  CHECK(rig->backend->Drop(runs).result == MapResult::kOk);
  CHECK(rig->PresentAre(12, {0, 7, 9, 11}));
  for (const uint32_t i : {0u, 7u, 9u, 11u}) CHECK(rig->Load(i) == 'a');
  CHECK(rig->sink->faults == 0);
  CHECK(rig->Load(1) == PatternOf(rig->page(1)));
  CHECK(rig->Load(10) == PatternOf(rig->page(10)));
  CHECK(rig->sink->faults == 2);
  rig->Store(1, 'b');  // A page that came back is not frozen.
  CHECK(rig->sink->faults == 2);
  const PageRun one[] = {rig->run(0, 12)};
  CHECK(rig->backend->Drop(one).result == MapResult::kOk);
  CHECK(rig->PresentAre(12, {}));
}

TEST_CASE("more runs than one kernel call takes are all dropped", "[fault][uffd]") {
  const auto rig = MakeFaultRig(2500);
  if (rig == nullptr) return;
  REQUIRE(rig->Fill(0, 2500, 'a').result == MapResult::kOk);
  std::vector<PageRun> runs;
  for (uint32_t i = 0; i < 2500; i += 2) runs.push_back(rig->run(i, 1));
  CHECK(rig->backend->Drop(runs).result == MapResult::kOk);
  uint32_t wrong = 0;
  for (uint32_t i = 0; i < 2500; ++i) wrong += rig->backend->Present(rig->page(i)) != (i % 2 == 1);
  CHECK(wrong == 0);
  CHECK(rig->Metered(Metric::kDropRuns) == runs.size());
  CHECK(rig->backend->Drop({}).result == MapResult::kOk);
}

TEST_CASE("calls may span mappings that a protection change has split", "[fault][uffd]") {
  const int protection = GENERATE(PROT_READ, PROT_NONE);
  const auto rig = MakeFaultRig(9);
  if (rig == nullptr) return;
  CAPTURE(protection);
  REQUIRE(mprotect(rig->page(4).address(), kPageSize, protection) == 0);
  REQUIRE(mprotect(rig->page(7).address(), kPageSize, protection) == 0);
  CHECK(rig->Fill(1, 7, 'a').result == MapResult::kOk);
  CHECK(rig->PresentAre(9, {1, 2, 3, 4, 5, 6, 7}));
  const MapOutcome present = rig->Fill(0, 9, 'b');
  CHECK(present.result == MapResult::kPresent);
  CHECK(present.done == 1);
  CHECK(rig->backend->Freeze(rig->run(0, 9)).result == MapResult::kOk);
  rig->Store(2, 'c');
  rig->Store(8, 'c');
  CHECK(rig->sink->faults == 2);
  CHECK(rig->backend->Thaw(rig->run(0, 9)).result == MapResult::kOk);
  rig->Store(5, 'd');
  CHECK(rig->sink->faults == 2);
  const PageRun runs[] = {rig->run(0, 6), rig->run(7, 2)};
  CHECK(rig->backend->Drop(runs).result == MapResult::kOk);
  CHECK(rig->PresentAre(9, {6}));
}

TEST_CASE("a range that is not mapped any more is gone to every call", "[fault][uffd]") {
  const auto rig = MakeFaultRig(8);
  if (rig == nullptr) return;
  REQUIRE(rig->Fill(0, 2, 'a').result == MapResult::kOk);
  REQUIRE(munmap(rig->page(4).address(), 4 * kPageSize) == 0);
  CHECK(rig->Fill(5, 1, 'a').result == MapResult::kGone);
  CHECK(rig->Fill(4, 4, 'a').result == MapResult::kGone);
  CHECK(rig->backend->Freeze(rig->run(4, 4)).result == MapResult::kGone);
  CHECK(rig->backend->Thaw(rig->run(6, 1)).result == MapResult::kGone);
  CHECK_FALSE(rig->backend->Present(rig->page(5)));
  const PageRun gone[] = {rig->run(4, 4)};
  CHECK(rig->backend->Drop(gone).result == MapResult::kGone);

  // Calls that begin in what is there get as far as it goes.
  const MapOutcome filled = rig->Fill(2, 5, 'b');
  CHECK(filled.result == MapResult::kGone);
  CHECK(filled.done == 2);
  CHECK(rig->PresentAre(4, {0, 1, 2, 3}));
  const PageRun runs[] = {rig->run(0, 1), rig->run(2, 1), rig->run(6, 1)};
  const MapOutcome dropped = rig->backend->Drop(runs);
  CHECK(dropped.result == MapResult::kGone);
  CHECK(dropped.done == 2);
  CHECK(rig->PresentAre(4, {1, 3}));
  // So that the rig finds what it unmaps.
  REQUIRE(mmap(rig->page(4).address(), 4 * kPageSize, PROT_READ | PROT_WRITE,
               MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED);
}

TEST_CASE("an uncovered range is ordinary memory again, frozen pages too", "[fault][uffd]") {
  const auto rig = MakeFaultRig(6);
  if (rig == nullptr) return;
  REQUIRE(rig->Fill(0, 3, 'a').result == MapResult::kOk);
  REQUIRE(rig->backend->Freeze(rig->run(0, 3)).result == MapResult::kOk);
  rig->Uncover();
  rig->Store(0, 'b');
  CHECK(rig->Load(0) == 'b');
  CHECK(rig->Load(1) == 'a');
  CHECK(rig->Load(5) == 0);
  CHECK(rig->sink->faults == 0);
  CHECK(rig->Fill(4, 1, 'a').result == MapResult::kGone);
  CHECK(rig->backend->Freeze(rig->run(0, 3)).result == MapResult::kGone);
}

TEST_CASE("a part of a range may be uncovered, the rest stays covered", "[fault][uffd]") {
  const auto rig = MakeFaultRig(6);
  if (rig == nullptr) return;
  rig->backend->Uncover({rig->page(2).address(), BytesOf(2_pages)});
  CHECK(rig->Load(2) == 0);
  CHECK(rig->Load(3) == 0);
  CHECK(rig->sink->faults == 0);
  CHECK(rig->Load(1) == PatternOf(rig->page(1)));
  CHECK(rig->Load(4) == PatternOf(rig->page(4)));
  CHECK(rig->sink->faults == 2);
  REQUIRE(rig->backend->Cover({rig->page(2).address(), BytesOf(2_pages)}).ok());
}

TEST_CASE("memory that cannot be covered is refused by name and left alone", "[fault][uffd]") {
  const auto rig = MakeFaultRig(2);
  if (rig == nullptr) return;
  // A private mapping of a file that is not in memory: never userfaultfd's.
  const UniqueFd file(open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
  REQUIRE(file.valid());
  void* const page = mmap(nullptr, kPageSize, PROT_READ, MAP_PRIVATE, file.get(), 0);
  REQUIRE(page != MAP_FAILED);
  Mapping nothing = Mapping::Anonymous(Bytes(kPageSize), kPageSize, "test").value();
  const AddressRange unmapped = nothing.Release();
  REQUIRE(munmap(unmapped.begin, kPageSize) == 0);
  for (const AddressRange range :
       {AddressRange{static_cast<std::byte*>(page), Bytes(kPageSize)}, unmapped}) {
    const absl::Status status = rig->backend->Cover(range);
    INFO(status.ToString());
    CHECK_FALSE(status.ok());
    CHECK(status.ToString().find("UFFDIO_REGISTER of 4096 bytes") != std::string::npos);
  }
  CHECK(std::memcmp(page, "\177ELF", 4) == 0);
  CHECK(rig->sink->faults == 0);
  munmap(page, kPageSize);
}

TEST_CASE("two backends of one process serve their own ranges", "[fault][uffd]") {
  const auto rig = MakeFaultRig(4);
  if (rig == nullptr || !ProbedKernel().sigbus_mode.ok()) return;
  {
    const FaultRig other(kFaultCandidates[0], ProbedKernel(), 4);
    CHECK(other.Load(1) == PatternOf(other.page(1)));
    CHECK(rig->Load(2) == PatternOf(rig->page(2)));
    CHECK(other.sink->faults == 1);
    CHECK(rig->sink->faults == 1);
    CHECK(other.Fill(2, 1, 'a').result == MapResult::kOk);
    CHECK_FALSE(rig->backend->Present(rig->page(1)));
  }
  CHECK(rig->Load(3) == PatternOf(rig->page(3)));
}

TEST_CASE("where faults are served is as the caps say", "[fault][uffd]") {
  const auto rig = MakeFaultRig(2);
  if (rig == nullptr) return;
  CHECK(rig->Load(0) == PatternOf(rig->page(0)));
  const bool here = rig->sink->last_thread == static_cast<pid_t>(syscall(SYS_gettid));
  CHECK(here == rig->backend->caps().in_thread);
}

TEST_CASE("system calls on absent and frozen pages do as the caps say", "[fault][uffd]") {
  const auto rig = MakeFaultRig(4);
  if (rig == nullptr) return;
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  const UniqueFd out(ends[0]);
  const UniqueFd in(ends[1]);
  REQUIRE(rig->Fill(1, 1, 'a').result == MapResult::kOk);
  REQUIRE(rig->backend->Freeze(rig->run(1, 1)).result == MapResult::kOk);
  const bool served = rig->backend->caps().kernel_faults;
  const auto into = [&](uint32_t page) {
    REQUIRE(write(in.get(), "12345678", 8) == 8);
    errno = 0;
    const ssize_t n = read(out.get(), rig->page(page).address(), 8);
    if (n == 8) return true;
    CHECK(n == -1);
    CHECK(errno == EFAULT);
    char rest[8];
    REQUIRE(read(out.get(), rest, 8) == 8);  // A pipe keeps what it could not deliver.
    return false;
  };
  CHECK(into(0) == served);
  CHECK(into(1) == served);
  CHECK((write(in.get(), rig->page(2).address(), 8) == 8) == served);
  CHECK(rig->sink->faults == (served ? 3 : 0));
  if (served) CHECK(std::memcmp(rig->page(1).address(), "12345678", 8) == 0);
}

TEST_CASE("the caps repeat what was probed", "[fault][uffd]") {
  const auto rig = MakeFaultRig(30);
  if (rig == nullptr) return;
  const FaultCaps& caps = rig->backend->caps();
  CHECK(caps.shootdown_ns == ProbedKernel().shootdown_ns);
  CHECK(caps.wakeup_ns == ProbedKernel().wakeup_ns);
  CHECK(caps.fill_ns == ProbedKernel().fill_ns);
  CHECK_FALSE(caps.dirty_bits);
  CHECK_FALSE(caps.accessed_bits);
  CHECK((!caps.move || ProbedKernel().uffd_move));
  CHECK((!caps.batched_zap || ProbedKernel().process_madvise_self));
  REQUIRE(rig->Fill(0, 30, 'a').result == MapResult::kOk);
  std::vector<PageRun> runs;
  for (uint32_t i = 0; i < 30; i += 3) runs.push_back(rig->run(i, 2));
  REQUIRE(rig->backend->Drop(runs).result == MapResult::kOk);
  CHECK(rig->Metered(Metric::kDrops) == (caps.batched_zap ? 1 : runs.size()));
}

TEST_CASE("calls leave errno as it was", "[fault][uffd]") {
  const auto rig = MakeFaultRig(4);
  if (rig == nullptr) return;
  errno = 77;
  static_cast<void>(rig->Fill(0, 2, 'a'));
  static_cast<void>(rig->Fill(0, 2, 'a'));
  static_cast<void>(rig->backend->Freeze(rig->run(0, 4)));
  static_cast<void>(rig->backend->Thaw(rig->run(0, 4)));
  const PageRun runs[] = {rig->run(0, 1), rig->run(2, 1)};
  static_cast<void>(rig->backend->Drop(runs));
  static_cast<void>(rig->backend->Present(Vpn(1)));
  rig->backend->Wake(rig->page(3));
  static_cast<void>(rig->Load(3));
  CHECK(errno == 77);
}

}  // namespace
}  // namespace spiritos
