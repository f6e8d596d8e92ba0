// Prologues on Hopper: TMA cannot change what it loads, so that the threads which multiply a box of
// pixels change it in shared memory first. wgmma reads it by another proxy: a fence must follow,
// and a barrier of those that read it.
#pragma once

#include "kernels/conv/sm90/tma_operands.cuh"
#include "ptx/fence.cuh"

namespace rnc {

// One thread's share of a panel of so many pixels: the same 8 channels of some of its lines.
template <class Pixels, class Threads, int kLines = kPanelRows>
struct BoxPieces {
  using T = typename Pixels::Element;
  using Prologue = typename Pixels::Prologue;
  static_assert(sizeof(T) == 2, "a piece is what a swizzle keeps together");
  static constexpr int kElements = 8;
  static constexpr int kPerLine = kBoxChannels<T> / kElements;
  static constexpr int kLinesAtOnce = Threads::kCount / kPerLine;
  static constexpr int kPerThread = kLines / kLinesAtOnce;
  static_assert(kLines % kLinesAtOnce == 0);

  static __device__ __forceinline__ int line(int i) {
    return Threads::index() / kPerLine + i * kLinesAtOnce;
  }

  // The channels of the calling thread's pieces, of `channels` from `first_channel` on: all are
  // there, or none.
  struct OwnChannels {
    int32_t first;
    bool are_there;
    typename Prologue::template Piece<kElements> prologue;

    __device__ __forceinline__ OwnChannels(const Pixels& pixels, int32_t first_channel,
                                           int32_t channels)
        : first(first_channel + own()),
          are_there(pixels.prologue.is_on() && own() < channels),
          prologue(pixels.prologue, first, are_there ? kElements : 0, true) {}
  };

  // Applies the prologue to the thread's pieces of a panel; row(i): the pixel's row in its tensor,
  // or negative where the piece is outside of it, and stays zero.
  template <class Stage, class Row>
  static __device__ __forceinline__ void apply(Stage& stage, int panel, const Pixels& pixels,
                                               const OwnChannels& channels, Row&& row) {
    if (!channels.are_there) return;
    RNC_UNROLL
    for (int i = 0; i < kPerThread; ++i) {
      const int32_t pixel = row(i);
      if (pixel < 0) continue;
      Piece* piece = piece_at(stage.slice.panel(panel), line(i), own());
      Piece elements = ptx::load_shared(piece);
      if constexpr (Prologue::kHasBits) {
        // A piece's bits are one byte.
        const int64_t element = int64_t(pixel) * pixels.C + channels.first;
        channels.prologue.apply(elements,
                                ptx::load_global_input(pixels.prologue.bits + element / kElements));
      } else if constexpr (Prologue::kHasCompanion) {
        channels.prologue.apply(
            elements, ptx::load_shared(piece_at(stage.companion.panel(panel), line(i), own())));
      } else {
        channels.prologue.apply(elements);
      }
      ptx::store_shared(piece, elements);
    }
  }

 private:
  using Piece = Vec<T, kElements>;

  static __device__ __forceinline__ int own() { return Threads::index() % kPerLine * kElements; }

  static __device__ __forceinline__ Piece* piece_at(unsigned char* panel, int line, int element) {
    const uint32_t offset = uint32_t(line * kSliceBytes + element * int(sizeof(T)));
    return reinterpret_cast<Piece*>(panel + swizzle_offset(offset, Swizzle::k128));
  }
};

}  // namespace rnc
