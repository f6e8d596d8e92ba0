// One box between global and shared memory and back, for every kind and rank of TMA instruction.
#include <cstdint>
#include <utility>

#include "launch/launch_kernel.h"
#include "ptx/fence.cuh"
#include "ptx/keywords.h"
#include "ptx/mbarrier.cuh"
#include "ptx/memory.cuh"
#include "ptx/tma.cuh"
#include "tensor_boxes.cuh"

namespace rnc {
namespace {

constexpr uint32_t kThreads = 32;

struct alignas(16) Piece {
  uint32_t words[4];
};

struct BoxParams {
  ptx::TensorMap map;
  int32_t coordinates[5];
  uint16_t offsets[3];
  uint32_t start;   // of the box in shared memory
  uint32_t pieces;  // in it
  Piece* memory;    // a copy of the box as it lies in shared memory
};

constexpr uint32_t kBoxBytes = 64 * 1024;

struct BoxStorage {
  alignas(1024) unsigned char box[kBoxBytes];
  ptx::Mbarrier full;
};

template <int kRank, bool kIm2col>
__device__ void load_box(void* destination, const BoxParams& p, ptx::Mbarrier& full) {
  int32_t coordinates[kRank];
  for (int i = 0; i < kRank; ++i) coordinates[i] = p.coordinates[i];
  if constexpr (kIm2col) {
    uint16_t offsets[kRank - 2];
    for (int i = 0; i < kRank - 2; ++i) offsets[i] = p.offsets[i];
    ptx::tma_load_im2col(destination, &p.map, full, coordinates, offsets);
  } else {
    ptx::tma_load(destination, &p.map, full, coordinates);
  }
}

// memory = the box
template <int kRank, bool kIm2col>
__global__ void __launch_bounds__(kThreads) load_kernel(const __grid_constant__ BoxParams p) {
  BoxStorage& shared = dynamic_smem<BoxStorage>();
  auto* box = reinterpret_cast<Piece*>(shared.box + p.start);

  // Load the box.
  if (threadIdx.x == 0) {
    ptx::mbarrier_init(shared.full, 1, "full");
    ptx::fence_mbarrier_init();
    ptx::mbarrier_arrive_expect_tx(shared.full, p.pieces * sizeof(Piece));
    load_box<kRank, kIm2col>(box, p, shared.full);
  }
  __syncwarp();
  ptx::mbarrier_wait(shared.full, 0);

  // Copy it out.
  for (uint32_t i = threadIdx.x; i < p.pieces; i += kThreads) {
    ptx::store_global(p.memory + i, box[i]);
  }
}

// the box = memory
template <int kRank>
__global__ void __launch_bounds__(kThreads) store_kernel(const __grid_constant__ BoxParams p) {
  BoxStorage& shared = dynamic_smem<BoxStorage>();
  auto* box = reinterpret_cast<Piece*>(shared.box + p.start);

  // Fill shared memory.
  for (uint32_t i = threadIdx.x; i < p.pieces; i += kThreads) {
    box[i] = ptx::load_global(p.memory + i);
  }
  ptx::fence_proxy_async();
  __syncwarp();

  // Store the box.
  if (threadIdx.x == 0) {
    int32_t coordinates[kRank];
    for (int i = 0; i < kRank; ++i) coordinates[i] = p.coordinates[i];
    ptx::tma_store(&p.map, box, coordinates);
    ptx::tma_store_commit();
    ptx::tma_store_wait_read<0>();
  }
}

// Buffers: the tensor, the copy of the box. Numbers: BoxNumbers, start, bytes.
Status make_params(BoxParams& params, const LaunchArguments& arguments) {
  const auto& numbers = *reinterpret_cast<const BoxNumbers*>(arguments.numbers);
  constexpr int kCount = sizeof(BoxNumbers) / sizeof(int64_t);
  for (int i = 0; i < 5; ++i) params.coordinates[i] = static_cast<int32_t>(numbers.coordinates[i]);
  for (int i = 0; i < 3; ++i) params.offsets[i] = static_cast<uint16_t>(numbers.offsets[i]);
  params.start = arguments.number<uint32_t>(kCount);
  params.pieces = arguments.number<uint32_t>(kCount + 1) / sizeof(Piece);
  params.memory = arguments.buffer<Piece>(1);
  return make_map(&params.map, arguments.buffers[0], numbers);
}

template <class Kernel>
Status launch_box(const char* name, Kernel kernel, const LaunchArguments& arguments) {
  BoxParams params{};
  const Status status = make_params(params, arguments);
  if (!status.ok()) return status;
  return launch_kernel(name, kernel, Dim3{1, 1, 1}, Dim3{kThreads, 1, 1}, sizeof(BoxStorage),
                       nullptr, params);
}

template <int kRank>
Status launch_load(const LaunchArguments& arguments) {
  return launch_box("load_box", load_kernel<kRank, false>, arguments);
}
template <int kRank>
Status launch_load_im2col(const LaunchArguments& arguments) {
  return launch_box("load_box_im2col", load_kernel<kRank, true>, arguments);
}
template <int kRank>
Status launch_store(const LaunchArguments& arguments) {
  return launch_box("store_box", store_kernel<kRank>, arguments);
}

Status only_make_map(const LaunchArguments& arguments) {
  BoxParams params{};
  return make_params(params, arguments);
}

const KernelRegistration kernels[] = {{"load_box_1", launch_load<1>},
                                      {"load_box_2", launch_load<2>},
                                      {"load_box_3", launch_load<3>},
                                      {"load_box_4", launch_load<4>},
                                      {"load_box_5", launch_load<5>},
                                      {"load_box_im2col_3", launch_load_im2col<3>},
                                      {"load_box_im2col_4", launch_load_im2col<4>},
                                      {"load_box_im2col_5", launch_load_im2col<5>},
                                      {"store_box_1", launch_store<1>},
                                      {"store_box_2", launch_store<2>},
                                      {"store_box_3", launch_store<3>},
                                      {"store_box_4", launch_store<4>},
                                      {"store_box_5", launch_store<5>},
                                      {"make_map", only_make_map}};

}  // namespace
}  // namespace rnc
