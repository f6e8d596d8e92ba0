// A whole bottleneck with an identity shortcut at inference, on Hopper: x comes in and y leaves,
// and what lies between never leaves the multiprocessor. All filters stay in shared memory; each
// warpgroup marches down strips of the images by itself (block_strips.h).
#pragma once

#include "kernels/bottleneck/block_strips.h"
#include "kernels/bottleneck/column_affine.cuh"
#include "kernels/bottleneck/dealt_filters.cuh"
#include "kernels/conv/sm90/block_tile.cuh"
#include "kernels/conv/sm90/tma_image.cuh"
#include "kernels/conv/sm90/tma_operands.cuh"
#include "ptx/grid_dependency.cuh"
#include "ptx/warpgroup.cuh"
#include "tile/wgmma_mainloop.cuh"

namespace rnc {

// x, y [N, H, W, kChannels].
template <class T>
struct BottleneckBlock {
  static constexpr int kChannels = 256, kReduced = 64;
  static constexpr int kTaps = BlockStrips::kTaps;
  static constexpr int kParts = kChannels / kBoxChannels<T>;  // of a pixel's channels
  // A warpgroup has 64 pixels and 64 channels in registers at a time.
  using Tile = Sm90Tile<2 * BlockStrips::kBoxPixels, kReduced, 1>;
  static constexpr int kThreads = Tile::kThreads;
  static constexpr int kAccumulators = Sm90BlockTile<Tile>::kAccumulators;
  static constexpr int kPanelStages = 4;

  using Boxes = TmaImage<T, BlockStrips::kBoxRows, BlockStrips::kBoxColumns>;
  using Filters = TmaFilters<T, kReduced, true, 1>;
  using Expand = DealtFilters<T>;
  using FilterSlice = typename Filters::Slice;
  static constexpr int kRows = Expand::kRows, kGroups = Expand::kGroups;  // of a thread's

  struct Params {
    const T* x;
    T* y;
    Boxes boxes;  // of x
    Filters reduce, convolve;
    Expand expand;
    ColumnAffine<float> reduce_norm, convolve_norm, expand_norm;
    BlockStrips strips;

    const char* error() const {
      const char* const errors[] = {boxes.error, reduce.error, convolve.error, expand.error};
      for (const char* error : errors) {
        if (error) return error;
      }
      return nullptr;
    }
  };

  struct Storage {
    FilterSlice reduce[kParts];
    FilterSlice convolve[kTaps][kTaps];
    typename Expand::Slice expand[kParts];
    TilePanel panels[Tile::kWarpgroups][kPanelStages];
    // What the windows see, reduced: rows that the box before has left, then the box.
    PlanarSlice<BlockStrips::kSeenPixels> seen[Tile::kWarpgroups];
    MbarrierRing<kPanelStages> rings[Tile::kWarpgroups];
    ptx::Mbarrier filters_arrived;
  };
  using Position = RingPosition<kPanelStages>;
  using Part = BlockStrips::Part;
  // Of two parts of the channels: the one behind the next is asked for early.
  struct Shortcut {
    ElementGroup<T> of[2][kGroups][kRows];
  };

  static __device__ __forceinline__ void set_up(Storage& shared) {
    // What no box has left yet is not wanted, but read.
    for (int w = 0; w < Tile::kWarpgroups; ++w) {
      using Piece = Vec<uint32_t, 4>;
      auto* pieces = reinterpret_cast<Piece*>(shared.seen[w].planes);
      constexpr int kPieces = int(sizeof shared.seen[w].planes / sizeof(Piece));
      for (int i = int(threadIdx.x); i < kPieces; i += kThreads) {
        ptx::store_shared(pieces + i, {});
      }
    }
    if (threadIdx.x == 0) {
      ptx::mbarrier_init(shared.filters_arrived, 1, "filters");
      for (auto& ring : shared.rings) ring.initialise(Warpgroup::kWarps);
    }
  }

