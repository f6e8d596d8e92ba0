// The Ampere way to multiply: cp.async fills a ring of shared-memory stages, ldmatrix loads
// fragments from it, mma.sync multiplies them. D = A B^T, where the operands may be matrices or a
// convolution's.
#pragma once

#include "ptx/memory.cuh"
#include "tile/cp_async_mainloop.cuh"
#include "tile/mma_tile.cuh"
#include "tile/packed_pair.cuh"

namespace rnc::reference {

// 128 x kTileColumns outputs by four warps, two along each side; slices of 64 bytes of depth.
template <ptx::Mma kMma, class ElementType, class OutputType, int kTileColumns>
struct AmpereTile {
  using Element = ElementType;
  using Output = OutputType;
  using WarpTile = MmaWarpTile<kMma, 64, kTileColumns / 2>;
  static constexpr int kRows = 128;
  static constexpr int kColumns = kTileColumns;
  static constexpr int kThreads = 128;
  static constexpr int kStages = 4;
  static constexpr int kSliceElements = OperandSlice<kRows>::kRowBytes / int(sizeof(Element));
};

template <class Tile>
struct AmperePipelineStorage {
  OperandSlice<Tile::kRows> a[Tile::kStages];
  OperandSlice<Tile::kColumns> b[Tile::kStages];
};

// The finished tile on its way to global memory. Eight columns of padding put the rows that one
// store touches into different banks.
template <class Tile>
struct AmpereOutputStorage {
  using Accumulator = typename Tile::WarpTile::Accumulator;
  Accumulator rows[Tile::kRows][Tile::kColumns + 8];
};

template <class Tile>
union AmpereStorage {
  AmperePipelineStorage<Tile> pipeline;
  AmpereOutputStorage<Tile> output;
};

template <class Tile, class OperandA, class OperandB>
struct AmpereGemmParams {
  OperandA a;
  OperandB b;
  typename Tile::Output* d;  // [rows, columns], columns a multiple of 16 bytes
  int32_t rows, columns, slices;
};

// One thread's share of the copies of one operand: the same 16 bytes of depth in some of the rows.
template <class Tile, class Operand, int kRows>
struct SliceCopier {
  using Slice = OperandSlice<kRows>;
  using Element = typename Tile::Element;
  static constexpr int kRowsAtOnce = Tile::kThreads / Slice::kChunks;
  static constexpr int kCopies = kRows / kRowsAtOnce;

  const Operand& operand;
  const int chunk = int(threadIdx.x) % Slice::kChunks;
  const int row_in_tile = int(threadIdx.x) / Slice::kChunks;
  typename Operand::Row rows[kCopies];

  __device__ __forceinline__ SliceCopier(const Operand& operand, int32_t first_row)
      : operand(operand) {
    RNC_UNROLL
    for (int i = 0; i < kCopies; ++i) {
      rows[i] = operand.row(first_row + row_in_tile + i * kRowsAtOnce);
    }
  }

  // Starts the copies; what lies outside the operand becomes zero.
  __device__ __forceinline__ void copy(Slice& shared, int32_t slice) const {
    const int offset = chunk * Slice::kChunkBytes / int(sizeof(Element));
    const auto depth = operand.template at_depth<Tile::kSliceElements>(slice, offset);
    RNC_UNROLL
    for (int i = 0; i < kCopies; ++i) {
      const Element* source = operand.find(rows[i], depth);
      const void* target = shared.at(row_in_tile + i * kRowsAtOnce, chunk * Slice::kChunkBytes);
      ptx::cp_async<Slice::kChunkBytes>(ptx::shared_address(target),
                                        source ? source : operand.base(),
                                        source ? Slice::kChunkBytes : 0);
    }
  }
};

// Rounds N accumulators to the output type.
template <class Output, class Accumulator, int kCount>
__device__ __forceinline__ Vec<Output, kCount> round_to(const Accumulator* accumulators) {
  Vec<Output, kCount> rounded;
  RNC_UNROLL
  for (int i = 0; i < kCount; ++i) rounded.v[i] = narrow_to<Output>(accumulators[i]);
  return rounded;
}

// grid: (row tiles, column tiles)
template <class Tile, class OperandA, class OperandB>
__global__ void __launch_bounds__(Tile::kThreads)
    ampere_gemm_kernel(const __grid_constant__ AmpereGemmParams<Tile, OperandA, OperandB> params) {
  using Output = typename Tile::Output;
  using WarpTile = typename Tile::WarpTile;
  auto& shared = dynamic_smem<AmpereStorage<Tile>>();

  // Find this block's tile, and this warp's place in it.
  const int32_t first_row = int32_t(blockIdx.x) * Tile::kRows;
  const int32_t first_column = int32_t(blockIdx.y) * Tile::kColumns;
  const int warp = int(threadIdx.x) / 32;
  const int warp_row = warp % 2 * (Tile::kRows / 2);
  const int warp_column = warp / 2 * (Tile::kColumns / 2);

  // Multiply.
  const SliceCopier<Tile, OperandA, Tile::kRows> copy_a(params.a, first_row);
  const SliceCopier<Tile, OperandB, Tile::kColumns> copy_b(params.b, first_column);
  WarpTile tile;
  tile.clear();
  cp_async_mainloop<Tile::kStages>(
      params.slices,
      [&](int stage, int slice) {
        copy_a.copy(shared.pipeline.a[stage], slice);
        copy_b.copy(shared.pipeline.b[stage], slice);
      },
      [](int, int) {},
      [&](int stage) {
        tile.multiply(shared.pipeline.a[stage], warp_row, shared.pipeline.b[stage], warp_column);
      });

  // Bring the tile together in shared memory, over the stages that nobody reads any more.
  tile.for_each_pair([&](int row, int column, auto first, auto second) {
    using Pair = Vec<decltype(first), 2>;
    auto* place = &shared.output.rows[warp_row + row][warp_column + column];
    *reinterpret_cast<Pair*>(place) = Pair{{first, second}};
  });
  __syncthreads();

  // Store whole 16-byte pieces of rows.
  constexpr int kPerPiece = 16 / int(sizeof(Output));
  constexpr int kPiecesPerRow = Tile::kColumns / kPerPiece;
  for (int piece = int(threadIdx.x); piece < Tile::kRows * kPiecesPerRow; piece += Tile::kThreads) {
    const int row = piece / kPiecesPerRow, column = piece % kPiecesPerRow * kPerPiece;
    if (first_row + row >= params.rows || first_column + column >= params.columns) continue;
    const auto rounded = round_to<Output, typename WarpTile::Accumulator, kPerPiece>(
        &shared.output.rows[row][column]);
    Output* target = params.d + int64_t(first_row + row) * params.columns + first_column + column;
    ptx::store_global(reinterpret_cast<Vec<Output, kPerPiece>*>(target), rounded);
  }
}

}  // namespace rnc::reference
