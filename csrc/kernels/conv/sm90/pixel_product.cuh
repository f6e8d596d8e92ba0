// The Hopper main loop that sums over pixels: wgrad, and the products behind batch norm in closed
// form. Channels are contiguous in memory, hence both operands are MN-major: boxes of 64 pixels by
// 64 channels, a panel for each 64 rows or columns of the GEMM.
#pragma once

#include "kernels/conv/gemm_tile.h"
#include "kernels/conv/sm90/block_tile.cuh"
#include "kernels/conv/sm90/box_prologue.cuh"
#include "tile/wgmma_mainloop.cuh"

namespace rnc {

// One operand: kLines rows or columns of the GEMM, which are channels under a tap.
template <class PixelOperand, int kLines>
struct PixelPanels {
  using Pixels = PixelOperand;
  using Prologue = typename Pixels::Prologue;
  using Slice = MnMajorSlice<kLines>;
  using Stage = BoxStage<Slice, Prologue::kHasCompanion>;
  static constexpr int kPanels = Slice::kPanels;
  static constexpr int kBytes = kPanels * Pixels::kBytes;
  static constexpr bool kChangesNothing = Prologue::kChangesNothing;

  const Pixels& pixels;
  TapSlice panels[kPanels];
  int32_t channels[kPanels];  // of each panel

  // Lines first_line .. of `lines`. A panel behind them is the last one again: nobody reads what
  // becomes of it.
  __device__ __forceinline__ PixelPanels(const Pixels& pixels, int32_t first_line, int32_t lines,
                                         int32_t group)
      : pixels(pixels) {
    constexpr int kChannels = kBoxChannels<typename Pixels::Element>;
    const int32_t last = (lines - 1) / kChannels * kChannels;
    RNC_UNROLL
    for (int i = 0; i < kPanels; ++i) {
      // [taps_h taps_w C/groups] -> [taps_h, taps_w, C/groups]
      const int32_t line = min(first_line + i * kChannels, last);
      const int32_t tap = line / pixels.channels_per_group;
      const int32_t channel = line % pixels.channels_per_group;
      panels[i] = {tap / pixels.taps_w, tap % pixels.taps_w,
                   group * pixels.channels_per_group + channel};
      channels[i] = pixels.channels_per_group - channel;
    }
  }

  __device__ __forceinline__ void load(Stage& stage, ptx::Mbarrier& arrived,
                                       int32_t first_pixel) const {
    const auto base = pixels.base(first_pixel);
    RNC_UNROLL
    for (int i = 0; i < kPanels; ++i) pixels.load(stage, i, arrived, base, panels[i]);
  }

  // Applies the prologue to the pixels first_pixel .. pixel_end - 1 of a slice.
  template <class Threads>
  __device__ __forceinline__ void activate(Stage& stage, int32_t first_pixel,
                                           int32_t pixel_end) const {
    using Pieces = BoxPieces<Pixels, Threads>;
    if (!pixels.prologue.is_on()) return;
    typename Pixels::Base bases[Pieces::kPerThread];
    RNC_UNROLL
    for (int p = 0; p < Pieces::kPerThread; ++p) {
      bases[p] = pixels.base(first_pixel + Pieces::line(p));
    }
    RNC_UNROLL
    for (int i = 0; i < kPanels; ++i) {
      const typename Pieces::OwnChannels own(pixels, panels[i].channel, channels[i]);
      Pieces::apply(stage, i, pixels, own, [&](int p) {
        const bool exists = first_pixel + Pieces::line(p) < pixel_end;
        return exists && pixels.is_inside(bases[p], panels[i]) ? bases[p].row : -1;
      });
    }
  }
};

// Columns of ones, one wgmma step deep: to be multiplied by where rows are summed.
template <class Element>
struct alignas(1024) OnesSlice {
  static constexpr int kColumns = 8;
  Vec<Element, 8> pieces[16];  // a step of 16 ones for each column, in any order

  __device__ __forceinline__ void fill() {
    const int piece = int(threadIdx.x);
    if (piece < 16) {
      RNC_UNROLL
      for (Element& one : pieces[piece].v) one = narrow_to<Element>(1.0f);
    }
    ptx::fence_proxy_async();
  }
  __device__ __forceinline__ uint64_t descriptor() const {
    return k_major_descriptor(ptx::shared_address(pieces), Swizzle::kNone, 256, 128);
  }
};

// kSumsRows: it also sums the rows of A, as one more product by columns of ones.
template <class Tile, class PixelsA, class PixelsB, bool kSumsRows = false>
struct Sm90PixelProductMainloop : Sm90BlockTile<Tile> {
  static_assert(Tile::kClusterBlocks == 1, "products share no operand");
  using BlockTile = Sm90BlockTile<Tile>;
  using BlockTile::kRows, BlockTile::kColumns, BlockTile::kConsumers;
  using typename BlockTile::Acc;
  using Element = typename PixelsA::Element;
  using A = PixelPanels<PixelsA, kRows>;
  using B = PixelPanels<PixelsB, kColumns>;
  using Rows = std::conditional_t<kSumsRows, RowsWithSums<typename BlockTile::Rows, Acc>,
                                  typename BlockTile::Rows>;
  static constexpr int kStages = Tile::kRingBytes / (A::kBytes + B::kBytes);
  using Position = RingPosition<kStages>;
  struct Stage {
    typename A::Stage a;
    typename B::Stage b;
  };
  struct Storage {
    Stage stages[kStages];
    OnesSlice<Element> ones;
    MbarrierRing<kStages> ring;
  };
  struct Params {
    PixelsA a;
    PixelsB b;