  // A producing thread, once: loads the filters.
  static __device__ __forceinline__ void load_filters(const Params& params, Storage& shared) {
    constexpr uint32_t kBytes =
        sizeof shared.reduce + sizeof shared.convolve + sizeof shared.expand;
    ptx::mbarrier_arrive_expect_tx(shared.filters_arrived, kBytes);
    RNC_UNROLL_BY(1)
    for (int part = 0; part < kParts; ++part) {
      const int32_t channel = part * kBoxChannels<T>;
      params.reduce.load(shared.reduce[part], shared.filters_arrived, {0, 0, channel}, 0, 0);
      params.expand.load(shared.expand[part], shared.filters_arrived, channel);
    }
    for (int r = 0; r < kTaps; ++r) {
      for (int s = 0; s < kTaps; ++s) {
        params.convolve.load(shared.convolve[r][s], shared.filters_arrived, {r, s, 0}, 0, 0);
      }
    }
  }

  // A warpgroup's producing thread: fills its ring with what the part needs, in that order.
  static __device__ __forceinline__ void load(const Params& params, const Part& part, int warpgroup,
                                              Storage& shared, Position& at) {
    BlockStrips::for_each_box(part, [&](int32_t row) {
      for (int32_t channel = 0; channel < kChannels; channel += kBoxChannels<T>) {
        shared.rings[warpgroup].fill(shared.panels[warpgroup], at, sizeof(TilePanel),
                                     [&](TilePanel& panel, ptx::Mbarrier& arrived) {
                                       params.boxes.load(panel.bytes, arrived,
                                                         {part.n, row, part.column - 1}, channel);
                                     });
      }
    });
  }

  // A warpgroup: the part.
  static __device__ __forceinline__ void run(const Params& params, const Part& part,
                                             Storage& shared, Position& at) {
    BlockStrips::for_each_box(part, [&](int32_t row) {
      float tile[kAccumulators];
      int32_t pixels[kRows];
      Shortcut shortcut;
      reduce(params, part, row, shared, at, tile);
      keep(shared, tile);
      find_pixels(params, part, row - 1, pixels);
      load_shortcut(params, pixels, 0, shortcut);
      load_shortcut(params, pixels, 1, shortcut);
      convolve(params, shared, tile);
      expand(params, shared, pixels, shortcut, tile);
    });
  }

 private:
  // tile = the box at `row`, reduced, which is zero where the windows see padding.
  static __device__ __forceinline__ void reduce(const Params& params, const Part& part, int32_t row,
                                                Storage& shared, Position& at,
                                                float (&tile)[kAccumulators]) {
    auto& ring = shared.rings[WarpgroupThreads::warpgroup()];
    const TilePanel* const panels = shared.panels[WarpgroupThreads::warpgroup()];
    wgmma_mainloop(
        ring, at, kParts, tile,
        [&](int stage, int slice) {
          RNC_UNROLL
          for (int step = 0; step < TilePanel::kSteps; ++step) {
            ptx::wgmma_ss<T, kReduced>(tile, panels[stage].descriptor(step),
                                       shared.reduce[slice].descriptor(step),
                                       slice > 0 || step > 0);
          }
        },
        [&](int stage, bool condition) { ring.release_if(stage, condition); });
    normalise(tile, params.reduce_norm, 0);
    activate(tile);

    // A warp has a row of pixels, a thread two of them.
    const int32_t own_row = row + warp();
    const int32_t own_column = part.column - 1 + lane_row();
    bool is_inside[kRows];
    RNC_UNROLL
    for (int r = 0; r < kRows; ++r) {
      is_inside[r] = uint32_t(own_row) < uint32_t(params.strips.H) &&
                     uint32_t(own_column + 8 * r) < uint32_t(params.strips.W);
    }
    RNC_UNROLL
    for (int i = 0; i < kAccumulators; ++i) tile[i] = is_inside[i / 2 % 2] ? tile[i] : 0.0f;
  }

  // Moves up the rows that the windows still see, and rounds the tile behind them.
  static __device__ __forceinline__ void keep(Storage& shared, const float (&tile)[kAccumulators]) {
    using Piece = Vec<uint32_t, 4>;
    auto& seen = shared.seen[WarpgroupThreads::warpgroup()];
    const auto piece = [&](int row, int i) -> Piece* {
      constexpr int kColumns = BlockStrips::kBoxColumns;
      return reinterpret_cast<Piece*>(seen.piece(i / kColumns, row * kColumns + i % kColumns));
    };
    constexpr int kKept = BlockStrips::kKeptRows;
    const int last = warp() + kKept;  // where this warp has put its row of the box before
    WarpgroupThreads::sync();         // whose windows have been multiplied
    if (last >= BlockStrips::kBoxRows) {
      for (int i = int(threadIdx.x) % 32; i < seen.kPlanes * BlockStrips::kBoxColumns; i += 32) {
        ptx::store_shared(piece(last - BlockStrips::kBoxRows, i), ptx::load_shared(piece(last, i)));
      }
    }
    store_to_planes<T>(tile, seen, kKept * BlockStrips::kBoxColumns);
    ptx::fence_proxy_async();
    WarpgroupThreads::sync();
  }

