// A libamdhip64.so for machines without a GPU: the entries that src/backend/hip uses, with kernels
// run by the harness. It is stricter than the real one, so that what passes here was not luck:
//
// - A module must be the shipped object for the device's architecture; its own notes say which
//   kernels exist, how long their arguments are, how much LDS and how many work-items they take.
// - Device memory is inaccessible to host code outside of the library's own work.
// - A stream does nothing until somebody waits; then operations of all streams run in a random
//   order that events allow. Pinned memory is read then, not at the call.
// - Asynchronous copies take pinned host memory only.
// - A graph keeps the arguments of its launches as they were at capture.
// - Memory, and every argument it does not understand, is checked; the last error sticks when the
//   device is lost.
//
// Environment: NOVASTACK_HIP_HOST_ARCH (gfx90a, whose matrix instructions flush subnormals), _DEVICES (1), _MEMORY (bytes, 1 GiB), _SEED,
// _FAULT = malloc:N | launch:N | sync:N | blas:N: the N-th call fails (launch, sync: and loses the device);
// hang:N: the N-th sync never comes back. capture:N: the N-th recording cannot be had. KERNEL:N: the N-th launch of
// the kernel of that name fails as launch:N does.
#include "driver.h"
#include "harness.h"
#include "notes.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <sys/mman.h>
#include <thread>
#include <unistd.h>
#include <vector>

// Never destroyed: a thread may still free memory while the program leaves.
std::recursive_mutex& big_lock = *new std::recursive_mutex;
std::vector<Device>& devices = *new std::vector<Device>;
thread_local int current = 0;
std::set<Stream*>& streams = *new std::set<Stream*>;
bool waiting_for_ranks = false;

Error report(Error error, const char* call, const std::string& why) {
  fprintf(stderr, "hip_host: %s: %s\n", call, why.c_str());
  return error;
}

void enqueue(Stream* stream, std::function<bool()> run) {
  if (stream->capture) stream->capture->operations.push_back({std::move(run)});
  else stream->queue.push_back({std::move(run)});
}

Error lost() { return devices.empty() ? NoDevice : devices[current].lost ? LaunchFailure : Success; }

namespace {

constexpr size_t ARENA_BYTES = (size_t)64 << 30;
constexpr size_t PAGE = 4096;
constexpr size_t LDS_BYTES_MAX = 64 << 10;

const char* setting(const char* name, const char* otherwise) {
  std::string full = std::string("NOVASTACK_HIP_HOST_") + name;
  const char* value = getenv(full.c_str());
  return value && *value ? value : otherwise;
}
std::mt19937_64 chance(strtoull(setting("SEED", "1"), nullptr, 10));

struct Event {
  u64 recorded = 0, reached = 0;
};
struct Module {
  int device;
  ObjectNotes notes;
  std::set<std::string> names;
};
struct Function {
  Module* module;
  KernelNote note;
  const harness::Kernel* kernel;
};
struct Allocation {
  size_t bytes;
  int device;
};
char* arena = nullptr;
size_t arena_used = 0;
std::map<u64, Allocation>& allocations = *new std::map<u64, Allocation>;
std::map<u64, size_t>& pinned = *new std::map<u64, size_t>;
auto& functions = *new std::map<std::pair<Module*, std::string>, std::unique_ptr<Function>>;

u32 architecture_wave() { return !strncmp(setting("ARCH", "gfx90a"), "gfx9", 4) ? 64 : 32; }

// Device memory can be touched while one of these lives; the pages between allocations never.
struct Open {
  static int depth;
  Open() {
    if (depth++ == 0) protect(PROT_READ | PROT_WRITE);
  }
  ~Open() {
    if (--depth == 0) protect(PROT_NONE);
  }
  static void protect(int access) {
    for (auto& [start, allocation] : allocations) {
      u64 first = start / PAGE * PAGE;
      mprotect((void*)first, start + allocation.bytes - first, access);
    }
  }
};
int Open::depth = 0;

bool is_pinned(const void* p, size_t bytes) {
  auto after = pinned.upper_bound((u64)p);
  if (after == pinned.begin()) return false;
  auto& [start, size] = *std::prev(after);
  return (u64)p + bytes <= start + size;
}

// Runs operations of all streams, in a random order that their events allow, until `done`.
Error run_until(const std::function<bool()>& done) {
  Open open;
  unsigned waits = 0;
  while (!done()) {
    waiting_for_ranks = false;
    std::vector<Stream*> ready;
    for (Stream* stream : streams)
      if (!stream->queue.empty()) ready.push_back(stream);
    bool moved = false;
    std::shuffle(ready.begin(), ready.end(), chance);
    for (Stream* stream : ready) {
      if (!stream->queue.front().run()) continue;
      stream->queue.pop_front();
      moved = true;
      break;
    }
    if (moved) {
      waits = 0;
    } else if (waiting_for_ranks && ++waits < 600000) {
      big_lock.unlock();
      std::this_thread::sleep_for(std::chrono::microseconds(100));
      big_lock.lock();
    } else return report(NotReady, "a wait", "nothing can run: an event is waited for that nobody records");
  }
  return Success;
}

}  // namespace

