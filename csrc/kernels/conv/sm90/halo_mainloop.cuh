// The Hopper main loop of 3x3 windows without stride over at most 64 channels and columns: all
// filters stay in shared memory, and each box of pixels that TMA brings is multiplied under the
// three taps of a column. A warpgroup has boxes of its own: while one stores its tile, the others
// multiply theirs.
#pragma once

#include "kernels/conv/gemm_tile.h"
#include "kernels/conv/sm90/block_tile.cuh"
#include "kernels/conv/sm90/box_prologue.cuh"
#include "kernels/conv/sm90/halo_pixels.cuh"
#include "tile/wgmma_mainloop.cuh"

namespace rnc {

template <class FilterSlice, class Stage, int kBuffers, int kBoxes>
struct HaloStorage {
  FilterSlice filters[HaloSquare::kTaps][HaloSquare::kTaps];
  Stage buffers[kBuffers];
  MbarrierRing<kBoxes> ring;
  ptx::Mbarrier filters_arrived;
};

template <class Tile, class PixelOperand, class FilterOperand>
struct Sm90HaloMainloop : Sm90BlockTile<Tile> {
  using BlockTile = Sm90BlockTile<Tile>;
  using Pixels = PixelOperand;
  using Filters = FilterOperand;
  using Prologue = typename Pixels::Prologue;
  using Element = typename Pixels::Element;
  using FilterSlice = typename Filters::Slice;
  using PixelSlice = KMajorSlice<HaloSquare::kBoxPixels>;
  using Stage = BoxStage<PixelSlice, Prologue::kHasCompanion>;
  static constexpr int kTaps = HaloSquare::kTaps;
  static constexpr int kFilterBytes = kTaps * kTaps * FilterSlice::kBytes;
  // Every box of a tile is a stage with barriers of its own, as each has one warpgroup that waits
  // for it; which buffers they share decides how far the producer runs ahead.
  static constexpr int kBoxes = Tile::kWarpgroups * kTaps;
  static constexpr int kBuffers = (Tile::kRingBytes - kFilterBytes) / Pixels::kBytes;
  static_assert(kBoxes % kBuffers == 0);
  using Position = RingPosition<kBoxes>;
  using Storage = HaloStorage<FilterSlice, Stage, kBuffers, kBoxes>;

  struct Params {
    Pixels pixels;
    Filters filters;

    // From the operands that the main loops of other generations take.
    template <class A, class B>
    Params(const A& a, const B& b) : pixels(a), filters(b, pixels) {}

    const char* error() const { return pixels.error ? pixels.error : filters.error; }
    // Which rows of the output the GEMM's rows are.
    HaloRows places() const { return pixels.places; }
  };

  static __device__ __forceinline__ void set_up(Storage& shared) {
    if (threadIdx.x == 0) {
      ptx::mbarrier_init(shared.filters_arrived, 1, "filters");
      shared.ring.initialise(Warpgroup::kWarps);
    }
  }

  // The producing thread, once: loads the filters.
  static __device__ __forceinline__ void load_resident(const Params& params, Storage& shared) {
    ptx::mbarrier_arrive_expect_tx(shared.filters_arrived, kFilterBytes);
    TapSlice tap;
    for (tap.r = 0; tap.r < kTaps; ++tap.r) {
      for (tap.s = 0; tap.s < kTaps; ++tap.s) {
        params.filters.load(shared.filters[tap.r][tap.s], shared.filters_arrived, tap, 0, 0);
      }
    }
  }

  // The producing thread: fills the ring with the boxes of the tile at `at`, one warpgroup's after
  // the other's. A square behind the last image has boxes of zeros.
  static __device__ __forceinline__ void load(const Params& params, const GemmTile& at,
                                              Storage& shared, Position& position) {
    const Pixels& pixels = params.pixels;
    for (int32_t row = at.first_row; row < at.first_row + BlockTile::kRows;
         row += Warpgroup::kRows) {
      for (int s = 0; s < kTaps; ++s) {
        shared.ring.acquire(position, Pixels::kBytes, kBuffers);
        pixels.load(shared.buffers[position.stage % kBuffers], shared.ring.full[position.stage],
                    pixels.corner(row, s));
        position.advance();
      }
    }
  }

  // The warpgroups: the tile at `at`.
  __device__ __forceinline__ void run(const Params& params, const GemmTile& at, Storage& shared,
                                      Position& position) {
    const Pixels& pixels = params.pixels;
    const auto multiply = [&](int box, int s) {
      RNC_UNROLL
      for (int r = 0; r < kTaps; ++r) {
        RNC_UNROLL
        for (int step = 0; step < PixelSlice::kSteps; ++step) {
          ptx::wgmma_ss<Element, BlockTile::kWarpgroupColumns, false, FilterSlice::kIsMnMajor>(
              this->accumulators,
              shared.buffers[box % kBuffers].slice.descriptor(step, pixels.first_line(r)),
              shared.filters[r][s].descriptor(step), true);
        }
      }
    };
    const auto release = [&](int box, bool condition) { shared.ring.release_if(box, condition); };

    // Wait for the filters, whose barrier completes once.
    this->clear();
    ptx::mbarrier_wait(shared.filters_arrived, 0);
    // Multiply this warpgroup's boxes of [warpgroups, tap columns], and pass over the others.
    const int before = WarpgroupThreads::warpgroup() * kTaps;
    position.advance(before);
    if constexpr (Prologue::kChangesNothing) {
      wgmma_mainloop(shared.ring, position, kTaps, this->accumulators, multiply, release);
    } else {
      const int32_t first_row = at.first_row + BlockTile::warpgroup_row();
      // The same channels for every box; of a companion's prologue they are too many registers.
      const OwnChannels kept(pixels, 0, Prologue::kHasCompanion ? 0 : pixels.channels_per_group);
      const auto prepare = [&](int box, int s) {
        Stage& stage = shared.buffers[box % kBuffers];
        const HaloRows::Pixel corner = pixels.corner(first_row, s);
        if constexpr (Prologue::kHasCompanion) {
          activate(stage, pixels, OwnChannels(pixels, 0, pixels.channels_per_group), corner);
        } else {
          activate(stage, pixels, kept, corner);
        }
      };
      prepared_wgmma_mainloop(shared.ring, position, kTaps, this->accumulators, prepare, multiply,
                              release);
    }
    position.advance(kBoxes - kTaps - before);
  }

 private:
  using Pieces = BoxPieces<Pixels, WarpgroupThreads, HaloSquare::kBoxPixels>;
  using OwnChannels = typename Pieces::OwnChannels;

  // Applies the prologue to the warpgroup's box, once for the three taps that see it.
  static __device__ __forceinline__ void activate(Stage& box, const Pixels& pixels,
                                                  const OwnChannels& channels,
                                                  const HaloRows::Pixel& from) {
    Pieces::apply(box, 0, pixels, channels,
                  [&](int i) { return pixels.row(from, Pieces::line(i)); });
    ptx::fence_proxy_async();
    WarpgroupThreads::sync();
  }
};

}  // namespace rnc
