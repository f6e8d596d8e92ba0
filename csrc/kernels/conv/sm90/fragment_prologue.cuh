// Normalise-on-load on Hopper: a warp takes its pixels from shared memory as wgmma's A operand, in
// registers, and changes them there. Nothing goes back, so that no fence and no barrier follows.
// What the channels of a slice need comes with it, by TMA.
#pragma once

#include "kernels/conv/sm90/tma_operands.cuh"
#include "ptx/ldmatrix.cuh"
#include "tile/wgmma_accumulators.cuh"
#include "tile/wgmma_mainloop.cuh"

namespace rnc {

// What a slice brings beside pixels and filters: nothing.
template <class Prologue>
struct SliceChannels {
  static constexpr bool kAreThere = false;
  struct Stage {};
  const char* error = nullptr;

  template <class Pixels>
  explicit SliceChannels(const Pixels&) {}
  __device__ __forceinline__ int bytes() const { return 0; }
  __device__ __forceinline__ void load(Stage&, ptx::Mbarrier&, int32_t /*channel*/) const {}
};

template <class T>
struct SliceChannels<ScaleBiasRelu<T>> {
  static constexpr bool kAreThere = true;
  using Vector = float[kBoxChannels];
  struct alignas(128) Stage {
    Vector scale, bias, floor;
  };

  ptx::TensorMap scale, bias, floor;  // over [C]
  bool is_on;
  int32_t
      to_floor;  // from a channel to its place in `floor`: without one beyond it, where zeros are
  const char* error;  // of making the maps, or null

  // Those of the pixels' prologue.
  template <class Pixels>
  explicit SliceChannels(const Pixels& pixels);

  __device__ __forceinline__ int bytes() const { return is_on ? int(sizeof(Stage)) : 0; }

  // Loads what channels channel .. channel + kBoxChannels - 1 need, and zeros behind the last one.
  __device__ __forceinline__ void load(Stage& stage, ptx::Mbarrier& arrived,
                                       int32_t channel) const {
    if (!is_on) return;
    ptx::tma_load(stage.scale, &scale, arrived, {channel});
    ptx::tma_load(stage.bias, &bias, arrived, {channel});
    ptx::tma_load(stage.floor, &floor, arrived, {channel + to_floor});
  }
};

// Nothing either, but products of gated gradients share a ring with such of normalised pixels.
template <class T>
struct SliceChannels<BitGate<T>> : SliceChannels<void> {
  using Stage = typename SliceChannels<ScaleBiasRelu<T>>::Stage;
  using SliceChannels<void>::SliceChannels;
  __device__ __forceinline__ void load(Stage&, ptx::Mbarrier&, int32_t /*channel*/) const {}
};

// The pixels of the calling thread's fragments: rows l / 4 and l / 4 + 8 of its warp's 16, channels
// 2 (l % 4) and the next one of every 8, where l is its lane.
template <class Pixels>
struct FragmentPixels {
  using T = typename Pixels::Element;
  using Channels = SliceChannels<typename Pixels::Prologue>;
  static constexpr int kRows = 2;
  const Pixels& pixels;
  typename Pixels::Base bases[kRows];
  bool are_inside[kRows];  // of the image, under the tap

  // first_row: the warpgroup's.
  __device__ __forceinline__ FragmentPixels(const Pixels& pixels, int32_t first_row)
      : pixels(pixels) {
    const int thread = WarpgroupThreads::index();
    RNC_UNROLL
    for (int i = 0; i < kRows; ++i) {
      bases[i] = pixels.base(first_row + thread / 32 * 16 + thread % 32 / 4 + i * 8);
    }
  }

  __device__ __forceinline__ void move_to(const TapSlice& at) {
    RNC_UNROLL
    for (int i = 0; i < kRows; ++i) are_inside[i] = pixels.is_inside(bases[i], at);
  }

  // Loads a half of the warpgroup's panel of a slice, and normalises what lies inside of the image;
  // the rest is zero, and stays so.
  __device__ __forceinline__ void load(const unsigned char* panel,
                                       const typename Channels::Stage& channels, int half,
                                       HalfSliceFragments& fragments) const {
    constexpr int kSteps = HalfSliceFragments::kSteps;
    for_each_step<kSteps>(panel, half * kSteps, [&](int step, uint32_t address) {
      ptx::ldmatrix<4>(fragments.steps[step], address);
    });
    if (!pixels.prologue.is_on()) return;
    RNC_UNROLL
    for (int step = 0; step < kSteps; ++step) {
      RNC_UNROLL
      for (int part = 0; part < 2; ++part) {
        const int channel = (half * kSteps + step) * 16 + part * 8 + int(threadIdx.x) % 4 * 2;
        const auto of = [&](const typename Channels::Vector& vector) {
          return ptx::load_shared(reinterpret_cast<const Vec<float, 2>*>(vector + channel));
        };
        const Vec<float, 2> scale = of(channels.scale), bias = of(channels.bias);
        const Vec<float, 2> floor = of(channels.floor);
        RNC_UNROLL
        for (int i = 0; i < kRows; ++i) {
          uint32_t& fragment = fragments.steps[step][part * kRows + i];
          const Vec<float, 2> x = unpack_pair<T>(fragment);
          const uint32_t normalised =
              pack_pair<T>(at_least(affine(x.v[0], scale.v[0], bias.v[0]), floor.v[0]),
                           at_least(affine(x.v[1], scale.v[1], bias.v[1]), floor.v[1]));
          fragment = are_inside[i] ? normalised : fragment;
        }
      }
    }
  }
};

}  // namespace rnc
