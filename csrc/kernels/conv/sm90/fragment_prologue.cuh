// Normalise-on-load and batch norm's backward on load on Hopper: a warp takes its pixels from
// shared memory as wgmma's A operand, in registers, and changes them there. Nothing goes back, so
// that no fence and no barrier follows. What the channels of a slice need comes with it, by TMA.
#pragma once

#include "kernels/conv/sm90/tma_operands.cuh"
#include "ptx/ldmatrix.cuh"
#include "tile/packed_pair.cuh"
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

// A vector by channel, of a slice.
template <class T>
struct SliceVector {
  float v[kBoxChannels<T>];

  // Of the channels in a register.
  using Values = Vec<float, kRegisterElements<T>>;
  __device__ __forceinline__ Values of(int reg) const {
    return ptx::load_shared(reinterpret_cast<const Values*>(v) + reg);
  }
};

template <class T>
struct SliceChannels<ScaleBiasRelu<T>> {
  static constexpr bool kAreThere = true;
  struct alignas(128) Stage {
    SliceVector<T> scale, bias, floor;
  };
  // Those of the channels in one register of a fragment.
  struct OfRegister {
    typename SliceVector<T>::Values scale, bias, floor;

    __device__ __forceinline__ OfRegister(const Stage& stage, int reg,
                                          const ScaleBiasRelu<T>& /*prologue*/)
        : scale(stage.scale.of(reg)), bias(stage.bias.of(reg)), floor(stage.floor.of(reg)) {}

    __device__ __forceinline__ float apply(int e, float x) const {
      return at_least(affine(x, scale.v[e], bias.v[e]), floor.v[e]);
    }
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
    ptx::tma_load(stage.scale.v, &scale, arrived, {channel});
    ptx::tma_load(stage.bias.v, &bias, arrived, {channel});
    ptx::tma_load(stage.floor.v, &floor, arrived, {channel + to_floor});
  }
};

template <class T>
struct SliceChannels<BnBackward<T>> {
  static constexpr bool kAreThere = true;
  struct alignas(128) Stage {
    SliceVector<T> coefficients[kBnCoefficients], gate_scale, gate_bias;
  };
  struct OfRegister {
    typename SliceVector<T>::Values c0, c1, c2, c3, gate_scale, gate_bias;
    bool has_gate;

    __device__ __forceinline__ OfRegister(const Stage& stage, int reg,
                                          const BnBackward<T>& prologue)
        : c0(stage.coefficients[0].of(reg)),
          c1(stage.coefficients[1].of(reg)),
          c2(stage.coefficients[2].of(reg)),
          c3(stage.coefficients[3].of(reg)),
          gate_scale(stage.gate_scale.of(reg)),
          gate_bias(stage.gate_bias.of(reg)),
          has_gate(prologue.gate_scale != nullptr) {}

    __device__ __forceinline__ float apply(int e, float gradient, float y) const {
      const bool passes = !has_gate || relu_passes<T>(affine(y, gate_scale.v[e], gate_bias.v[e]));
      return BnBackward<T>::backward(gradient, passes, y, c0.v[e], c1.v[e], c2.v[e], c3.v[e]);
    }
  };

  ptx::TensorMap coefficients;           // over [kBnCoefficients, C]
  ptx::TensorMap gate_scale, gate_bias;  // over [C]; without a gate coefficients, which nobody uses
  const char* error;                     // of making the maps, or null

  // Those of the pixels' prologue.
  template <class Pixels>
  explicit SliceChannels(const Pixels& pixels);

  __device__ __forceinline__ int bytes() const { return int(sizeof(Stage)); }

  // Loads what channels channel .. channel + kBoxChannels - 1 need, and zeros behind the last one.
  __device__ __forceinline__ void load(Stage& stage, ptx::Mbarrier& arrived,
                                       int32_t channel) const {
    ptx::tma_load(stage.coefficients, &coefficients, arrived, {channel, 0});
    ptx::tma_load(stage.gate_scale.v, &gate_scale, arrived, {channel});
    ptx::tma_load(stage.gate_bias.v, &gate_bias, arrived, {channel});
  }
};

// Nothing either, but products of gated gradients share a ring with such of normalised pixels.
template <class T>
struct SliceChannels<BitGate<T>> : SliceChannels<void> {
  using Stage = typename SliceChannels<ScaleBiasRelu<T>>::Stage;
  using SliceChannels<void>::SliceChannels;
  __device__ __forceinline__ void load(Stage&, ptx::Mbarrier&, int32_t /*channel*/) const {}
};

// The pixels of the calling thread's fragments: rows l / 4 and l / 4 + 8 of its warp's 16, and of
// every 16 bytes of channels those from byte 4 (l % 4) on, a register, where l is its lane.
template <class Pixels>
struct FragmentPixels {
  using T = typename Pixels::Element;
  using Channels = SliceChannels<typename Pixels::Prologue>;
  static constexpr int kRows = 2;
  static constexpr bool kHasCompanion = Pixels::Prologue::kHasCompanion;
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

  // Loads a half of the warpgroup's panel of a slice, and changes what lies inside of the image;
  // the rest is zero, and stays so.
  template <class Stage>
  __device__ __forceinline__ void load(Stage& stage, int panel, int half,
                                       HalfSliceFragments& fragments) const {
    take(stage.pixels.slice.panel(panel), half, fragments);
    [[maybe_unused]] HalfSliceFragments companions;
    if constexpr (kHasCompanion) take(stage.pixels.companion.panel(panel), half, companions);
    if (!pixels.prologue.is_on()) return round(fragments);
    RNC_UNROLL
    for (int step = 0; step < kSteps; ++step) {
      RNC_UNROLL
      for (int part = 0; part < 2; ++part) {
        // [steps, parts, 4 lanes]
        const int reg = ((half * kSteps + step) * 2 + part) * 4 + int(threadIdx.x) % 4;
        const typename Channels::OfRegister channels(stage.channels, reg, pixels.prologue);
        RNC_UNROLL
        for (int i = 0; i < kRows; ++i) {
          uint32_t& fragment = fragments.steps[step][part * kRows + i];
          auto x = unpack_register<T>(fragment);
          RNC_UNROLL
          for (int e = 0; e < kRegisterElements<T>; ++e) {
            if constexpr (kHasCompanion) {
              const uint32_t companion = companions.steps[step][part * kRows + i];
              x.v[e] = channels.apply(e, x.v[e], unpack_register<T>(companion).v[e]);
            } else {
              x.v[e] = channels.apply(e, x.v[e]);
            }
          }
          fragment = are_inside[i] ? pack_register<T>(x) : fragment;
        }
      }
    }
  }

 private:
  static constexpr int kSteps = HalfSliceFragments::kSteps;

  static __device__ __forceinline__ void take(const unsigned char* panel, int half,
                                              HalfSliceFragments& fragments) {
    for_each_step<kSteps>(panel, half * kSteps, [&](int step, uint32_t address) {
      ptx::ldmatrix<4>(fragments.steps[step], address);
    });
  }

  // Makes elements that stay as they are operands: wgmma would cut float32 down, not round it.
  static __device__ __forceinline__ void round(HalfSliceFragments& fragments) {
    if constexpr (std::is_same_v<T, float>) {
      RNC_UNROLL
      for (auto& fragment : fragments.steps) {
        RNC_UNROLL
        for (uint32_t& bits : fragment) bits = ptx::round_to_tensor_float32(bits);
      }
    }
  }
};

}  // namespace rnc