bool on_device(const void* p, size_t bytes) {
  auto after = allocations.upper_bound((u64)p);
  if (after == allocations.begin()) return false;
  auto& [start, allocation] = *std::prev(after);
  return (u64)p + bytes <= start + allocation.bytes;
}
bool harness::flushes_subnormals() {
  static const bool flushes = !strcmp(setting("ARCH", "gfx90a"), "gfx90a");
  return flushes;
}
// Counts calls of a kind down to the one that is to fail.
bool fault(const char* kind) {
  static std::map<std::string, u64> calls;
  std::string wanted = setting("FAULT", "");
  size_t colon = wanted.find(':');
  if (colon == std::string::npos || wanted.substr(0, colon) != kind) return false;
  return ++calls[kind] == strtoull(wanted.c_str() + colon + 1, nullptr, 10);
}

ENTRY(hipInit, u32)
  if (arena) return Success;
  devices.assign(strtoul(setting("DEVICES", "1"), nullptr, 10), {strtoull(setting("MEMORY", "1073741824"), nullptr, 10)});
  arena = (char*)mmap(nullptr, ARENA_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return devices.empty() ? NoDevice : Success;
}
ENTRY(hipDriverGetVersion, int* version)
  *version = 50200000;
  return Success;
}
ENTRY(hipGetDeviceCount, int* count)
  hipInit(0);
  *count = (int)devices.size();
  return devices.empty() ? NoDevice : Success;
}
ENTRY(hipSetDevice, int device)
  NEED(device >= 0 && device < (int)devices.size(), InvalidDevice, "no such device");
  current = device;
  return lost();
}
ENTRY(hipDeviceGetName, char* name, int bytes, int device)
  NEED(device >= 0 && device < (int)devices.size(), InvalidDevice, "no such device");
  snprintf(name, bytes, "NovaStack test device");
  return Success;
}
ENTRY(hipDeviceGetAttribute, int* value, int attribute, int device)
  NEED(device >= 0 && device < (int)devices.size(), InvalidDevice, "no such device");
  switch (attribute) {
    case 63: *value = 4; return Success;                         // multiprocessors
    case 87: *value = (int)architecture_wave(); return Success;  // wave size
  }
  return report(InvalidValue, __func__, "an attribute that is not known here");
}
// The real structure differs between versions; callers may only look for the architecture's name.
ENTRY(hipGetDevicePropertiesR0600, char* properties, int device)
  NEED(device >= 0 && device < (int)devices.size(), InvalidDevice, "no such device");
  memset(properties, 0, 1472);
  snprintf(properties + 1160, 256, "%s:sramecc+:xnack-", setting("ARCH", "gfx90a"));
  return Success;
}
ENTRY(hipMemGetInfo, size_t* free, size_t* total)
  ALIVE();
  *total = devices[current].memory;
  *free = *total - devices[current].used;
  return Success;
}
extern "C" const char* hipGetErrorString(int error) {
  switch (error) {
    case Success: return "no error";
    case OutOfMemory: return "out of memory";
    case NoDevice: return "no ROCm-capable device is detected";
    case NoBinaryForGpu: return "no kernel image is available for execution on the device";
    case LaunchFailure: return "unspecified launch failure";
    default: return "an error of the test library";
  }
}