  // tile = the windows that the box has completed, convolved.
  static __device__ __forceinline__ void convolve(const Params& params, Storage& shared,
                                                  float (&tile)[kAccumulators]) {
    const auto& seen = shared.seen[WarpgroupThreads::warpgroup()];
    ptx::keep_registers(tile);  // whatever read them is done before the fence
    ptx::wgmma_fence();
    // Tap columns first, as conv_fprop sums over halos.
    RNC_UNROLL
    for (int s = 0; s < kTaps; ++s) {
      RNC_UNROLL
      for (int r = 0; r < kTaps; ++r) {
        RNC_UNROLL
        for (int step = 0; step < seen.kSteps; ++step) {
          ptx::wgmma_ss<T, kReduced>(tile, seen.descriptor(step, r * BlockStrips::kBoxColumns + s),
                                     shared.convolve[r][s].descriptor(step),
                                     r > 0 || s > 0 || step > 0);
        }
      }
    }
    ptx::wgmma_commit();
    ptx::wgmma_wait<0>();
    ptx::keep_registers(tile);
    normalise(tile, params.convolve_norm, 0);
    activate(tile);
  }

  // The pixels that are the calling thread's two rows of the windows at `row`; negative: they are
  // none of the part's.
  static __device__ __forceinline__ void find_pixels(const Params& params, const Part& part,
                                                     int32_t row, int32_t (&pixels)[kRows]) {
    const BlockStrips& strips = params.strips;
    const int32_t own_row = row + warp();
    RNC_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const int32_t in_strip = lane_row() + 8 * r, column = part.column + in_strip;
      const bool is_wanted = own_row >= part.begin && own_row < part.end &&
                             in_strip < BlockStrips::kColumns && column < strips.W;
      pixels[r] = is_wanted ? (part.n * strips.H + own_row) * strips.W + column : -1;
    }
  }

