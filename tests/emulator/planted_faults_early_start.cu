// Launches that may start early: threads that touch global memory before they have waited for the
// kernels ahead of theirs, each in its own way, and threads that never wait.
#include <cstdint>

#include "../device_library/device_library.h"
#include "launch/launch_kernel.h"
#include "launch/tensor_map.h"
#include "ptx/cp_async.cuh"
#include "ptx/fence.cuh"
#include "ptx/grid_dependency.cuh"
#include "ptx/keywords.h"
#include "ptx/mbarrier.cuh"
#include "ptx/memory.cuh"
#include "ptx/shared_address.cuh"
#include "ptx/tma.cuh"

namespace rnc {
namespace {

enum class Touch { kLoad, kStore, kAtomic, kCopy, kTmaLoad, kTmaStore };
enum class Fault { kNone, kBeforeWaiting, kAnotherWaits, kExitsWithoutWaiting };

constexpr uint32_t kThreads = 64;
constexpr uint32_t kBoxFloats = 256;

struct EarlyParams {
  ptx::TensorMap of_x, of_y;  // a box of kBoxFloats each
  const float* x;
  float* y;
  int32_t* count;
};

struct EarlyStorage {
  alignas(128) float loaded[kBoxFloats];
  alignas(128) float stored[kBoxFloats];
  float copied[4];
  ptx::Mbarrier full;
};

template <Touch kTouch>
__device__ void touch(EarlyStorage& shared, const EarlyParams& p) {
  switch (kTouch) {
    case Touch::kLoad:
      shared.copied[0] = ptx::load_global_nc(p.x);
      return;
    case Touch::kStore:
      return ptx::store_global(p.y, 1.0f);
    case Touch::kAtomic:
      atomicAdd(p.count, 1);
      return;
    case Touch::kCopy:
      ptx::cp_async<16>(ptx::shared_address(shared.copied), p.x);
      ptx::cp_async_commit();
      return ptx::cp_async_wait<0>();
    case Touch::kTmaLoad:
      ptx::mbarrier_arrive_expect_tx(shared.full, sizeof shared.loaded);
      ptx::tma_load(shared.loaded, &p.of_x, shared.full, {0});
      return ptx::mbarrier_wait(shared.full, 0);
    case Touch::kTmaStore:
      for (float& value : shared.stored) value = 1.0f;
      ptx::fence_proxy_async();
      ptx::tma_store(&p.of_y, shared.stored, {0});
      ptx::tma_store_commit();
      return ptx::tma_store_wait<0>();
  }
}

// Thread 0 touches; what comes before it needs no tensor.
template <Touch kTouch, Fault kFault>
__global__ void __launch_bounds__(kThreads) early_kernel(const __grid_constant__ EarlyParams p) {
  EarlyStorage& shared = dynamic_smem<EarlyStorage>();
  const bool touches = threadIdx.x == 0;
  if (touches) {
    ptx::tma_prefetch(&p.of_x);
    ptx::mbarrier_init(shared.full, 1, "full");
    ptx::fence_mbarrier_init();
  }
  __syncthreads();
  if (kFault == Fault::kExitsWithoutWaiting && touches) return;
  if (kFault == Fault::kBeforeWaiting && touches) touch<kTouch>(shared, p);
  if (kFault != Fault::kAnotherWaits || !touches) ptx::grid_dependency_wait();
  __syncthreads();
  if (kFault != Fault::kBeforeWaiting && touches) touch<kTouch>(shared, p);
}

// Buffers: x and y of kBoxFloats floats, a count.
template <Touch kTouch, Fault kFault, Start kStart = Start::kEarly>
Status launch_early(const LaunchArguments& arguments) {
  EarlyParams params{};
  params.x = arguments.buffer<const float>(0);
  params.y = arguments.buffer<float>(1);
  params.count = arguments.buffer<int32_t>(2);
  const auto make = [&](ptx::TensorMap& map, const void* base) {
    return make_tiled_tensor_map(&map, {.base = base,
                                        .element = kTensorElement<float>,
                                        .rank = 1,
                                        .dims = {kBoxFloats},
                                        .box = {kBoxFloats}});
  };
  Status status = make(params.of_x, params.x);
  if (status.ok()) status = make(params.of_y, params.y);
  if (!status.ok()) return status;
  return launch_kernel("early", early_kernel<kTouch, kFault>, Dim3{1, 1, 1}, Dim3{kThreads, 1, 1},
                       sizeof(EarlyStorage), nullptr, params, {}, 1, kStart);
}

#define RNC_TOUCH(name, touch)                                                         \
  {"early_" name, launch_early<touch, Fault::kNone>},                                  \
      {"early_" name "_before_waiting", launch_early<touch, Fault::kBeforeWaiting>}, { \
    "early_" name "_another_waits", launch_early<touch, Fault::kAnotherWaits>          \
  }

const KernelRegistration early_kernels[] = {
    RNC_TOUCH("load", Touch::kLoad),
    RNC_TOUCH("store", Touch::kStore),
    RNC_TOUCH("atomic", Touch::kAtomic),
    RNC_TOUCH("copy", Touch::kCopy),
    RNC_TOUCH("tma_load", Touch::kTmaLoad),
    RNC_TOUCH("tma_store", Touch::kTmaStore),
    {"early_exits_without_waiting", launch_early<Touch::kLoad, Fault::kExitsWithoutWaiting>},
    {"late_load_before_waiting", launch_early<Touch::kLoad, Fault::kBeforeWaiting, Start::kLate>},
    {"late_exits_without_waiting",
     launch_early<Touch::kLoad, Fault::kExitsWithoutWaiting, Start::kLate>},
};
#undef RNC_TOUCH

}  // namespace
}  // namespace rnc