ENTRY(hipMalloc, void** pointer, size_t bytes)
  ALIVE();
  NEED(bytes > 0, InvalidValue, "of nothing");
  Device& device = devices[current];
  if (fault("malloc") || device.used + bytes > device.memory) return OutOfMemory;
  // Ends at a page's end but for the 16 bytes that loads are aligned to; a page lies between.
  size_t rounded = (bytes + PAGE - 1) / PAGE * PAGE, slack = (rounded - bytes) / 16 * 16;
  NEED(arena_used + rounded + PAGE <= ARENA_BYTES, OutOfMemory, "the test library's address space is used up");
  char* start = arena + arena_used;
  arena_used += rounded + PAGE;
  mprotect(start, rounded, PROT_READ | PROT_WRITE);
  memset(start, harness::POISON, rounded);
  // Another rank's thread may be at work.
  if (!Open::depth) mprotect(start, rounded, PROT_NONE);
  *pointer = start + slack;
  allocations[(u64)*pointer] = {bytes, current};
  harness::memory_added(*pointer, bytes);
  device.used += bytes;
  return Success;
}
ENTRY(hipFree, void* pointer)
  if (!pointer) return Success;
  auto found = allocations.find((u64)pointer);
  NEED(found != allocations.end(), InvalidValue, "not an allocation");
  // As the real one: waits for all that its device has to do.
  int device = found->second.device;
  run_until([=] {
    for (Stream* stream : streams)
      if (stream->device == device && !stream->queue.empty()) return false;
    return true;
  });
  // Other ranks' threads may have been at work meanwhile.
  found = allocations.find((u64)pointer);
  devices[found->second.device].used -= found->second.bytes;
  char* start = (char*)((u64)pointer / PAGE * PAGE);
  size_t rounded = (found->second.bytes + PAGE - 1) / PAGE * PAGE;
  mmap(start, rounded, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  harness::memory_removed(pointer);
  allocations.erase(found);
  return Success;
}
ENTRY(hipHostMalloc, void** pointer, size_t bytes, u32)
  ALIVE();
  *pointer = aligned_alloc(PAGE, (bytes + PAGE - 1) / PAGE * PAGE);
  if (!*pointer) return OutOfMemory;
  pinned[(u64)*pointer] = bytes;
  return Success;
}
ENTRY(hipHostFree, void* pointer)
  NEED(pinned.erase((u64)pointer) || !pointer, InvalidValue, "not pinned memory");
  free(pointer);
  return Success;
}

ENTRY(hipStreamCreateWithFlags, Stream** stream, u32 flags)
  ALIVE();
  NEED(flags <= 1, InvalidValue, "unknown flags");
  *stream = new Stream{current, {}, nullptr};
  streams.insert(*stream);
  return Success;
}
ENTRY(hipStreamSynchronize, Stream* stream)
  ALIVE();
  NEED(streams.count(stream), InvalidHandle, "not a stream");
  NEED(!stream->capture, StreamCaptureUnsupported, "the stream is being captured");
  if (fault("sync")) devices[stream->device].lost = true;
  if (fault("hang")) {
    big_lock.unlock();
    for (;;) pause();
  }
  ALIVE();
  Error error = run_until([&] { return stream->queue.empty(); });
  return error ? error : lost();
}
ENTRY(hipStreamDestroy, Stream* stream)
  NEED(streams.count(stream), InvalidHandle, "not a stream");
  run_until([&] { return stream->queue.empty(); });
  streams.erase(stream);
  delete stream;
  return Success;
}
ENTRY(hipEventCreateWithFlags, Event** event, u32)
  ALIVE();
  *event = new Event;
  return Success;
}
ENTRY(hipEventDestroy, Event* event)
  delete event;
  return Success;
}
ENTRY(hipEventRecord, Event* event, Stream* stream)
  ALIVE();
  NEED(streams.count(stream), InvalidHandle, "not a stream");
  u64 number = ++event->recorded;
  enqueue(stream, [=] { return event->reached = number, true; });
  return Success;
}
ENTRY(hipStreamWaitEvent, Stream* stream, Event* event, u32)
  ALIVE();
  NEED(streams.count(stream), InvalidHandle, "not a stream");
  u64 number = event->recorded;
  enqueue(stream, [=] { return event->reached >= number; });
  return Success;
}
ENTRY(hipEventSynchronize, Event* event)
  ALIVE();
  u64 number = event->recorded;
  Error error = run_until([=] { return event->reached >= number; });
  return error ? error : lost();
}
ENTRY(hipEventElapsedTime, float* milliseconds, Event*, Event*)
  // Nothing is timed here.
  *milliseconds = 1;
  return Success;
}

ENTRY(hipMemcpyAsync, void* to, const void* from, size_t bytes, int kind, Stream* stream)
  ALIVE();
  NEED(streams.count(stream), InvalidHandle, "not a stream");
  bool to_device = kind == 1 || kind == 3, from_device = kind == 2 || kind == 3;
  NEED(kind >= 1 && kind <= 3, InvalidValue, "kind must be host to device, device to host or device to device");
  NEED(to_device ? on_device(to, bytes) : is_pinned(to, bytes), InvalidValue, "the target is outside its memory, or not pinned");
  NEED(from_device ? on_device(from, bytes) : is_pinned(from, bytes), InvalidValue, "the source is outside its memory, or not pinned");
  enqueue(stream, [=] { return memcpy(to, from, bytes), true; });
  return Success;
}
ENTRY(hipMemsetAsync, void* to, int value, size_t bytes, Stream* stream)
  ALIVE();
  NEED(streams.count(stream), InvalidHandle, "not a stream");
  NEED(on_device(to, bytes), InvalidValue, "the target is outside of device memory");
  enqueue(stream, [=] { return memset(to, value, bytes), true; });
  return Success;
}