    // From the operands that the main loops of other generations take.
    template <class OperandA, class OperandB>
    Params(const OperandA& a, const OperandB& b) : a(a.operand), b(b.operand) {}

    const char* error() const { return a.error ? a.error : b.error; }
  };

  Acc row_sums[4];  // of rows r and r + 8, in two columns each that are the same

  static __device__ __forceinline__ void set_up(Storage& shared) {
    if (threadIdx.x == 0) shared.ring.initialise(kConsumers / 32);
    if constexpr (kSumsRows) shared.ones.fill();
  }

  // The producing thread: fills the ring with the slices of the tile at `at`.
  static __device__ __forceinline__ void load(const Params& params, const GemmTile& at,
                                              Storage& shared, Position& position) {
    const A a(params.a, at.first_row, at.rows, at.group);
    const B b(params.b, at.first_column, at.columns, at.group);
    for (int32_t pixel = at.depth_begin; pixel < at.depth_end; pixel += kPanelRows) {
      auto& stage = shared.stages[position.stage];
      auto& arrived = shared.ring.full[position.stage];
      shared.ring.acquire(position, A::kBytes + B::kBytes);
      a.load(stage.a, arrived, pixel);
      b.load(stage.b, arrived, pixel);
      position.advance();
    }
  }

  // The warpgroups: the tile at `at`.
  __device__ __forceinline__ void run(const Params& params, const GemmTile& at, Storage& shared,
                                      Position& position) {
    this->clear();
    if constexpr (kSumsRows) {
      RNC_UNROLL
      for (Acc& sum : row_sums) sum = Acc(0);
    }
    const int slices = (at.depth_end - at.depth_begin + kPanelRows - 1) / kPanelRows;
    const auto multiply = [&](int stage, int) {
      RNC_UNROLL
      for (int step = 0; step < A::Slice::kSteps; ++step) {
        const uint64_t a =
            shared.stages[stage].a.slice.descriptor(step, BlockTile::warpgroup_row());
        ptx::wgmma_ss<Element, BlockTile::kWarpgroupColumns, true, true>(
            this->accumulators, a,
            shared.stages[stage].b.slice.descriptor(step, BlockTile::warpgroup_column()), true);
        if constexpr (kSumsRows) {
          ptx::wgmma_ss<Element, OnesSlice<Element>::kColumns, true>(
              row_sums, a, shared.ones.descriptor(), true);
        }
      }
    };
    const auto release = [&](int stage, bool condition) {
      shared.ring.release_if(stage, condition);
    };
    if constexpr (A::kChangesNothing && B::kChangesNothing) {
      wgmma_mainloop(shared.ring, position, slices, this->accumulators, multiply, release);
    } else {
      // Every thread changes a share of every panel.
      using Consumers = LeadingThreads<kConsumers>;
      const A a(params.a, at.first_row, at.rows, at.group);
      const B b(params.b, at.first_column, at.columns, at.group);
      const auto prepare = [&](int stage, int slice) {
        const int32_t pixel = at.depth_begin + slice * kPanelRows;
        activate<Consumers>(a, shared.stages[stage].a, pixel, at.depth_end);
        activate<Consumers>(b, shared.stages[stage].b, pixel, at.depth_end);
        ptx::fence_proxy_async();
        Consumers::sync();
      };
      prepared_wgmma_mainloop(shared.ring, position, slices, this->accumulators, prepare, multiply,
                              release);
    }
    if constexpr (kSumsRows) ptx::keep_registers(row_sums);
  }

  __device__ __forceinline__ void stage(int part, Rows& rows) {
    BlockTile::stage(part, rows);
    if constexpr (kSumsRows) {
      const int lane = int(threadIdx.x) % 32;
      if (lane % 4 != 0) return;
      const int row = int(threadIdx.x) % Warpgroup::kThreads / 32 * 16 + lane / 4;
      rows.sums[row] = row_sums[0];
      rows.sums[row + 8] = row_sums[2];
    }
  }

 private:
  template <class Threads, class Panels, class Slices>
  static __device__ __forceinline__ void activate(const Panels& panels, Slices& stage,
                                                  int32_t first_pixel, int32_t pixel_end) {
    if constexpr (!Panels::kChangesNothing) {
      panels.template activate<Threads>(stage, first_pixel, pixel_end);
    }
  }
};

}  // namespace rnc
