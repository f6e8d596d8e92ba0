// The Ampere main loop: cp.async fills a ring of shared-memory stages with 16-byte pieces of the
// operands, ldmatrix loads fragments from it, mma.sync multiplies them. Needs operands whose
// contiguous index comes in runs of whole, aligned 16 bytes.
#pragma once

#include "kernels/conv/gemm_tile.h"
#include "kernels/conv/operands.cuh"
#include "kernels/conv/sm80/block_tile.cuh"
#include "tile/cp_async_mainloop.cuh"

namespace rnc {

// One thread's share of the copies of one operand: chunk `chunk` of some of the slice's lines.
template <class Operand, class Slice, int kThreads>
struct SliceCopier {
  using T = typename Operand::Element;
  using Prologue = typename Operand::Prologue;
  static constexpr bool kAlongDepth = Operand::kDepthIsContiguous;
  static constexpr int kPieceElements = Slice::kChunkBytes / int(sizeof(T));
  static constexpr int kLinesAtOnce = kThreads / Slice::kChunks;
  static constexpr int kCopies = Slice::kLines / kLinesAtOnce;
  static_assert(kThreads % Slice::kChunks == 0 && Slice::kLines % kLinesAtOnce == 0);
  static constexpr int kRowsHeld = kAlongDepth ? kCopies : 1;

  const Operand& operand;
  const int32_t group;
  const bool piece_is_row;  // whether this thread's chunk holds rows of the operand
  typename Operand::Row rows[kRowsHeld];

  // Finds the rows this thread will copy, once for all slices.
  __device__ __forceinline__ SliceCopier(const Operand& operand, int32_t first_row,
                                         int32_t row_count, int32_t group)
      : operand(operand), group(group), piece_is_row(first_row + piece() < row_count) {
    RNC_UNROLL
    for (int i = 0; i < kRowsHeld; ++i) {
      rows[i] = operand.row(first_row + (kAlongDepth ? line(i) : piece()), row_count, group);
    }
  }

  static __device__ __forceinline__ int chunk() { return int(threadIdx.x) % Slice::kChunks; }
  static __device__ __forceinline__ int piece() { return chunk() * kPieceElements; }
  static __device__ __forceinline__ int line(int i) {
    return int(threadIdx.x) / Slice::kChunks + i * kLinesAtOnce;
  }

  // Calls fn(i, source) with the i-th piece of the slice at `first_depth`; null where it is zero.
  template <class Fn>
  __device__ __forceinline__ void for_each_piece(int32_t first_depth, int32_t depth_end,
                                                 Fn&& fn) const {
    if constexpr (kAlongDepth) {
      const auto depth = operand.depth(first_depth + piece(), depth_end, group);
      RNC_UNROLL
      for (int i = 0; i < kCopies; ++i) fn(i, operand.find(rows[i], depth));
    } else {
      RNC_UNROLL
      for (int i = 0; i < kCopies; ++i) {
        fn(i, operand.find(rows[0], operand.depth(first_depth + line(i), depth_end, group)));
      }
    }
  }

  // Starts the copies; what lies outside the operand becomes zero.
  __device__ __forceinline__ void copy(Slice& shared, int32_t first_depth,
                                       int32_t depth_end) const {
    for_each_piece(first_depth, depth_end, [&](int i, const T* source) {
      ptx::cp_async<Slice::kChunkBytes>(ptx::shared_address(shared.chunk(line(i), chunk())),
                                        source ? source : operand.base(),
                                        source ? Slice::kChunkBytes : 0);
    });
  }

  // Applies the prologue to the pieces that this thread has copied and that have arrived.
  __device__ __forceinline__ void activate(Slice& shared, int32_t first_depth,
                                           int32_t depth_end) const {
    using Piece = Vec<T, kPieceElements>;
    const bool exists = kAlongDepth ? first_depth + piece() < depth_end : piece_is_row;
    if (!exists) return;
    const auto depth = operand.depth(first_depth + (kAlongDepth ? piece() : 0), depth_end, group);
    const typename Prologue::Piece prologue(operand.prologue,
                                            channel_of(operand, rows[0], depth, group));
    for_each_piece(first_depth, depth_end, [&](int i, const T* source) {
      if (!source) return;
      auto* place = const_cast<Piece*>(static_cast<const Piece*>(shared.chunk(line(i), chunk())));
      Piece elements = *place;
      RNC_UNROLL
      for (int e = 0; e < kPieceElements; ++e) {
        elements.v[e] = prologue.apply(elements.v[e], e);
      }
      *place = elements;
    });
  }
};

template <class Tile, class OperandA, class OperandB>
struct Sm80Mainloop : Sm80BlockTile<Tile, typename OperandA::Element> {
  using Base = Sm80BlockTile<Tile, typename OperandA::Element>;
  using Base::kColumns, Base::kRows, Base::kSliceDepth, Base::kThreads, Base::tile;
  static constexpr int kStages = Tile::kStages;
  using SliceA = SliceOf<OperandA, kRows>;
  using SliceB = SliceOf<OperandB, kColumns>;
  struct Storage {
    SliceA a[kStages];
    SliceB b[kStages];
  };
  struct Params {
    OperandA a;
    OperandB b;
  };

  // The tile at `at`.
  __device__ __forceinline__ void run(const Params& params, const GemmTile& at, Storage& shared) {
    tile.clear();
    const SliceCopier<OperandA, SliceA, kThreads> copy_a(params.a, at.first_row, at.rows, at.group);
    const SliceCopier<OperandB, SliceB, kThreads> copy_b(params.b, at.first_column, at.columns,
                                                         at.group);
    const int slices = (at.depth_end - at.depth_begin + kSliceDepth - 1) / kSliceDepth;
    cp_async_mainloop<kStages>(
        slices,
        [&](int stage, int slice) {
          const int32_t depth = at.depth_begin + slice * kSliceDepth;
          copy_a.copy(shared.a[stage], depth, at.depth_end);
          copy_b.copy(shared.b[stage], depth, at.depth_end);
        },
        [&](int stage, int slice) {
          const int32_t depth = at.depth_begin + slice * kSliceDepth;
          activate(copy_a, shared.a[stage], depth, at.depth_end);
          activate(copy_b, shared.b[stage], depth, at.depth_end);
        },
        [&](int stage) { Base::multiply(shared.a[stage], shared.b[stage]); });
  }

 private:
  template <class Copier, class Slice>
  static __device__ __forceinline__ void activate(const Copier& copier, Slice& shared,
                                                  int32_t depth, int32_t depth_end) {
    if constexpr (!Copier::Prologue::kChangesNothing) copier.activate(shared, depth, depth_end);
  }
};

}  // namespace rnc