ENTRY(hipModuleLoadData, Module** module, const void* image)
  ALIVE();
  auto loaded = std::make_unique<Module>();
  loaded->device = current;
  NEED(read_notes(image, loaded->notes), InvalidImage, "not a code object with notes");
  if (loaded->notes.architecture != setting("ARCH", "gfx90a")) return NoBinaryForGpu;
  *module = loaded.release();
  return Success;
}
ENTRY(hipModuleUnload, Module* module)
  std::erase_if(functions, [=](auto& entry) { return entry.first.first == module; });
  delete module;
  return Success;
}
ENTRY(hipModuleGetFunction, Function** function, Module* module, const char* name)
  ALIVE();
  auto note = module->notes.kernels.find(name);
  if (note == module->notes.kernels.end()) return NotFound;
  const harness::Kernel* kernel = harness::kernels;
  while (kernel && (kernel->wave != architecture_wave() || strcmp(kernel->name, name))) kernel = kernel->next;
  NEED(kernel, NotFound, std::string(name) + " is in the object but was not built for the host");
  NEED(note->second.wave == kernel->wave, InvalidImage, std::string(name) + " has another wave size than the device");
  auto& made = functions[{module, name}];
  if (!made) made.reset(new Function{module, note->second, kernel});
  *function = made.get();
  return Success;
}
ENTRY(hipModuleLaunchKernel, Function* function, u32 gx, u32 gy, u32 gz, u32 bx, u32 by, u32 bz, u32 lds, Stream* stream,
      void** parameters, void** extra)
  ALIVE();
  const std::string name = function->kernel->name;
  NEED(streams.count(stream), InvalidHandle, "not a stream");
  NEED(gx && gy && gz && (u64)gx * gy * gz < (1ull << 31), InvalidConfiguration, name + ": an empty or too large grid");
  NEED(gy < 65536 && gz < 65536, InvalidConfiguration, name + ": a grid too large in y or z");
  NEED(by == 1 && bz == 1 && bx == function->kernel->threads && bx <= function->note.threads_max, InvalidConfiguration,
       name + ": another block than the kernel's");
  NEED(lds == 0 && function->note.lds_bytes <= LDS_BYTES_MAX, InvalidConfiguration, name + ": too much LDS");
  NEED(!parameters && extra && (u64)extra[0] == 1 && (u64)extra[2] == 2 && (u64)extra[4] == 3, InvalidValue,
       name + ": arguments must come as one buffer");
  size_t bytes = *(size_t*)extra[3];
  NEED(bytes == function->note.argument_bytes, InvalidValue,
       name + ": " + std::to_string(bytes) + " bytes of arguments where the object says " + std::to_string(function->note.argument_bytes));
  NEED((bytes + 7) / 8 == (function->kernel->arg_bytes + 7) / 8, InvalidValue, name + ": the host's build has other arguments");
  if (fault("launch") || fault(name.c_str())) devices[stream->device].lost = true;
  ALIVE();
  std::string args((const char*)extra[1], bytes);
  enqueue(stream, [=, kernel = function->kernel] {
    u32 grid[3] = {gx, gy, gz};
    harness::launch(*kernel, grid, args.data(), chance());
    return true;
  });
  return Success;
}

ENTRY(hipStreamBeginCapture, Stream* stream, int)
  ALIVE();
  NEED(streams.count(stream) && !stream->capture, InvalidHandle, "not a stream, or already capturing");
  stream->capture = std::make_unique<Graph>();
  return Success;
}
ENTRY(hipStreamEndCapture, Stream* stream, Graph** graph)
  NEED(streams.count(stream) && stream->capture, StreamCaptureUnmatched, "the stream is not capturing");
  *graph = stream->capture.release();
  if (fault("capture")) {
    delete *graph;
    *graph = nullptr;
    return StreamCaptureUnsupported;
  }
  return lost();
}
ENTRY(hipGraphInstantiate, Graph** instance, Graph* graph, void*, char*, size_t)
  ALIVE();
  *instance = new Graph(*graph);
  return Success;
}
ENTRY(hipGraphLaunch, Graph* instance, Stream* stream)
  ALIVE();
  NEED(streams.count(stream) && !stream->capture, InvalidHandle, "not a stream, or capturing");
  for (const Operation& operation : instance->operations) stream->queue.push_back(operation);
  return Success;
}
ENTRY(hipGraphExecDestroy, Graph* instance)
  delete instance;
  return Success;
}
ENTRY(hipGraphDestroy, Graph* graph)
  delete graph;
  return Success;
}
