// Runs kernels on the CPU: one fiber per work-item, switched at wave operations and barriers.
//
// A launch runs its blocks one after the other in a seeded random order, and the waves of a block
// in a random order between barriers. It ends the program, naming the kernel and the work-item,
// when lanes of a wave meet in different operations, when a lane has left before one, or when a
// barrier is not reached by all. LDS is poisoned before every block. Built with -DCHECKED (and
// -fsanitize=thread, whose hooks harness.cpp answers itself), every access is looked at: outside
// live device memory, LDS or the own stack it is a fault, and so is LDS, or memory that another
// block wrote, used without a barrier in between.
#pragma once
#include <cstddef>
#include <cstring>
#include <tuple>
#include <utility>

namespace harness {

typedef unsigned int u32;
typedef unsigned long long u64;

// The work-item that runs.
struct Now {
  u32 tid = 0;
  u32 block[3] = {0, 0, 0};
};
extern Now now;

// Convergent, as on a device: the compiler must not copy a call into two branches, where lanes that
// came by either would seem to meet at different places.
__attribute__((convergent)) void barrier(u64 site);
// All lanes of the wave come here.
__attribute__((convergent)) void meet(u64 site);
__attribute__((convergent)) u32 shuffle(u32 v, u32 from, u32 wave, u64 site);
// Of the running wave.
void* wave_scratch(size_t bytes, u32 wave);
[[noreturn]] void fail(const char* what);
// Whether the device that is played is an MI200, whose matrix instructions take subnormal operands for zero and
// give zero for subnormal results. Those of MI300 and RDNA3 do not.
bool flushes_subnormals();

// A kernel as the harness calls it: arguments in one buffer, each aligned to its size.
struct Kernel {
  const char* name;
  u32 wave;
  u32 threads;
  size_t arg_bytes;
  void (*call)(void (*kernel)(), const char* args);
  void (*kernel)();
  // The LDS arrays of its file.
  char *lds, *lds_end;
  Kernel* next;
};
extern Kernel* kernels;

template <class... A>
struct Arguments {
  static constexpr size_t offset(size_t index) {
    size_t sizes[] = {sizeof(A)..., 0}, at = 0;
    for (size_t i = 0;; i++) {
      if (i < sizeof...(A)) at = (at + sizes[i] - 1) / sizes[i] * sizes[i];
      if (i == index) return at;
      at += sizes[i];
    }
  }
  template <class T>
  static T read(const char* args, size_t at) {
    T value;
    memcpy(&value, args + at, sizeof value);
    return value;
  }
  template <size_t... I>
  static void spread(void (*kernel)(A...), const char* args, std::index_sequence<I...>) {
    kernel(read<A>(args, offset(I))...);
  }
  static void call(void (*kernel)(), const char* args) {
    spread((void (*)(A...))kernel, args, std::make_index_sequence<sizeof...(A)>{});
  }
};

struct Registered {
  Kernel kernel;
  template <class... A>
  Registered(const char* name, u32 wave, u32 threads, void (*function)(A...), char* lds, char* lds_end)
      : kernel{name, wave, threads, Arguments<A...>::offset(sizeof...(A)), Arguments<A...>::call,
               (void (*)())function, lds, lds_end, kernels} {
    kernels = &kernel;
  }
};

// Blocks until the launch is done.
void launch(const Kernel& kernel, const u32 grid[3], const char* args, u64 seed);

// Device memory, for checked builds.
void memory_added(const void* start, size_t bytes);
void memory_removed(const void* start);
// Memory that was never written reads as this.
constexpr unsigned char POISON = 0xfb;

}  // namespace harness
