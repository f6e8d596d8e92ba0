// y[rows, columns] = scale * x: each block brings one tile into shared memory by TMA, scales it
// there and sends it back by TMA. The smallest kernel that needs an mbarrier and a proxy fence.
#include "../device_library/device_library.h"
#include "launch/launch_kernel.h"
#include "launch/tensor_map.h"
#include "ptx/fence.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/tma.cuh"

namespace rnc {
namespace {

struct ScaleParams {
  ptx::TensorMap x, y;
  float scale;
};

struct Tile {
  static constexpr int kRows = 8;
  static constexpr int kColumns = 32;
};

struct ScaleStorage {
  alignas(128) float tile[Tile::kRows][Tile::kColumns];
  ptx::Mbarrier loaded;
};

// grid: (column tiles, row tiles); one thread per element
__global__ void __launch_bounds__(Tile::kRows* Tile::kColumns)
    scale_kernel(const __grid_constant__ ScaleParams params) {
  auto& shared = dynamic_smem<ScaleStorage>();
  const int32_t column = int32_t(blockIdx.x) * Tile::kColumns;
  const int32_t row = int32_t(blockIdx.y) * Tile::kRows;
  const bool leads = threadIdx.x == 0;

  // Load the tile; elements outside the matrix arrive as zeros.
  if (leads) {
    ptx::mbarrier_init(shared.loaded, 1, "loaded");
    ptx::fence_mbarrier_init();
    ptx::mbarrier_arrive_expect_tx(shared.loaded, sizeof shared.tile);
    ptx::tma_load(shared.tile, &params.x, shared.loaded, {column, row});
  }
  __syncthreads();
  ptx::mbarrier_wait(shared.loaded, 0);

  // Scale it in place.
  shared.tile[threadIdx.x / Tile::kColumns][threadIdx.x % Tile::kColumns] *= params.scale;

  // Let TMA see what the threads wrote, and store it.
  ptx::fence_proxy_async();
  __syncthreads();
  if (leads) {
    ptx::tma_store(&params.y, shared.tile, {column, row});
    ptx::tma_store_commit();
    ptx::tma_store_wait_read<0>();
  }
}

Status make_map(ptx::TensorMap* map, const void* base, int32_t rows, int32_t columns) {
  TiledTensorMap description = {};
  description.base = base;
  description.element = TensorElement::kFloat32;
  description.rank = 2;
  description.dims[0] = uint64_t(columns);
  description.dims[1] = uint64_t(rows);
  description.strides_bytes[0] = uint64_t(columns) * sizeof(float);
  description.box[0] = Tile::kColumns;
  description.box[1] = Tile::kRows;
  return make_tiled_tensor_map(map, description);
}

// buffers: y, x; numbers: rows, columns (a multiple of 4), scale
Status scale(const LaunchArguments& arguments) {
  const int32_t rows = arguments.number(0), columns = arguments.number(1);
  ScaleParams params = {};
  params.scale = arguments.number<float>(2);
  Status status = make_map(&params.y, arguments.buffer<void>(0), rows, columns);
  if (!status.ok()) return status;
  status = make_map(&params.x, arguments.buffer<void>(1), rows, columns);
  if (!status.ok()) return status;
  const Dim3 grid = {uint32_t(columns + Tile::kColumns - 1) / Tile::kColumns,
                     uint32_t(rows + Tile::kRows - 1) / Tile::kRows, 1};
  return launch_kernel("scale", scale_kernel, grid, Dim3{Tile::kRows * Tile::kColumns, 1, 1},
                       sizeof(ScaleStorage), nullptr, params);
}

const KernelRegistration kRegistration{"scale", scale};

}  // namespace
}  // namespace rnc
