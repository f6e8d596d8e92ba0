// The Hopper way to multiply: one warpgroup's elected thread fills a ring of stages by TMA, two
// other warpgroups multiply from shared memory by wgmma. D = A B^T.
#pragma once

#include "slices.cuh"

namespace rnc::reference {

// How a tile is stored: rounded to the operands' type through TMA, or as floats.
enum class GemmOutput { kElements, kFloats };

// 128 x N outputs, 64 rows for each consumer warpgroup.
template <class ElementType, int kN, GemmOutput kOutputKind>
struct GemmSsTile {
  using Element = ElementType;
  static constexpr GemmOutput kOutput = kOutputKind;
  static constexpr int kConsumers = 2;
  static constexpr int kRows = kConsumers * Warpgroup::kRows;
  static constexpr int kColumns = kN;
  static constexpr int kStages = 3;
  static constexpr int kThreads = (kConsumers + 1) * Warpgroup::kThreads;
  static constexpr int kPanels = kOutput == GemmOutput::kElements ? kN / TilePanel::kColumns : 0;
  static_assert(kOutput == GemmOutput::kFloats || kN % TilePanel::kColumns == 0);
};

struct GemmSsParams {
  ptx::TensorMap a, b;  // boxes of one slice of kRows and kColumns rows
  ptx::TensorMap d;     // boxes of one panel; only for GemmOutput::kElements
  float* d_floats;      // [rows, columns]; only for GemmOutput::kFloats
  int32_t rows, columns, slices;
};

template <class Tile>
struct GemmSsStage {
  KMajorSlice<Tile::kRows> a;
  KMajorSlice<Tile::kColumns> b;
};

template <class Tile>
struct GemmSsStorage {
  GemmSsStage<Tile> stages[Tile::kStages];
  TilePanel panels[Tile::kConsumers][Tile::kPanels > 0 ? Tile::kPanels : 1];
  MbarrierRing<Tile::kStages> ring;
};

// grid: (row tiles, column tiles)
template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads, 1)
    gemm_ss_kernel(const __grid_constant__ GemmSsParams params) {
  using Element = typename Tile::Element;
  auto& shared = dynamic_smem<GemmSsStorage<Tile>>();
  const int32_t first_row = int32_t(blockIdx.x) * Tile::kRows;
  const int32_t first_column = int32_t(blockIdx.y) * Tile::kColumns;
  const int warpgroup = int(threadIdx.x) / Warpgroup::kThreads;

  // Set up the ring.
  if (threadIdx.x == 0) shared.ring.initialise(Tile::kConsumers * Warpgroup::kWarps);
  __syncthreads();

  // The last warpgroup fills the ring. It needs few registers and leaves its share to the others.
  if (warpgroup == Tile::kConsumers) {
    ptx::set_max_registers_decrease<40>();
    const bool first_warp = threadIdx.x / 32 % Warpgroup::kWarps == 0;
    if (first_warp && ptx::elect_one()) {
      RingPosition<Tile::kStages> position;
      for (int32_t slice = 0; slice < params.slices; ++slice) {
        auto& stage = shared.stages[position.stage];
        auto& arrived = shared.ring.full[position.stage];
        const int32_t depth = slice * kSliceElements<Element>;
        shared.ring.acquire(position, sizeof stage.a.bytes + sizeof stage.b.bytes);
        ptx::tma_load(stage.a.bytes, &params.a, arrived, {depth, first_row});
        ptx::tma_load(stage.b.bytes, &params.b, arrived, {depth, first_column});
        position.advance();
      }
    }
    return;
  }

  // The others multiply.
  ptx::set_max_registers_increase<232>();
  float accumulators[Tile::kColumns / 2];
  RingPosition<Tile::kStages> position;
  wgmma_mainloop(
      shared.ring, position, params.slices, accumulators,
      [&](int stage, bool accumulate) {
        RNC_UNROLL
        for (int step = 0; step < KMajorSlice<Tile::kRows>::kSteps; ++step) {
          ptx::wgmma_ss<Element, Tile::kColumns>(
              accumulators, shared.stages[stage].a.descriptor(step, warpgroup * Warpgroup::kRows),
              shared.stages[stage].b.descriptor(step), accumulate || step != 0);
        }
      },
      [&](int stage, bool condition) { shared.ring.release_if(stage, condition); });

  // Store.
  const int32_t first_own_row = first_row + warpgroup * Warpgroup::kRows;
  if constexpr (Tile::kOutput == GemmOutput::kElements) {
    store_by_tma<Element>(accumulators, shared.panels[warpgroup], &params.d, first_own_row,
                          first_column, uint32_t(1 + warpgroup));
  } else {
    store_floats(accumulators, params.d_floats, params.rows, params.columns, first_own_row,
                 first_column);
  }
}

}  // namespace rnc::reference
