// Prologues: what happens to an activation between memory and the multiplication, by channel. They
// only see elements inside the image: padding is zero AFTER the activation.
#pragma once

#include "kernels/fusion/activation.cuh"
#include "tile/row_pieces.cuh"

namespace rnc {

template <class T>
struct Identity {
  using Acc = AccOf<T>;
  static constexpr bool kChangesNothing = true;

  __device__ __forceinline__ Acc apply(Acc v, int32_t /*channel*/) const { return v; }
};

// Normalise-on-load: relu(x * scale + bias), rounded to T as if it had been stored and read back.
template <class T>
struct ScaleBiasRelu {
  using Acc = AccOf<T>;
  static constexpr bool kChangesNothing = false;
  const Acc* scale;  // [C]
  const Acc* bias;   // [C]

  __device__ __forceinline__ Acc apply(Acc v, int32_t channel) const {
    return activate(v, ptx::load_global_nc(scale + channel), ptx::load_global_nc(bias + channel));
  }

  // What one channel needs.
  struct Channel {
    Acc scale, bias;

    __device__ __forceinline__ T apply(T v) const {
      return narrow_to<T>(activate(Acc(widen(v)), scale, bias));
    }
  };
  __device__ __forceinline__ Channel of_channel(int32_t channel) const {
    return {ptx::load_global_nc(scale + channel), ptx::load_global_nc(bias + channel)};
  }

  // What 8 neighbouring channels need.
  struct Piece {
    ColumnVector<Acc> scale, bias;

    __device__ __forceinline__ Piece(const ScaleBiasRelu& prologue, int32_t channel)
        : scale(prologue.scale, channel, kGroupElements, Acc(0)),
          bias(prologue.bias, channel, kGroupElements, Acc(0)) {}

    __device__ __forceinline__ T apply(T v, int e) const {
      return narrow_to<T>(activate(Acc(widen(v)), scale.v[e], bias.v[e]));
    }
  };

 private:
  static __device__ __forceinline__ Acc activate(Acc v, Acc scale, Acc bias) {
    return Acc(widen(narrow_to<T>(relu(affine(v, scale, bias)))));
  }
};

}  // namespace rnc
