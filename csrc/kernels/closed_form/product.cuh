// One float64 product of batch norm in closed form: operands are converted as they are loaded, the
// product itself stays in registers and goes to an epilogue.
#pragma once

#include "kernels/closed_form/operands.cuh"
#include "ptx/grid_dependency.cuh"
#include "tile/register_mainloop.cuh"

namespace rnc {

static_assert(kClosedFormTile == DoubleTile::kLines);

template <class OperandA, class OperandB, class Epilogue>
struct ClosedFormProductParams {
  OperandA a;
  OperandB b;
  int32_t depth;  // 0: the epilogue is all
  Epilogue epilogue;
};

template <class Epilogue>
union ClosedFormProductStorage {
  DoubleStage stages[2];
  typename Epilogue::Shared epilogue;
};

// Blocks that share a multiprocessor: of double filters two, as the compiler would spill to have a
// third; without tensor cores as many as the shared memory of the GPUs that run it holds.
template <class WarpTile, class Operand>
constexpr int kClosedFormBlocks =
    std::is_same_v<WarpTile, DoubleFmaTile> || sizeof(typename Operand::Element) == 8 ? 2 : 3;

// grid: (column tiles, row tiles)
template <class WarpTile, class OperandA, class OperandB, class Epilogue>
__global__ void __launch_bounds__(DoubleTile::kThreads, kClosedFormBlocks<WarpTile, OperandA>)
    closed_form_product_kernel(
        const __grid_constant__ ClosedFormProductParams<OperandA, OperandB, Epilogue> params) {
  // Wait for the kernel that left the operands.
  ptx::grid_dependency_wait();
  ptx::grid_dependency_launch();

  auto& shared = dynamic_smem<ClosedFormProductStorage<Epilogue>>();
  const int32_t first_row = int32_t(blockIdx.y) * DoubleTile::kLines;
  const int32_t first_column = int32_t(blockIdx.x) * DoubleTile::kLines;

  // Multiply.
  WarpTile tile;
  tile.clear();
  const int slices = (params.depth + DoubleTile::kDepth - 1) / DoubleTile::kDepth;
  if (slices > 0) {
    typename OperandA::Load a(params.a, first_row);
    typename OperandB::Load b(params.b, first_column);
    register_mainloop(
        slices,
        [&](int, int slice) {
          a.fetch(slice);
          b.fetch(slice);
        },
        [&](int stage, int) {
          a.put(shared.stages[stage].a);
          b.put(shared.stages[stage].b);
        },
        [&](int stage, int) { multiply_doubles(tile, shared.stages[stage]); });
  }

  // Hand over.
  params.epilogue.run(first_row, first_column, tile.accumulators, shared.epilogue);
}

}  // namespace rnc
