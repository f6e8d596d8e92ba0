// The Ampere main loop: cp.async fills a ring of shared-memory stages with 16-byte pieces of the
// operands, ldmatrix loads fragments from it, mma.sync multiplies them; float in TF32. Needs
// operands whose contiguous index comes in runs of whole, aligned 16 bytes.
#pragma once

#include "kernels/conv/gemm_tile.h"
#include "kernels/conv/operands.cuh"
#include "kernels/conv/sm80/block_tile.cuh"
#include "tile/cp_async_mainloop.cuh"

namespace rnc {

// A stage of one operand: its slice, and where the prologue reads a second tensor that one's.
template <class Slice, bool kHasCompanion>
struct OperandStage {
  Slice slice;
};
template <class Slice>
struct OperandStage<Slice, true> {
  Slice slice, companion;
};

// One thread's share of the copies of one operand: the same piece of some of the slice's lines.
template <class Operand, class Slice, int kThreads>
struct SliceCopier {
  using T = typename Operand::Element;
  using Prologue = typename Operand::Prologue;
  using Stage = OperandStage<Slice, Prologue::kHasCompanion>;
  static constexpr bool kAlongDepth = Operand::kDepthIsContiguous;
  static constexpr int kPieceBytes = Operand::kPieceBytes;
  static constexpr int kPieceElements = kPieceBytes / int(sizeof(T));
  static constexpr int kPieces = Slice::kRowBytes / kPieceBytes;  // of a line
  static constexpr int kLinesAtOnce = kThreads / kPieces;
  static constexpr int kCopies = Slice::kLines / kLinesAtOnce;
  static_assert(kThreads % kPieces == 0 && Slice::kLines % kLinesAtOnce == 0);
  static constexpr int kRowsHeld = kAlongDepth ? kCopies : 1;
  // What the prologue needs for a piece of channels. Where pieces are rows it is loaded once.
  using Channels = typename Prologue::template Piece<kPieceElements>;
  struct NoChannels {};
  using RowChannels = std::conditional_t<kAlongDepth, NoChannels, Channels>;

  const Operand& operand;
  const int32_t group;
  const bool piece_is_row;  // whether this thread's piece holds rows of the operand
  typename Operand::Row rows[kRowsHeld];
  RowChannels row_channels;

  // Finds the rows this thread will copy, once for all slices.
  __device__ __forceinline__ SliceCopier(const Operand& operand, int32_t first_row,
                                         int32_t row_count, int32_t group)
      : operand(operand),
        group(group),
        piece_is_row(first_row + piece() < row_count),
        row_channels(
            channels_of(operand, piece_is_row ? first_row + piece() : 0, row_count, group)) {
    RNC_UNROLL
    for (int i = 0; i < kRowsHeld; ++i) {
      rows[i] = operand.row(first_row + (kAlongDepth ? line(i) : piece()), row_count, group);
    }
  }

  // The piece's first element in its line.
  static __device__ __forceinline__ int piece() {
    return int(threadIdx.x) % kPieces * kPieceElements;
  }
  static __device__ __forceinline__ int line(int i) {
    return int(threadIdx.x) / kPieces + i * kLinesAtOnce;
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
  __device__ __forceinline__ void copy(Stage& shared, int32_t first_depth,
                                       int32_t depth_end) const {
    for_each_piece(first_depth, depth_end, [&](int i, const T* source) {
      copy_piece(shared.slice, i, source ? source : operand.base(), source);
      if constexpr (Prologue::kHasCompanion) {
        copy_piece(shared.companion, i, companion_of(operand, source ? source : operand.base()),
                   source);
      }
    });
  }

  // Applies the prologue to the pieces that this thread has copied and that have arrived.
  __device__ __forceinline__ void activate(Stage& shared, int32_t first_depth,
                                           int32_t depth_end) const {
    if constexpr (kAlongDepth) {
      if (first_depth + piece() >= depth_end) return;
      const auto depth = operand.depth(first_depth + piece(), depth_end, group);
      const Channels channels(operand.prologue, operand.channel(depth, group), kPieceElements,
                              true);
      activate(shared, first_depth, depth_end, channels);
    } else {
      if (piece_is_row) activate(shared, first_depth, depth_end, row_channels);
    }
  }

 private:
  using Piece = Vec<T, kPieceElements>;

  static __device__ __forceinline__ RowChannels channels_of(const Operand& operand, int32_t row,
                                                            int32_t row_count, int32_t group) {
    if constexpr (kAlongDepth) {
      return {};
    } else {
      const int32_t channel = operand.channel(operand.row(row, row_count, group), group);
      return Channels(operand.prologue, channel, kPieceElements, true);
    }
  }

  __device__ __forceinline__ void activate(Stage& shared, int32_t first_depth, int32_t depth_end,
                                           const Channels& prologue) const {
    for_each_piece(first_depth, depth_end, [&](int i, const T* source) {
      if (!source) return;
      Piece elements = *piece_at(shared.slice, i);
      if constexpr (Prologue::kHasCompanion) {
        const Piece others = *piece_at(shared.companion, i);
        RNC_UNROLL
        for (int e = 0; e < kPieceElements; ++e) {
          elements.v[e] = prologue.apply(elements.v[e], others.v[e], e);
        }
      } else {
        RNC_UNROLL
        for (int e = 0; e < kPieceElements; ++e) {
          elements.v[e] = prologue.apply(elements.v[e], e);
        }
      }
      *piece_at(shared.slice, i) = elements;
    });
  }

  static __device__ __forceinline__ Piece* piece_at(Slice& slice, int i) {
    return const_cast<Piece*>(
        static_cast<const Piece*>(slice.at(line(i), piece() * int(sizeof(T)))));
  }

  static __device__ __forceinline__ void copy_piece(Slice& slice, int i, const T* source,
                                                    bool exists) {
    ptx::cp_async<kPieceBytes>(ptx::shared_address(piece_at(slice, i)), source,
                               exists ? kPieceBytes : 0);
  }
};

template <class Tile, class OperandA, class OperandB>
struct Sm80Mainloop : Sm80BlockTile<Tile, typename OperandA::Element> {
  using Base = Sm80BlockTile<Tile, typename OperandA::Element>;
  using Base::kColumns, Base::kRows, Base::kSliceDepth, Base::kThreads, Base::tile;
  using SliceA = SliceOf<OperandA, kRows>;
  using SliceB = SliceOf<OperandB, kColumns>;
  using CopierA = SliceCopier<OperandA, SliceA, kThreads>;
  using CopierB = SliceCopier<OperandB, SliceB, kThreads>;
  static constexpr int kStages =
      Tile::kSharedBytes / int(sizeof(typename CopierA::Stage) + sizeof(typename CopierB::Stage));
  struct Storage {
    typename CopierA::Stage a[kStages];
    typename CopierB::Stage b[kStages];
  };
  struct Params {
    OperandA a;
    OperandB b;
  };

  // The tile at `at`.
  __device__ __forceinline__ void run(const Params& params, const GemmTile& at, Storage& shared) {
    tile.clear();
    const CopierA copy_a(params.a, at.first_row, at.rows, at.group);
    const CopierB copy_b(params.b, at.first_column, at.columns, at.group);
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
        [&](int stage) {
          Base::multiply(shared.a[stage].slice, shared.b[stage].slice, at.diagonal);
        });
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
