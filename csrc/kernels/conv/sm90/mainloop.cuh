// The Hopper main loop of fprop and dgrad: TMA fills a ring of shared-memory stages with boxes of
// pixels and filters, tap by tap, wgmma multiplies them. Pixels whose prologue changes something
// are changed on their way to registers, or in place, while the slice before is multiplied.
#pragma once

#include "kernels/conv/gemm_tile.h"
#include "kernels/conv/sm90/block_tile.cuh"
#include "kernels/conv/sm90/box_prologue.cuh"
#include "kernels/conv/sm90/fragment_prologue.cuh"
#include "tile/wgmma_mainloop.cuh"

namespace rnc {

template <class PixelStage, class FilterSlice, class ChannelStage>
struct TapStage {
  PixelStage pixels;
  FilterSlice filters;
  [[no_unique_address]] ChannelStage channels;
};

template <class Stage, int kStages>
struct TapStorage {
  Stage stages[kStages];
  MbarrierRing<kStages> ring;
};

template <class Tile, class PixelOperand, class FilterOperand>
struct Sm90Mainloop : Sm90BlockTile<Tile> {
  using BlockTile = Sm90BlockTile<Tile>;
  using BlockTile::kRows, BlockTile::kColumns;
  using Pixels = PixelOperand;
  using Filters = FilterOperand;
  using Prologue = typename Pixels::Prologue;
  using Element = typename Pixels::Element;
  using PixelSlice = KMajorSlice<kRows>;
  using FilterSlice = typename Filters::Slice;
  using Channels = SliceChannels<Prologue>;
  using Stage = TapStage<BoxStage<PixelSlice, Prologue::kHasCompanion>, FilterSlice,
                         typename Channels::Stage>;
  static constexpr int kBoxBytes = Pixels::kBytes + FilterSlice::kBytes;
  static constexpr int kStages = Tile::kRingBytes / sizeof(Stage);
  using Position = RingPosition<kStages>;
  using Storage = TapStorage<Stage, kStages>;
  // Matrices that are to be summed are taps of one pixel.
  static constexpr bool kSumsMatrices = true;
  // The same main loop for other operands.
  template <class A, class B>
  using With =
      Sm90Mainloop<Tile, TmaPixels<Element, typename A::Prologue, kRows>,
                   TmaFilters<Element, kColumns, B::kDepthIsContiguous, Tile::kClusterBlocks>>;

  struct Params {
    Pixels pixels;
    Filters filters;
    [[no_unique_address]] Channels channels;

    // From the operands that the main loops of other generations take.
    template <class A, class B>
    Params(const A& a, const B& b) : pixels(a, b), filters(b, pixels), channels(pixels) {}

    const char* error() const {
      return pixels.error ? pixels.error : filters.error ? filters.error : channels.error;
    }
    __device__ __forceinline__ TapSlices<Element> slices() const {
      return {pixels.taps_h, pixels.taps_w, pixels.channels_per_group};
    }
  };

  static __device__ __forceinline__ void set_up(Storage& shared) {
    if (threadIdx.x == 0) {
      shared.ring.initialise(Tile::kClusterBlocks * BlockTile::kConsumers / 32);
    }
  }

  // The producing thread: fills the ring with the slices of the tile at `at`.
  static __device__ __forceinline__ void load(const Params& params, const GemmTile& at,
                                              Storage& shared, Position& position) {
    const Pixels& pixels = params.pixels;
    const TapSlices<Element> slices = params.slices();
    const auto base = pixels.base(at.first_row);
    const int32_t first_channel = at.group * pixels.channels_per_group;
    const uint32_t bytes = kBoxBytes + params.channels.bytes();
    TapSlice slice;
    for (int32_t left = slices.count(); left > 0; --left) {
      auto& stage = shared.stages[position.stage];
      auto& arrived = shared.ring.full[position.stage];
      const int32_t channel = first_channel + slice.channel;
      shared.ring.acquire(position, bytes);
      pixels.load(stage.pixels, 0, arrived, base, {slice.r, slice.s, channel});
      params.filters.load(stage.filters, arrived, slice, at.group, at.first_column);
      params.channels.load(stage.channels, arrived, channel);
      slices.advance(slice);
      position.advance();
    }
  }

