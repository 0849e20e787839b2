// The libraries above the driver, as src/backend/hip uses them: librccl.so, librocblas.so and
// libhipblaslt.so. All are in the one test library. NOVASTACK_HIP_HOST_BLAS=none: hipBLASLt has no
// algorithm for anything.
#include "driver.h"
#include "harness.h"

#include <cmath>
#include <cstdlib>
#include <cstring>

// librccl.so. A collective is an operation of its
// stream that waits until all ranks have come to theirs.

namespace {

struct Sum {
  std::vector<void*> values;
  size_t count;
  int type;
  size_t arrived = 0;
  bool done = false;
};
struct Ranks {
  std::vector<std::unique_ptr<Sum>> sums;  // in the order of the calls
  bool aborted = false;
  size_t size;
};
struct Communicator {
  std::shared_ptr<Ranks> ranks;
  size_t rank, next = 0;
  bool destroyed = false;
};

enum Type { F16 = 6, F32 = 7, BF16 = 9 };
size_t type_bytes(int type) { return type == F32 ? 4 : 2; }
float load(const void* values, size_t at, int type) {
  if (type == F32) return ((const float*)values)[at];
  if (type == F16) return (float)((const _Float16*)values)[at];
  u32 bits = (u32)((const unsigned short*)values)[at] << 16;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}
void store(void* values, size_t at, int type, float value) {
  if (type == F32) ((float*)values)[at] = value;
  else if (type == F16) ((_Float16*)values)[at] = (_Float16)value;
  else {
    u32 bits;
    memcpy(&bits, &value, 4);
    ((unsigned short*)values)[at] = (unsigned short)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
  }
}
void add_up(Sum& sum) {
  for (size_t at = 0; at < sum.count; at++) {
    float total = 0;
    for (void* values : sum.values) total += load(values, at, sum.type);
    for (void* values : sum.values) store(values, at, sum.type, total);
  }
  sum.done = true;
}

}  // namespace

ENTRY(ncclCommInitAll, Communicator** made, int count, const int* numbers)
  NEED(count > 0 && !devices.empty(), InvalidValue, "no devices");
  auto ranks = std::make_shared<Ranks>();
  ranks->size = count;
  for (int rank = 0; rank < count; rank++) {
    NEED(numbers[rank] >= 0 && numbers[rank] < (int)devices.size(), InvalidDevice, "no such device");
    made[rank] = new Communicator{ranks, (size_t)rank};
  }
  return Success;
}
ENTRY(ncclCommDestroy, Communicator* communicator)
  delete communicator;
  return Success;
}
ENTRY(ncclCommAbort, Communicator* communicator)
  communicator->ranks->aborted = true;
  delete communicator;
  return Success;
}
extern "C" const char* ncclGetErrorString(int) { return "an error of the test library"; }
ENTRY(ncclAllReduce, const void* from, void* to, size_t count, int type, int operation, Communicator* communicator, Stream* stream)
  ALIVE();
  NEED(from == to && operation == 0, InvalidValue, "sums in place alone are known here");
  NEED(type == F16 || type == F32 || type == BF16, InvalidValue, "an unknown type");
  NEED(streams.count(stream), InvalidHandle, "not a stream");
  NEED(on_device(to, count * type_bytes(type)), InvalidValue, "outside of device memory");
  auto ranks = communicator->ranks;
  size_t rank = communicator->rank;
  // The place among the rank's collectives is taken when it runs: a graph runs more than once.
  Sum* mine = nullptr;
  enqueue(stream, [=]() mutable {
    if (ranks->aborted) return true;
    if (!mine) {
      size_t at = communicator->next++;
      if (at == ranks->sums.size()) ranks->sums.emplace_back(new Sum{std::vector<void*>(ranks->size), count, type});
      mine = ranks->sums[at].get();
      if (mine->count != count || mine->type != type) {
        report(InvalidValue, "ncclAllReduce", "ranks bring different sizes or types");
        abort();
      }
      mine->values[rank] = to;
      if (++mine->arrived == ranks->size) add_up(*mine);
    }
    if (!mine->done) waiting_for_ranks = true;
    return mine->done;
  });
  return Success;
}

