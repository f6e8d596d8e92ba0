// NHWC convolution as an implicit GEMM over linear output pixels: TMA's im2col mode gathers the
// activations, so that no thread computes an address. fprop for any stride; dgrad of stride 1 is
// fprop over dy with the taps reversed, whose filters are read as they lie, as an MN-major operand.
#pragma once

#include "slices.cuh"

namespace rnc::reference {

enum class ConvDirection { kFprop, kDgrad };

// 128 pixels x 128 outputs channels, 64 input channels per slice.
template <class ElementType, ConvDirection kDirectionOf>
struct ConvTile {
  using Element = ElementType;
  static constexpr ConvDirection kDirection = kDirectionOf;
  static constexpr int kConsumers = 2;
  static constexpr int kPixels = kConsumers * Warpgroup::kRows;
  static constexpr int kColumns = 128;
  static constexpr int kStages = 4;
  static constexpr int kThreads = kConsumers * Warpgroup::kThreads + 32;
  static constexpr int kPanels = kColumns / TilePanel::kColumns;
  static constexpr bool kFilterIsMnMajor = kDirection == ConvDirection::kDgrad;
};

// Sizes as the kernel walks them: of dgrad, `channels` are those of dy and the padding is R - 1 -
// pad.
struct ConvParams {
  ptx::TensorMap input;   // im2col, kPixels x 64 channels
  ptx::TensorMap filter;  // fprop: boxes of 64 channels x 128 filters; dgrad: 64 channels x 64
  ptx::TensorMap output;  // [pixels, output channels], boxes of one panel
  int32_t height, width;  // of the output
  int32_t channels;
  int32_t r, s;
  int32_t stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
};

template <class Tile>
struct ConvFilterSlice {
  using type = KMajorSlice<Tile::kColumns>;
};
template <class Element>
struct ConvFilterSlice<ConvTile<Element, ConvDirection::kDgrad>> {
  using type = MnMajorSlice<ConvTile<Element, ConvDirection::kDgrad>::kColumns>;
};

template <class Tile>
struct ConvStorage {
  KMajorSlice<Tile::kPixels> pixels[Tile::kStages];
  typename ConvFilterSlice<Tile>::type filter[Tile::kStages];
  TilePanel panels[Tile::kConsumers][Tile::kPanels];
  MbarrierRing<Tile::kStages> ring;
};

// Loads the filters' slice of tap (r, s).
template <int kColumns>
__device__ __forceinline__ void load_filter(KMajorSlice<kColumns>& shared, const ConvParams& params,
                                            ptx::Mbarrier& arrived, int32_t channel, int32_t r,
                                            int32_t s, int32_t first_column) {
  ptx::tma_load(shared.bytes, &params.filter, arrived, {channel, s, r, first_column});
}

// The same for dgrad: the reversed tap, reduced over the filters.
template <int kColumns>
__device__ __forceinline__ void load_filter(MnMajorSlice<kColumns>& shared,
                                            const ConvParams& params, ptx::Mbarrier& arrived,
                                            int32_t channel, int32_t r, int32_t s,
                                            int32_t first_column) {
  RNC_UNROLL
  for (int panel = 0; panel < MnMajorSlice<kColumns>::kPanels; ++panel) {
    ptx::tma_load(shared.panels[panel], &params.filter, arrived,
                  {first_column + panel * MnMajorSlice<kColumns>::kMatrixRowsOfPanel,
                   params.s - 1 - s, params.r - 1 - r, channel});
  }
}

// Fills the ring: for each tap, the channels in slices of 64.
template <class Tile>
__device__ __forceinline__ void fill_ring(ConvStorage<Tile>& shared, const ConvParams& params,
                                          int32_t first_pixel, int32_t first_column) {
  using Filter = typename ConvFilterSlice<Tile>::type;
  // The input pixel under tap (0, 0) of the tile's first output pixel; TMA walks on from there.
  const int32_t row = first_pixel / params.width;
  const int32_t w = first_pixel % params.width * params.stride_w - params.pad_w;
  const int32_t h = row % params.height * params.stride_h - params.pad_h;
  const int32_t n = row / params.height;
  RingPosition<Tile::kStages> position;
  for (int32_t r = 0; r < params.r; ++r) {
    for (int32_t s = 0; s < params.s; ++s) {
      const uint16_t offsets[2] = {uint16_t(s * params.dilation_w),
                                   uint16_t(r * params.dilation_h)};
      for (int32_t channel = 0; channel < params.channels;
           channel += kSliceElements<typename Tile::Element>) {
        auto& pixels = shared.pixels[position.stage];
        auto& arrived = shared.ring.full[position.stage];
        shared.ring.acquire(position, sizeof pixels.bytes + Filter::kBytes);
        ptx::tma_load_im2col(pixels.bytes, &params.input, arrived, {channel, w, h, n}, offsets);
        load_filter(shared.filter[position.stage], params, arrived, channel, r, s, first_column);
        position.advance();
      }
    }
  }
}

// grid: (pixel tiles, column tiles)
template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads)
    conv_kernel(const __grid_constant__ ConvParams params) {
  using Element = typename Tile::Element;
  auto& shared = dynamic_smem<ConvStorage<Tile>>();
  const int32_t first_pixel = int32_t(blockIdx.x) * Tile::kPixels;
  const int32_t first_column = int32_t(blockIdx.y) * Tile::kColumns;
  const int warpgroup = int(threadIdx.x) / Warpgroup::kThreads;

  // Set up the ring.
  if (threadIdx.x == 0) shared.ring.initialise(Tile::kConsumers * Warpgroup::kWarps);
  __syncthreads();

  // The last warp fills it.
  if (warpgroup == Tile::kConsumers) {
    if (ptx::elect_one()) fill_ring(shared, params, first_pixel, first_column);
    return;
  }

  // The others multiply.
  const int32_t pieces = (params.channels + kSliceElements<Element> - 1) / kSliceElements<Element>;
  float accumulators[Tile::kColumns / 2];
  RingPosition<Tile::kStages> position;
  wgmma_mainloop(
      shared.ring, position, params.r * params.s * pieces, accumulators,
      [&](int stage, bool accumulate) {
        RNC_UNROLL
        for (int step = 0; step < KMajorSlice<Tile::kPixels>::kSteps; ++step) {
          ptx::wgmma_ss<Element, Tile::kColumns, false, Tile::kFilterIsMnMajor>(
              accumulators, shared.pixels[stage].descriptor(step, warpgroup * Warpgroup::kRows),
              shared.filter[stage].descriptor(step), accumulate || step != 0);
        }
      },
      [&](int stage, bool condition) { shared.ring.release_if(stage, condition); });

  // Store.
  store_by_tma<Element>(accumulators, shared.panels[warpgroup], &params.output,
                        first_pixel + warpgroup * Warpgroup::kRows, first_column,
                        uint32_t(1 + warpgroup));
}

}  // namespace rnc::reference