  // The warpgroups: the tile at `at`.
  __device__ __forceinline__ void run(const Params& params, const GemmTile& at, Storage& shared,
                                      Position& position) {
    this->clear();
    accumulate(*this, params, at, shared, position);
  }

  // Adds the product to the tile `sum`.
  static __device__ __forceinline__ void accumulate(BlockTile& sum, const Params& params,
                                                    const GemmTile& at, Storage& shared,
                                                    Position& position) {
    const TapSlices<Element> slices = params.slices();
    const auto filters = [&](int stage, int step) {
      return shared.stages[stage].filters.descriptor(step, BlockTile::warpgroup_column());
    };
    const auto multiply = [&](int stage, int) {
      RNC_UNROLL
      for (int step = 0; step < PixelSlice::kSteps; ++step) {
        ptx::wgmma_ss<Element, BlockTile::kWarpgroupColumns, false, FilterSlice::kIsMnMajor>(
            sum.accumulators,
            shared.stages[stage].pixels.slice.descriptor(step, BlockTile::warpgroup_row()),
            filters(stage, step), true);
      }
    };
    const auto release = [&](int stage, bool condition) {
      if constexpr (Tile::kClusterBlocks == 1) {
        shared.ring.release_if(stage, condition);
      } else {
        shared.ring.release_in_cluster_if(stage, condition, Tile::kClusterBlocks);
      }
    };
    if constexpr (Prologue::kChangesNothing) {
      wgmma_mainloop(shared.ring, position, slices.count(), sum.accumulators, multiply, release);
    } else if constexpr (Channels::kAreThere) {
      FragmentPixels<Pixels> own(params.pixels, at.first_row + BlockTile::warpgroup_row());
      TapSlice slice;
      const auto load = [&](int index, int half, HalfSliceFragments& fragments) {
        Stage& stage = shared.stages[index];
        if (half == 0) {
          own.move_to(slice);
          slices.advance(slice);
        }
        own.load(stage, BlockTile::warpgroup_row() / kPanelRows, half, fragments);
      };
      const auto multiply_fragments = [&](int stage, int half,
                                          const HalfSliceFragments& fragments) {
        constexpr int kSteps = HalfSliceFragments::kSteps;
        RNC_UNROLL
        for (int step = 0; step < kSteps; ++step) {
          ptx::wgmma_rs<Element, BlockTile::kWarpgroupColumns, FilterSlice::kIsMnMajor>(
              sum.accumulators, fragments.steps[step], filters(stage, half * kSteps + step), true);
        }
      };
      fragment_wgmma_mainloop(shared.ring, position, slices.count(), sum.accumulators, load,
                              multiply_fragments, release);
    } else {
      OwnPixels own(params.pixels, at);
      TapSlice slice;
      const auto prepare = [&](int stage, int) {
        own.activate(shared.stages[stage], slice);
        slices.advance(slice);
      };
      prepared_wgmma_mainloop(shared.ring, position, slices.count(), sum.accumulators, prepare,
                              multiply, release);
    }
  }

 private:
  // The pixels that a thread changes: of its warpgroup's rows, so that no other one waits for it.
  struct OwnPixels {
    using Pieces = BoxPieces<Pixels, WarpgroupThreads>;
    const Pixels& pixels;
    const int32_t first_channel, rows;
    typename Pixels::Base bases[Pieces::kPerThread];

    __device__ __forceinline__ OwnPixels(const Pixels& pixels, const GemmTile& at)
        : pixels(pixels), first_channel(at.group * pixels.channels_per_group), rows(at.rows) {
      RNC_UNROLL
      for (int i = 0; i < Pieces::kPerThread; ++i) {
        bases[i] = pixels.base(at.first_row + BlockTile::warpgroup_row() + Pieces::line(i));
      }
    }

    __device__ __forceinline__ void activate(Stage& stage, const TapSlice& at) const {
      const typename Pieces::OwnChannels channels(pixels, first_channel + at.channel,
                                                  pixels.channels_per_group - at.channel);
      Pieces::apply(stage.pixels, BlockTile::warpgroup_row() / kPanelRows, pixels, channels,
                    [&](int i) {
                      const bool exists = bases[i].row < rows;
                      return exists && pixels.is_inside(bases[i], at) ? bases[i].row : -1;
                    });
      ptx::fence_proxy_async();
      WarpgroupThreads::sync();
    }
  };
};

}  // namespace rnc