// Products: out [m, n] = x [m, k] W [n, k]^T, which is how both libraries are asked for it.

namespace {

enum Rocblas { ROC_F16 = 150, ROC_F32 = 151, ROC_BF16 = 168, ROC_NONE = 111, ROC_TRANSPOSED = 112 };
enum HipType { HIP_F32 = 0, HIP_F16 = 2, HIP_BF16 = 14 };

struct Product {
  size_t m, n, k, stride;
  const void *w, *x;
  void* out;
  int type, out_type;
};

// Vendors' products are made of the same instructions as ours: on MI200 subnormal operands count as zero.
float operand(const void* values, size_t at, int type) {
  float value = load(values, at, type);
  return type == F16 && harness::flushes_subnormals() && std::fabs(value) < 0x1p-14f ? 0 : value;
}
void multiply(const Product& p) {
  for (size_t row = 0; row < p.m; row++)
    for (size_t column = 0; column < p.n; column++) {
      float sum = 0;
      for (size_t at = 0; at < p.k; at++)
        sum += operand(p.x, row * p.k + at, p.type) * operand(p.w, column * p.k + at, p.type);
      store(p.out, row * p.stride + column, p.out_type, sum);
    }
}

Error enqueue_product(const char* call, Stream* stream, const Product& p) {
  if (!streams.count(stream)) return report(InvalidHandle, call, "not a stream");
  bool inside = on_device(p.w, p.n * p.k * type_bytes(p.type)) && on_device(p.x, p.m * p.k * type_bytes(p.type)) &&
                on_device(p.out, ((p.m - 1) * p.stride + p.n) * type_bytes(p.out_type));
  if (fault("blas")) return report(LaunchFailure, call, "asked to fail");
  if (!inside) return report(InvalidValue, call, "an operand is outside of device memory");
  enqueue(stream, [=] { return multiply(p), true; });
  return Success;
}

struct Handle {
  Stream* stream = nullptr;
};
int of_rocblas(int type) { return type == ROC_F32 ? F32 : type == ROC_F16 ? F16 : BF16; }
int of_hip(int type) { return type == HIP_F32 ? F32 : type == HIP_F16 ? F16 : BF16; }

struct Layout {
  int type;
  u64 rows, columns;
  long long apart;
};
struct Description {
  int compute, scale, first = ROC_NONE, second = ROC_NONE;
};
struct Preference {
  u64 workspace = 0;
};
constexpr u64 MAGIC = 0x6e6f7661;
constexpr u64 WORKSPACE = 4096;

}  // namespace

ENTRY(rocblas_create_handle, Handle** handle)
  *handle = new Handle;
  return Success;
}
ENTRY(rocblas_destroy_handle, Handle* handle)
  delete handle;
  return Success;
}
ENTRY(rocblas_set_stream, Handle* handle, Stream* stream)
  handle->stream = stream;
  return Success;
}
ENTRY(rocblas_gemm_ex, Handle* handle, int first, int second, int n, int m, int k, const float* alpha, const void* w,
      int w_type, int w_apart, const void* x, int x_type, int x_apart, const float* beta, const void* c, int c_type,
      int c_apart, void* d, int d_type, int d_apart, int compute, int algorithm, int solution, u32 flags)
  ALIVE();
  NEED(first == ROC_TRANSPOSED && second == ROC_NONE && w_apart == k && x_apart == k, InvalidValue, "another product");
  NEED(*alpha == 1 && *beta == 0 && c == d && c_type == d_type && c_apart == d_apart && d_apart >= n, InvalidValue, "another result");
  NEED((w_type == ROC_F16 || w_type == ROC_BF16) && x_type == w_type && (d_type == w_type || d_type == ROC_F32) &&
           compute == ROC_F32 && !algorithm && !solution && !flags, InvalidValue, "types that are not known here");
  return enqueue_product(__func__, handle->stream,
                         {(size_t)m, (size_t)n, (size_t)k, (size_t)d_apart, w, x, d, of_rocblas(w_type), of_rocblas(d_type)});
}

