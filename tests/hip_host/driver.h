// What the parts of the test library share: hip.cpp has the driver, vendor.cpp the libraries above it.
#pragma once
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

typedef unsigned int u32;
typedef unsigned long long u64;

enum Error {
  Success = 0, InvalidValue = 1, OutOfMemory = 2, InvalidConfiguration = 9, NoDevice = 100, InvalidDevice = 101,
  InvalidImage = 200, NoBinaryForGpu = 209, InvalidHandle = 400, NotFound = 500, NotReady = 600, LaunchFailure = 719,
  StreamCaptureUnsupported = 900, StreamCaptureUnmatched = 903,
};

struct Operation {
  // False: not yet (an event that was not recorded).
  std::function<bool()> run;
};
struct Graph {
  std::vector<Operation> operations;
};
struct Stream {
  int device;
  std::deque<Operation> queue;
  // Where operations go while capturing.
  std::unique_ptr<Graph> capture;
};
struct Device {
  size_t memory, used = 0;
  bool lost = false;
};


// Held by every entry.
extern std::recursive_mutex& big_lock;
extern std::vector<Device>& devices;
// Of the calling thread.
extern thread_local int current;
extern std::set<Stream*>& streams;
// A rank waits for others, whose threads have yet to bring their part.
extern bool waiting_for_ranks;

Error report(Error error, const char* call, const std::string& why);
// Whether this call of its kind is the one that is to fail.
bool fault(const char* kind);
bool on_device(const void* p, size_t bytes);
void enqueue(Stream* stream, std::function<bool()> run);
Error lost();

#define ENTRY(name, ...)              \
  extern "C" int name(__VA_ARGS__) {  \
    std::lock_guard guard(big_lock);
#define NEED(condition, error, why) \
  if (!(condition)) return report(error, __func__, why)
#define ALIVE() \
  if (Error error = lost()) return error
