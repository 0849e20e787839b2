// See harness.h. x86-64 only: a switch between fibers saves the six callee-saved registers.
#include "harness.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <random>
#include <sys/mman.h>
#include <vector>

extern "C" void harness_switch(void** save, void* load);
asm(".globl harness_switch\n"
    "harness_switch:\n"
    " push %rbp\n push %rbx\n push %r12\n push %r13\n push %r14\n push %r15\n"
    " mov %rsp,(%rdi)\n mov %rsi,%rsp\n"
    " pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbx\n pop %rbp\n ret\n");

namespace harness {

Now now;
Kernel* kernels = nullptr;

namespace {

constexpr u32 THREADS_MAX = 1024;
constexpr size_t STACK_BYTES = 128 << 10;
constexpr size_t SCRATCH_BYTES = 8 << 10;

enum class State { Ready, Meeting, AtBarrier, Done };

struct Fiber {
  void* stack_pointer;
  State state;
  u64 site;
  // Wave operations so far: lanes must meet in the same one, not only at the same place.
  u64 met;
};

struct Block {
  Fiber fibers[THREADS_MAX];
  char* stacks = nullptr;
  void* scheduler = nullptr;
  const Kernel* kernel = nullptr;
  const char* args = nullptr;
  u32 threads = 0;
  alignas(64) u32 shown[THREADS_MAX];
  alignas(64) char scratch[THREADS_MAX / 32][SCRATCH_BYTES];
};
Block run;

[[noreturn]] void fail_at(u32 tid, const char* what) {
  fprintf(stderr, "kernel %s, block (%u, %u, %u), work-item %u of waves of %u: %s\n", run.kernel->name, now.block[0],
          now.block[1], now.block[2], tid, run.kernel->wave, what);
  abort();
}

void stop(State state, u64 site) {
  Fiber& fiber = run.fibers[now.tid];
  fiber.state = state;
  fiber.site = site;
  fiber.met++;
  harness_switch(&fiber.stack_pointer, run.scheduler);
}

extern "C" void harness_entry() {
  run.kernel->call(run.kernel->kernel, run.args);
  stop(State::Done, 0);
  abort();
}

void prepare(Fiber& fiber, char* stack) {
  // As harness_switch left it: six registers, then where to return to; aligned as after a call.
  u64* top = (u64*)(stack + STACK_BYTES) - 2;
  *top = (u64)&harness_entry;
  top -= 6;
  memset(top, 0, 48);
  fiber = {top, State::Ready, 0, 0};
}

// Lets a wave run until each of its lanes is at a barrier or done.
void run_wave(u32 first, u32 wave) {
  for (;;) {
    for (u32 t = first; t < first + wave; t++) {
      Fiber& fiber = run.fibers[t];
      if (fiber.state == State::AtBarrier || fiber.state == State::Done) continue;
      now.tid = t;
      harness_switch(&run.scheduler, fiber.stack_pointer);
    }
    const Fiber* meeting = nullptr;
    for (u32 t = first; t < first + wave; t++)
      if (run.fibers[t].state == State::Meeting) meeting = &run.fibers[t];
    if (!meeting) return;
    for (u32 t = first; t < first + wave; t++) {
      const Fiber& fiber = run.fibers[t];
      if (fiber.state != State::Meeting) fail_at(t, "left, or waits at a barrier, while its wave is in a wave operation");
      if (fiber.site != meeting->site || fiber.met != meeting->met) fail_at(t, "its wave diverges: lanes are in different wave operations");
    }
  }
}

void checks_begin_launch();
void checks_begin_block(u32 number);
void checks_barrier();

void run_block(std::mt19937_64& random, u32 number) {
  const u32 wave = run.kernel->wave, waves = run.threads / wave;
  if (run.kernel->lds) memset(run.kernel->lds, POISON, run.kernel->lds_end - run.kernel->lds);
  checks_begin_block(number);
  for (u32 t = 0; t < run.threads; t++) prepare(run.fibers[t], run.stacks + t * STACK_BYTES);
  std::vector<u32> order(waves);
  for (u32 i = 0; i < waves; i++) order[i] = i;
  for (;;) {
    std::shuffle(order.begin(), order.end(), random);
    for (u32 w : order) run_wave(w * wave, wave);
    u32 waiting = 0;
    for (u32 t = 0; t < run.threads; t++) waiting += run.fibers[t].state == State::AtBarrier;
    if (waiting == 0) return;
    for (u32 t = 0; t < run.threads; t++) {
      Fiber& fiber = run.fibers[t];
      if (fiber.state != State::AtBarrier) fail_at(t, "left before a barrier that others wait at");
      if (fiber.site != run.fibers[0].site) fail_at(t, "waits at another barrier than work-item 0");
      fiber.state = State::Ready;
    }
    checks_barrier();
  }
}

}  // namespace

void fail(const char* what) { fail_at(now.tid, what); }
void barrier(u64 site) { stop(State::AtBarrier, site); }
void meet(u64 site) { stop(State::Meeting, site); }

u32 shuffle(u32 v, u32 from, u32 wave, u64 site) {
  u32 first = now.tid / wave * wave;
  run.shown[now.tid] = v;
  meet(site);
  u32 got = run.shown[first + from];
  meet(site + 1);
  return got;
}

void* wave_scratch(size_t bytes, u32 wave) {
  if (bytes > SCRATCH_BYTES) fail("operands too large for the harness");
  return run.scratch[now.tid / wave];
}

void launch(const Kernel& kernel, const u32 grid[3], const char* args, u64 seed) {
  if (!run.stacks) {
    void* stacks = mmap(nullptr, THREADS_MAX * STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stacks == MAP_FAILED) abort();
    run.stacks = (char*)stacks;
  }
  run.kernel = &kernel;
  run.args = args;
  run.threads = kernel.threads;
  std::mt19937_64 random(seed);
  u64 blocks = (u64)grid[0] * grid[1] * grid[2];
  std::vector<u32> order(blocks);
  for (u64 i = 0; i < blocks; i++) order[i] = (u32)i;
  std::shuffle(order.begin(), order.end(), random);
  checks_begin_launch();
  for (u32 number : order) {
    now.block[0] = number % grid[0];
    now.block[1] = number / grid[0] % grid[1];
    now.block[2] = number / grid[0] / grid[1];
    run_block(random, number);
  }
}

#ifndef CHECKED
namespace {
void checks_begin_launch() {}
void checks_begin_block(u32) {}
void checks_barrier() {}
}  // namespace
void memory_added(const void*, size_t) {}
void memory_removed(const void*) {}
#else
// Shadow memory: one cell for each byte of LDS and each aligned 2 bytes of device memory.
namespace {

struct LdsCell {
  // Of the last write and read: barriers passed, and the wave.
  u32 write_epoch, read_epoch;
  unsigned char write_wave, read_wave;
  bool read_by_more;
};
struct Memory {
  size_t bytes;
  // Launch and block of the last write, for each two bytes; launch in the high half.
  std::vector<u64> written;
};
std::map<u64, Memory>& memories = *new std::map<u64, Memory>;
std::vector<LdsCell> lds;
u32 epoch = 1;
u64 launch_number = 0, block_number = 0;

void checks_begin_launch() { launch_number++; }
void checks_begin_block(u32 number) {
  block_number = number;
  epoch += 2;
  lds.assign(run.kernel->lds_end - run.kernel->lds, LdsCell{});
}
void checks_barrier() { epoch++; }

void fault(const char* what, u64 address, size_t bytes) {
  char text[160];
  snprintf(text, sizeof text, "%s: %zu bytes at %#llx", what, bytes, address);
  fail(text);
}

void access_lds(u64 at, size_t bytes, bool write) {
  unsigned char wave = now.tid / run.kernel->wave;
  for (size_t i = at - (u64)run.kernel->lds, end = i + bytes; i < end; i++) {
    LdsCell& cell = lds[i];
    bool written_now = cell.write_epoch == epoch, read_now = cell.read_epoch == epoch;
    if (!write && cell.write_epoch == 0) fault("LDS is read that was never written", at, bytes);
    if (written_now && cell.write_wave != wave) fault("LDS race: another wave wrote this since the last barrier", at, bytes);
    if (write && read_now && (cell.read_by_more || cell.read_wave != wave)) fault("LDS race: another wave read this since the last barrier", at, bytes);
    if (write) {
      cell.write_epoch = epoch;
      cell.write_wave = wave;
    } else {
      cell.read_by_more = read_now && (cell.read_by_more || cell.read_wave != wave);
      cell.read_epoch = epoch;
      cell.read_wave = wave;
    }
  }
}

bool within(const void* pointer, const void* start, size_t bytes) { return (u64)pointer - (u64)start < bytes; }

void access(const void* pointer, size_t bytes, bool write) {
  // Before the first launch kernels are registered. Then there is the harness's own memory, through
  // its inlined functions, and the arguments.
  if (!run.kernel || within(pointer, run.args, run.kernel->arg_bytes) || within(pointer, &now, sizeof now) || within(pointer, &run, sizeof run)) return;
  u64 at = (u64)pointer, stack = (u64)(run.stacks + now.tid * STACK_BYTES);
  if (at >= stack && at + bytes <= stack + STACK_BYTES) return;
  if (run.kernel->lds && at >= (u64)run.kernel->lds && at + bytes <= (u64)run.kernel->lds_end) return access_lds(at, bytes, write);
  auto after = memories.upper_bound(at);
  if (after != memories.begin()) {
    auto& [start, memory] = *std::prev(after);
    if (at + bytes <= start + memory.bytes) {
      u64 mark = launch_number << 32 | block_number;
      for (size_t i = (at - start) / 2; i <= (at - start + bytes - 1) / 2; i++) {
        u64 other = memory.written[i];
        if (other != mark && other >> 32 == launch_number)
          fault(write ? "written by two blocks of a launch" : "another block of this launch wrote this", at, bytes);
        if (write) memory.written[i] = mark;
      }
      return;
    }
  }
  fault(write ? "write outside device memory" : "read outside device memory", at, bytes);
}

}  // namespace

void memory_added(const void* start, size_t bytes) {
  memories[(u64)start] = {bytes, std::vector<u64>((bytes + 1) / 2)};
}
void memory_removed(const void* start) { memories.erase((u64)start); }

#define HOOKS(n)                                                                    \
  extern "C" void __tsan_read##n(void* p) { access(p, n, false); }                  \
  extern "C" void __tsan_write##n(void* p) { access(p, n, true); }                  \
  extern "C" void __tsan_unaligned_read##n(void* p) { access(p, n, false); }        \
  extern "C" void __tsan_unaligned_write##n(void* p) { access(p, n, true); }
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)
extern "C" void __tsan_init() {}
extern "C" void __tsan_func_entry(void*) {}
extern "C" void __tsan_func_exit() {}
extern "C" void __tsan_vptr_update(void**, void*) {}
extern "C" void __tsan_vptr_read(void**) {}
extern "C" void* __tsan_memcpy(void* to, const void* from, size_t n) {
  access(from, n, false);
  access(to, n, true);
  return memcpy(to, from, n);
}
extern "C" void* __tsan_memset(void* to, int value, size_t n) {
  access(to, n, true);
  return memset(to, value, n);
}
#endif

}  // namespace harness