ENTRY(hipblasLtCreate, Handle** handle)
  *handle = new Handle;
  return Success;
}
ENTRY(hipblasLtDestroy, Handle* handle)
  delete handle;
  return Success;
}
ENTRY(hipblasLtMatmulDescCreate, Description** made, int compute, int scale)
  *made = new Description{compute, scale};
  return Success;
}
ENTRY(hipblasLtMatmulDescSetAttribute, Description* description, int attribute, const void* value, size_t bytes)
  NEED(bytes == 4 && (attribute == 0 || attribute == 1), InvalidValue, "an attribute that is not known here");
  (attribute ? description->second : description->first) = *(const int*)value;
  return Success;
}
ENTRY(hipblasLtMatmulDescDestroy, Description* description)
  delete description;
  return Success;
}
ENTRY(hipblasLtMatrixLayoutCreate, Layout** made, int type, u64 rows, u64 columns, long long apart)
  *made = new Layout{type, rows, columns, apart};
  return Success;
}
ENTRY(hipblasLtMatrixLayoutDestroy, Layout* layout)
  delete layout;
  return Success;
}
ENTRY(hipblasLtMatmulPreferenceCreate, Preference** made)
  *made = new Preference;
  return Success;
}
ENTRY(hipblasLtMatmulPreferenceSetAttribute, Preference* preference, int attribute, const void* value, size_t bytes)
  NEED(attribute == 1 && bytes == 8, InvalidValue, "an attribute that is not known here");
  preference->workspace = *(const u64*)value;
  return Success;
}
ENTRY(hipblasLtMatmulPreferenceDestroy, Preference* preference)
  delete preference;
  return Success;
}
ENTRY(hipblasLtMatmulAlgoGetHeuristic, Handle*, Description* description, Layout* w, Layout* x, Layout* c, Layout* d,
      Preference* preference, int wanted, u64* result, int* found)
  NEED(description->compute == 2 && description->scale == 0, InvalidValue, "another precision");
  NEED(description->first == ROC_TRANSPOSED && description->second == ROC_NONE, InvalidValue, "another product");
  NEED(w->rows == x->rows && w->columns == d->rows && x->columns == d->columns && c == d, InvalidValue, "sizes that do not fit");
  NEED(wanted == 1 && preference->workspace >= WORKSPACE, InvalidValue, "no workspace");
  *found = strcmp(getenv("NOVASTACK_HIP_HOST_BLAS") ?: "", "none") != 0;
  if (!*found) return Success;
  // hipblasLtMatmulAlgo_t: 16 bytes, then its workspace; then the result's workspace, state and waves.
  memset(result, 0, 56);
  result[0] = MAGIC, result[2] = WORKSPACE, result[3] = WORKSPACE;
  return Success;
}
ENTRY(hipblasLtMatmul, Handle*, Description*, const float* alpha, const void* w, Layout* w_layout, const void* x,
      Layout* x_layout, const float* beta, const void* c, Layout* c_layout, void* d, Layout* d_layout,
      const u64* algorithm, void* workspace, size_t workspace_bytes, Stream* stream)
  ALIVE();
  NEED(algorithm[0] == MAGIC, InvalidValue, "an algorithm of somebody else");
  NEED(*alpha == 1 && *beta == 0 && c == d && c_layout == d_layout, InvalidValue, "another result");
  NEED(workspace_bytes >= WORKSPACE && on_device(workspace, workspace_bytes), InvalidValue, "no workspace");
  size_t n = d_layout->rows, m = d_layout->columns, k = w_layout->rows;
  NEED(w_layout->apart == (long long)k && x_layout->apart == (long long)k && d_layout->apart >= (long long)n, InvalidValue, "rows too close");
  NEED(w_layout->type == x_layout->type && w_layout->type != HIP_F32, InvalidValue, "types that are not known here");
  return enqueue_product(__func__, stream,
                         {m, n, k, (size_t)d_layout->apart, w, x, d, of_hip(w_layout->type), of_hip(d_layout->type)});
}