  // Asks for the shortcut of these pixels, a part of their channels.
  static __device__ __forceinline__ void load_shortcut(const Params& params,
                                                       const int32_t (&pixels)[kRows], int part,
                                                       Shortcut& shortcut) {
    RNC_UNROLL
    for (int i = 0; i < kGroups; ++i) {
      RNC_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const int64_t at =
            int64_t(pixels[r]) * kChannels + part * kBoxChannels<T> + Expand::channel(i);
        if (pixels[r] >= 0) shortcut.of[part % 2][i][r].load(params.x, at, kGroupElements, true);
      }
    }
  }

  // Expands the tile and finishes y over the shortcut: while one part of the channels is stored,
  // the next one is multiplied.
  static __device__ __forceinline__ void expand(const Params& params, const Storage& shared,
                                                const int32_t (&pixels)[kRows], Shortcut& shortcut,
                                                const float (&tile)[kAccumulators]) {
    constexpr int kSteps = FilterSlice::kSteps;
    uint32_t fragments[kSteps][4];
    RNC_UNROLL
    for (int step = 0; step < kSteps; ++step) round_chunk<T>(tile, 8 * step, fragments[step]);
    float expanded[2][kAccumulators];
    const auto multiply = [&](int part) {
      ptx::wgmma_fence();
      RNC_UNROLL
      for (int step = 0; step < kSteps; ++step) {
        ptx::wgmma_rs<T, kBoxChannels<T>>(expanded[part % 2], fragments[step],
                                          shared.expand[part].descriptor(step), step > 0);
      }
      ptx::wgmma_commit();
    };
    multiply(0);
    RNC_UNROLL
    for (int part = 0; part < kParts; ++part) {
      if (part + 1 < kParts) {
        multiply(part + 1);
        ptx::wgmma_wait<1>();
      } else {
        ptx::wgmma_wait<0>();
        ptx::keep_registers(fragments);
      }
      ptx::keep_registers(expanded[part % 2]);
      RNC_UNROLL
      for (int i = 0; i < kGroups; ++i) {
        store(params, pixels, part * kBoxChannels<T> + Expand::channel(i), i, expanded[part % 2],
              shortcut.of[part % 2][i]);
      }
      if (part + 2 < kParts) load_shortcut(params, pixels, part + 2, shortcut);
    }
  }

  // Stores the thread's group i, whose first channel is given.
  static __device__ __forceinline__ void store(const Params& params, const int32_t (&pixels)[kRows],
                                               int32_t channel, int i,
                                               const float (&expanded)[kAccumulators],
                                               const ElementGroup<T> (&shortcut)[kRows]) {
    const ElementGroup<float> scales = load_group(params.expand_norm.scale + channel);
    const ElementGroup<float> biases = load_group(params.expand_norm.bias + channel);
    RNC_UNROLL
    for (int r = 0; r < kRows; ++r) {
      float group[kGroupElements];
      Expand::get(expanded, r, i, group);
      RNC_UNROLL
      for (int e = 0; e < kGroupElements; ++e) {
        group[e] = relu(affine(group[e], scales.v[e], biases.v[e]) + shortcut[r].widened(e));
      }
      ElementGroup<T> y;
      y.narrow_from(group);
      const int64_t at = int64_t(pixels[r]) * kChannels + channel;
      if (pixels[r] >= 0) y.store(params.y, at, kGroupElements, true);
    }
  }
  // In the loop, where it is: read-only loads of all channels would not fit into registers.
  static __device__ __forceinline__ ElementGroup<float> load_group(const float* vector) {
    ElementGroup<float> group;
    RNC_UNROLL
    for (int i = 0; i < kGroupElements; i += 4) {
      const auto four = ptx::load_global(reinterpret_cast<const Vec<float, 4>*>(vector + i));
      RNC_UNROLL
      for (int e = 0; e < 4; ++e) group.v[i + e] = four.v[e];
    }
    return group;
  }

  // Of the warpgroup.
  static __device__ __forceinline__ int warp() {
    return int(threadIdx.x) % Warpgroup::kThreads / 32;
  }
  // The first of the thread's two rows of its warp's 16; the second lies 8 below.
  static __device__ __forceinline__ int lane_row() { return int(threadIdx.x) % 32 / 4; }
};

// grid: as many blocks as run at once, or one for each two parts where those are fewer.
template <class T>
__global__ void __launch_bounds__(BottleneckBlock<T>::kThreads, 1)
    bottleneck_block_kernel(const __grid_constant__ typename BottleneckBlock<T>::Params params) {
  using Block = BottleneckBlock<T>;
  using Shape = typename Block::Tile;
  auto& shared = dynamic_smem<typename Block::Storage>();

  // Set up the rings.
  Block::set_up(shared);
  __syncthreads();
  typename Block::Position position;
  const auto for_each_part = [&](int warpgroup, auto&& fn) {
    constexpr int kWarpgroups = Shape::kWarpgroups;
    for (int64_t i = int64_t(blockIdx.x) * kWarpgroups + warpgroup; i < params.strips.count;
         i += int64_t(gridDim.x) * kWarpgroups) {
      fn(params.strips.part(int32_t(i)));
    }
  };

  // Wait for the kernels before this one; the one behind finds room where blocks have left.
  ptx::grid_dependency_wait();
  ptx::grid_dependency_launch();

  // A warp for each warpgroup fills its one.
  if (threadIdx.x >= Shape::kConsumers) {
    ptx::set_max_registers_decrease<Shape::kProducerRegisters>();
    const int warpgroup = int(threadIdx.x - Shape::kConsumers) / 32;
    if (warpgroup < Shape::kWarpgroups && ptx::elect_one()) {
      if (warpgroup == 0) Block::load_filters(params, shared);
      for_each_part(warpgroup, [&](const BlockStrips::Part& part) {
        Block::load(params, part, warpgroup, shared, position);
      });
    }
    return;
  }

  // Those multiply and store.
  ptx::set_max_registers_increase<Shape::kConsumerRegisters>();
  ptx::mbarrier_wait(shared.filters_arrived, 0);
  for_each_part(WarpgroupThreads::warpgroup(),
                [&](const BlockStrips::Part& part) { Block::run(params, part, shared, position); });
}

}  // namespace rnc
