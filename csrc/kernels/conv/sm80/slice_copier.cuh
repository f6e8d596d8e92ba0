// How the threads of a block copy a slice of an operand into shared memory, in pieces of 16 bytes
// by cp.async, and change the pieces on their way.
#pragma once

#include <type_traits>

#include "kernels/conv/operands.cuh"
#include "ptx/cp_async.cuh"
#include "ptx/shared_address.cuh"

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
// The same where the prologue reads a bit for each element: 32 of them, for each piece.
template <class Slice, int kPieces>
struct OperandStageWithBits {
  Slice slice;
  uint32_t bits[kPieces];
};

// One thread's share of the copies of one operand: the same piece of some of the slice's lines.
// kHoldsChannels: where pieces are rows, what the prologue needs for them stays in registers.
template <class Operand, class Slice, int kThreads, bool kHoldsChannels = true>
struct SliceCopier {
  using T = typename Operand::Element;
  using Prologue = typename Operand::Prologue;
  static constexpr bool kAlongDepth = Operand::kDepthIsContiguous;
  static constexpr int kPieceBytes = Operand::kPieceBytes;
  static constexpr int kPieceElements = kPieceBytes / int(sizeof(T));
  static constexpr int kPieces = Slice::kRowBytes / kPieceBytes;  // of a line
  static constexpr int kLinesAtOnce = kThreads / kPieces;
  static constexpr int kCopies = Slice::kLines / kLinesAtOnce;
  static_assert(kThreads % kPieces == 0 && Slice::kLines % kLinesAtOnce == 0);
  using Stage =
      std::conditional_t<Prologue::kHasBits, OperandStageWithBits<Slice, kCopies * kThreads>,
                         OperandStage<Slice, Prologue::kHasCompanion>>;
  static constexpr int kRowsHeld = kAlongDepth ? kCopies : 1;
  // What the prologue needs for a piece of channels.
  using Channels = typename Prologue::template Piece<kPieceElements>;
  static constexpr bool kHasRowChannels = !kAlongDepth && kHoldsChannels;
  struct NoChannels {};
  using RowChannels = std::conditional_t<kHasRowChannels, Channels, NoChannels>;

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
      if constexpr (Prologue::kHasBits) copy_bits(shared, i, source);
    });
  }

  // Applies the prologue to the pieces that this thread has copied and that have arrived.
  __device__ __forceinline__ void activate(Stage& shared, int32_t first_depth,
                                           int32_t depth_end) const {
    if (!operand.prologue.is_on()) return;
    if constexpr (kAlongDepth) {
      if (first_depth + piece() >= depth_end) return;
      const auto depth = operand.depth(first_depth + piece(), depth_end, group);
      activate(shared, first_depth, depth_end, channels_from(operand.channel(depth, group)));
    } else if constexpr (kHasRowChannels) {
      if (piece_is_row) activate(shared, first_depth, depth_end, row_channels);
    } else if (piece_is_row) {
      activate(shared, first_depth, depth_end, channels_from(operand.channel(rows[0], group)));
    }
  }

 private:
  using Piece = Vec<T, kPieceElements>;

  __device__ __forceinline__ Channels channels_from(int32_t channel) const {
    return Channels(operand.prologue, channel, kPieceElements, true);
  }

  static __device__ __forceinline__ RowChannels channels_of(const Operand& operand, int32_t row,
                                                            int32_t row_count, int32_t group) {
    if constexpr (!kHasRowChannels) {
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
      if constexpr (Prologue::kHasBits) {
        prologue.apply(elements, bits_at(shared, i) >> uint32_t(source - operand.base()) % 32);
      } else if constexpr (Prologue::kHasCompanion) {
        prologue.apply(elements, *piece_at(shared.companion, i));
      } else {
        prologue.apply(elements);
      }
      *piece_at(shared.slice, i) = elements;
    });
  }

  static __device__ __forceinline__ Piece* piece_at(Slice& slice, int i) {
    return const_cast<Piece*>(
        static_cast<const Piece*>(slice.at(line(i), piece() * int(sizeof(T)))));
  }

  // Each thread copies the bits of its own pieces, so that it need not wait for another's.
  static __device__ __forceinline__ uint32_t& bits_at(Stage& shared, int i) {
    return shared.bits[i * kThreads + int(threadIdx.x)];
  }

  __device__ __forceinline__ void copy_bits(Stage& shared, int i, const T* source) const {
    const Prologue& prologue = operand.prologue;
    if (!source || !prologue.is_on()) return;
    // The 4 bytes with the piece's bits; the last ones of the tensor may be fewer.
    const int64_t first = (source - operand.base()) / 32 * 4;
    const uint32_t count = uint32_t(min(prologue.bytes - first, int64_t(4)));
    ptx::cp_async<4>(ptx::shared_address(&bits_at(shared, i)), prologue.bits + first, count);
  }

  static __device__ __forceinline__ void copy_piece(Slice& slice, int i, const T* source,
                                                    bool exists) {
    ptx::cp_async<kPieceBytes>(ptx::shared_address(piece_at(slice, i)), source,
                               exists ? kPieceBytes : 0);
  }
};

}  // namespace rnc
