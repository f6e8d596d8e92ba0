// The Ampere main loop: cp.async fills a ring of shared-memory stages with 16-byte pieces of the
// operands, ldmatrix loads fragments from it, mma.sync multiplies them; float in TF32. Needs
// operands whose contiguous index comes in runs of whole, aligned 16 bytes.
#pragma once

#include "kernels/conv/gemm_tile.h"
#include "kernels/conv/sm80/block_tile.cuh"
#include "kernels/conv/sm80/slice_copier.cuh"
#include "tile/cp_async_mainloop.cuh"

namespace rnc {

template <class Tile, class OperandA, class OperandB>
struct Sm80Mainloop : Sm80BlockTile<Tile, typename OperandA::Element> {
  using BlockTile = Sm80BlockTile<Tile, typename OperandA::Element>;
  using BlockTile::kColumns, BlockTile::kRows, BlockTile::kSliceDepth, BlockTile::kThreads;
  using SliceA = SliceOf<OperandA, kRows>;
  using SliceB = SliceOf<OperandB, kColumns>;
  using CopierA = SliceCopier<OperandA, SliceA, kThreads>;
  // Two sets of channels would not fit beside the accumulators of the large tile.
  static constexpr bool kIsGram = std::is_same_v<OperandA, OperandB>;
  using CopierB = SliceCopier<OperandB, SliceB, kThreads, !kIsGram>;
  static constexpr int kStages =
      Tile::kSharedBytes / int(sizeof(typename CopierA::Stage) + sizeof(typename CopierB::Stage));
  struct Storage {
    typename CopierA::Stage a[kStages];
    typename CopierB::Stage b[kStages];
  };
  static constexpr bool kSumsMatrices = false;
  // The same main loop for other operands.
  template <class A, class B>
  using With = Sm80Mainloop<Tile, A, B>;
  struct Params {
    OperandA a;
    OperandB b;
  };

  // The tile at `at`.
  __device__ __forceinline__ void run(const Params& params, const GemmTile& at, Storage& shared) {
    this->clear();
    accumulate(*this, params, at, shared);
  }

  // Adds the product to the tile `sum`.
  static __device__ __forceinline__ void accumulate(BlockTile& sum, const Params& params,
                                                    const GemmTile& at, Storage& shared) {
    for_each_stage(params, at, shared, false, [&](int stage) {
      sum.multiply(shared.a[stage].slice, shared.b[stage].slice, at.diagonal);
    });
  }

  // Calls multiply(stage) with each stage that holds a slice of both operands. b_is_a: B's slices
  // are A's, and are not copied.
  template <class Multiply>
  static __device__ __forceinline__ void for_each_stage(const Params& params, const GemmTile& at,
                                                        Storage& shared, bool b_is_a,
                                                        Multiply&& multiply) {
    const CopierA copy_a(params.a, at.first_row, at.rows, at.group);
    const CopierB copy_b(params.b, at.first_column, at.columns, at.group);
    const int slices = (at.depth_end - at.depth_begin + kSliceDepth - 1) / kSliceDepth;
    cp_async_mainloop<kStages>(
        slices,
        [&](int stage, int slice) {
          const int32_t depth = at.depth_begin + slice * kSliceDepth;
          copy_a.copy(shared.a[stage], depth, at.depth_end);
          if (!b_is_a) copy_b.copy(shared.b[stage], depth, at.depth_end);
        },
        [&](int stage, int slice) {
          const int32_t depth = at.depth_begin + slice * kSliceDepth;
          activate(copy_a, shared.a[stage], depth, at.depth_end);
          if (!b_is_a) activate(copy_b, shared.b[stage], depth, at.depth_end);
        },
        multiply);
  }

 private:
  template <class Copier>
  static __device__ __forceinline__ void activate(const Copier& copier,
                                                  typename Copier::Stage& shared, int32_t depth,
                                                  int32_t depth_end) {
    if constexpr (!Copier::Prologue::kChangesNothing) copier.activate(shared, depth, depth_end);
  }
};

}  // namespace rnc
