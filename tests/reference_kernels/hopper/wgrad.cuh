// dW[k, c] = sum over pixels of dy[pixel, k] x[pixel, c]: both operands are MN-major in memory and
// in shared memory. With im2col the rows of x are those under one filter tap. The pixels are split
// into parts, which a second kernel adds up in order: the result is reproducible.
#pragma once

#include "slices.cuh"

namespace rnc::reference {

// Where the rows of x come from: a matrix [pixels, channels], or an image through im2col.
enum class WgradInput { kMatrix, kIm2col };

// 64 filters x 128 channels, 64 pixels per slice.
template <class ElementType, WgradInput kInputKind>
struct WgradTile {
  using Element = ElementType;
  static constexpr WgradInput kInput = kInputKind;
  static constexpr int kFilters = Warpgroup::kRows;
  static constexpr int kChannels = 128;
  static constexpr int kPixels = 64;
  static constexpr int kStages = 3;
  static constexpr int kThreads = Warpgroup::kThreads + 32;
};

struct WgradParams {
  ptx::TensorMap dy;  // boxes of 64 filters x 64 pixels
  ptx::TensorMap x;   // boxes of 64 channels x 64 pixels
  float* parts;       // [splits, filters, taps, channels]
  int32_t filters, channels, taps, slices, slices_per_split;
  int32_t height, width;  // of the output; from here on only for im2col
  int32_t s;
  int32_t stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
};

template <class Tile>
struct WgradStorage {
  MnMajorSlice<Tile::kFilters> dy[Tile::kStages];
  MnMajorSlice<Tile::kChannels> x[Tile::kStages];
  MbarrierRing<Tile::kStages> ring;
};

// This block's part of dW.
struct WgradPart {
  int32_t first_filter, first_channel, tap, first_slice, slices;
};

template <class Tile>
__device__ __forceinline__ WgradPart find_part(const WgradParams& params) {
  const int32_t channel_tiles = (params.channels + Tile::kChannels - 1) / Tile::kChannels;
  WgradPart part;
  part.first_filter = int32_t(blockIdx.x) * Tile::kFilters;
  part.first_channel = int32_t(blockIdx.y) % channel_tiles * Tile::kChannels;
  part.tap = int32_t(blockIdx.y) / channel_tiles;
  part.first_slice = int32_t(blockIdx.z) * params.slices_per_split;
  part.slices = min(params.slices_per_split, params.slices - part.first_slice);
  return part;
}

// Loads the rows of x that belong to the pixels first_pixel..: one box per panel.
template <class Tile>
__device__ __forceinline__ void load_input(MnMajorSlice<Tile::kChannels>& shared,
                                           const WgradParams& params, ptx::Mbarrier& arrived,
                                           const WgradPart& part, int32_t first_pixel) {
  using Slice = MnMajorSlice<Tile::kChannels>;
  RNC_UNROLL
  for (int panel = 0; panel < Slice::kPanels; ++panel) {
    const int32_t channel = part.first_channel + panel * Slice::kMatrixRowsOfPanel;
    if constexpr (Tile::kInput == WgradInput::kIm2col) {
      const int32_t row = first_pixel / params.width;
      const int32_t w = first_pixel % params.width * params.stride_w - params.pad_w;
      const int32_t h = row % params.height * params.stride_h - params.pad_h;
      const uint16_t offsets[2] = {uint16_t(part.tap % params.s * params.dilation_w),
                                   uint16_t(part.tap / params.s * params.dilation_h)};
      ptx::tma_load_im2col(shared.panels[panel], &params.x, arrived,
                           {channel, w, h, row / params.height}, offsets);
    } else {
      ptx::tma_load(shared.panels[panel], &params.x, arrived, {channel, first_pixel});
    }
  }
}

// grid: (filter tiles, taps * channel tiles, splits)
template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads)
    wgrad_kernel(const __grid_constant__ WgradParams params) {
  using Element = typename Tile::Element;
  auto& shared = dynamic_smem<WgradStorage<Tile>>();
  const WgradPart part = find_part<Tile>(params);

  // Set up the ring.
  if (threadIdx.x == 0) shared.ring.initialise(Warpgroup::kWarps);
  __syncthreads();

  // The last warp fills it.
  if (threadIdx.x >= Warpgroup::kThreads) {
    if (ptx::elect_one()) {
      RingPosition<Tile::kStages> position;
      for (int32_t slice = 0; slice < part.slices; ++slice) {
        auto& dy = shared.dy[position.stage];
        auto& x = shared.x[position.stage];
        auto& arrived = shared.ring.full[position.stage];
        const int32_t first_pixel = (part.first_slice + slice) * Tile::kPixels;
        shared.ring.acquire(position, sizeof dy.panels + sizeof x.panels);
        ptx::tma_load(dy.panels, &params.dy, arrived, {part.first_filter, first_pixel});
        load_input<Tile>(x, params, arrived, part, first_pixel);
        position.advance();
      }
    }
    return;
  }

  // The warpgroup multiplies.
  float accumulators[Tile::kChannels / 2];
  RingPosition<Tile::kStages> position;
  wgmma_mainloop(
      shared.ring, position, part.slices, accumulators,
      [&](int stage, bool accumulate) {
        RNC_UNROLL
        for (int step = 0; step < MnMajorSlice<Tile::kFilters>::kSteps; ++step) {
          ptx::wgmma_ss<Element, Tile::kChannels, true, true>(
              accumulators, shared.dy[stage].descriptor(step), shared.x[stage].descriptor(step),
              accumulate || step != 0);
        }
      },
      [&](int stage, bool condition) { shared.ring.release_if(stage, condition); });

  // Store the part.
  const int64_t row_elements = int64_t(params.taps) * params.channels;
  float* dw = params.parts + int64_t(blockIdx.z) * params.filters * row_elements +
              int64_t(part.tap) * params.channels;
  for_each_accumulator_pair(accumulators, [&](int row, int column, float first, float second) {
    const int32_t filter = part.first_filter + row, channel = part.first_channel + column;
    if (filter >= params.filters || channel >= params.channels) return;
    auto* target = reinterpret_cast<Vec<float, 2>*>(dw + filter * row_elements + channel);
    ptx::store_global(target, {{first, second}});
  });
}

struct AddPartsParams {
  const float* parts;  // [splits, elements]
  float* sum;          // [elements], a multiple of 4
  int32_t splits, elements;
};

// grid: one thread per four elements
__global__ void __launch_bounds__(256)
    add_parts_kernel(const __grid_constant__ AddPartsParams params) {
  using Group = Vec<float, 4>;
  const int32_t first = int32_t(blockIdx.x * 256 + threadIdx.x) * 4;
  if (first >= params.elements) return;
  Group sum = {};
  for (int32_t split = 0; split < params.splits; ++split) {
    const auto part = ptx::load_global_nc(
        reinterpret_cast<const Group*>(params.parts + int64_t(split) * params.elements + first));
    RNC_UNROLL
    for (int i = 0; i < 4; ++i) sum.v[i] += part.v[i];
  }
  ptx::store_global(reinterpret_cast<Group*>(params.sum + first), sum);
}

}  // namespace rnc::reference
