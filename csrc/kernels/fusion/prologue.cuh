// Prologues: what happens to an operand between memory and the multiplication, by channel. They
// only see elements inside the image: padding is zero AFTER the activation. One that kHasCompanion
// reads a second tensor of the operand's shape, element by element beside it; one that kHasBits a
// bit for each element. Where is_on() is false at run time it changes nothing. A Piece is what a
// prologue needs for neighbouring channels, and changes their elements of one pixel.
#pragma once

#include "kernels/batch_norm/batch_norm_params.h"
#include "kernels/fusion/activation.cuh"
#include "tile/row_pieces.cuh"

namespace rnc {

// Makes every element v[e] what replaced(v[e], e) says, rounded; in pairs, which is one instruction
// for two.
template <class Elements, class Replaced>
__device__ __forceinline__ void replace_each(Elements& elements, Replaced&& replaced) {
  constexpr int kCount = int(sizeof elements.v / sizeof elements.v[0]);
  static_assert(kCount % 2 == 0);
  RNC_UNROLL
  for (int e = 0; e < kCount; e += 2) {
    narrow_two(replaced(elements.v[e], e), replaced(elements.v[e + 1], e + 1), &elements.v[e]);
  }
}

template <class T>
struct Identity {
  using Acc = AccOf<T>;
  static constexpr bool kChangesNothing = true;
  static constexpr bool kHasCompanion = false;
  static constexpr bool kHasBits = false;

  // Whether what is read by channel starts at multiples of 16 bytes.
  bool is_aligned() const { return true; }

  __device__ __forceinline__ Acc apply(Acc v, int32_t /*channel*/) const { return v; }

  template <int kChannels>
  struct Piece {
    __device__ __forceinline__ Piece(const Identity&, int32_t /*channel*/, int /*count*/,
                                     bool /*whole*/) {}
    template <class Elements>
    __device__ __forceinline__ void apply(Elements&) const {}
  };
};

// Normalise-on-load: max(x * scale + bias, floor), rounded to T as if it had been stored and read
// back. Without a floor it is ReLU's, 0. A floor of -k shifts the activation for free: relu(v) - k
// = max(v - k, -k).
template <class T>
struct ScaleBiasRelu {
  using Acc = AccOf<T>;
  static constexpr bool kChangesNothing = false;
  static constexpr bool kHasCompanion = false;
  static constexpr bool kHasBits = false;
  const Acc* scale;            // [C] or null: x is taken as it is
  const Acc* bias;             // [C], null exactly when scale is
  const Acc* floor = nullptr;  // [C] or null: 0

  bool is_aligned() const {
    return is_vector_aligned(scale) && is_vector_aligned(bias) && is_vector_aligned(floor);
  }

  __device__ __forceinline__ bool is_on() const { return scale != nullptr; }

  __device__ __forceinline__ Acc apply(Acc v, int32_t channel) const {
    return is_on() ? Acc(widen(narrow_to<T>(of_channel(channel).activate(v)))) : v;
  }

  // What one channel needs.
  struct Channel {
    Acc scale, bias, floor;

    __device__ __forceinline__ T apply(T v) const { return narrow_to<T>(activate(Acc(widen(v)))); }
    __device__ __forceinline__ Acc activate(Acc v) const {
      return at_least(affine(v, scale, bias), floor);
    }
  };
  __device__ __forceinline__ Channel of_channel(int32_t channel) const {
    return {ptx::load_global_input(scale + channel), ptx::load_global_input(bias + channel),
            floor ? ptx::load_global_input(floor + channel) : Acc(0)};
  }

  // What neighbouring channels need, as ColumnVector has them.
  template <int kChannels>
  struct Piece {
    ColumnVector<Acc, kChannels> scale, bias, floor;

    __device__ __forceinline__ Piece(const ScaleBiasRelu& prologue, int32_t channel, int count,
                                     bool whole)
        : scale(prologue.scale, channel, count, Acc(0), whole),
          bias(prologue.bias, channel, count, Acc(0), whole),
          floor(prologue.floor, channel, count, Acc(0), whole) {}

    template <class Elements>
    __device__ __forceinline__ void apply(Elements& elements) const {
      replace_each(elements, [&](T v, int e) {
        return Channel{scale.v[e], bias.v[e], floor.v[e]}.activate(Acc(widen(v)));
      });
    }
  };
};

// The backward of batch norm and ReLU on load: the operand is the gradient of their output, the
// companion is their input y, and what is multiplied is y's gradient, rounded to T as if it had
// been stored and read back.
template <class T>
struct BnBackward {
  using Acc = AccOf<T>;
  static constexpr bool kChangesNothing = false;
  static constexpr bool kHasCompanion = true;
  static constexpr bool kHasBits = false;
  const T* companion;
  const Acc* coefficients;  // [kBnCoefficients][C]
  const Acc* gate_scale;    // [C] or null: no ReLU
  const Acc* gate_bias;     // [C]
  int32_t C;

  bool is_aligned() const {
    return is_vector_aligned(companion) && is_vector_aligned(coefficients) &&
           is_vector_aligned(gate_scale) && is_vector_aligned(gate_bias);
  }

  __device__ __forceinline__ bool is_on() const { return true; }

  // What neighbouring channels need, as ColumnVector has them.
  template <int kChannels>
  struct Piece {
    ColumnVector<Acc, kChannels> c0, c1, c2, c3, gate_scale, gate_bias;

    // Without a ReLU every gradient passes.
    __device__ __forceinline__ Piece(const BnBackward& prologue, int32_t channel, int count,
                                     bool whole)
        : c0(prologue.coefficient(0), channel, count, Acc(0), whole),
          c1(prologue.coefficient(1), channel, count, Acc(0), whole),
          c2(prologue.coefficient(2), channel, count, Acc(0), whole),
          c3(prologue.coefficient(3), channel, count, Acc(0), whole),
          gate_scale(prologue.gate_scale, channel, count, Acc(0), whole),
          gate_bias(prologue.gate_bias, channel, count, Acc(1), whole) {}

    template <class Elements>
    __device__ __forceinline__ void apply(Elements& gradients, const Elements& companions) const {
      replace_each(gradients, [&](T gradient, int e) {
        const Acc y = Acc(widen(companions.v[e]));
        const bool passes = relu_passes<T>(affine(y, gate_scale.v[e], gate_bias.v[e]));
        return backward(Acc(widen(gradient)), passes, y, c0.v[e], c1.v[e], c2.v[e], c3.v[e]);
      });
    }
  };

  __device__ __forceinline__ Acc apply(T gradient, T companion, int32_t channel) const {
    const auto load = [&](const Acc* vector) { return ptx::load_global_input(vector + channel); };
    const Acc y = Acc(widen(companion));
    const bool passes = !gate_scale || relu_passes<T>(affine(y, load(gate_scale), load(gate_bias)));
    return Acc(widen(
        narrow_to<T>(backward(Acc(widen(gradient)), passes, y, load(coefficient(0)),
                              load(coefficient(1)), load(coefficient(2)), load(coefficient(3))))));
  }

  // passes: the ReLU let y through.
  static __device__ __forceinline__ Acc backward(Acc gradient, bool passes, Acc y, Acc c0, Acc c1,
                                                 Acc c2, Acc c3) {
    return bn_gradient(passes ? gradient : Acc(0), y, c0, c1, c2, c3);
  }

 private:
  __device__ __forceinline__ const Acc* coefficient(int i) const {
    return coefficients + int64_t(i) * C;
  }
};

// The backward of a ReLU on load: an element of the operand counts where its bit is set, else it is
// zero.
template <class T>
struct BitGate {
  using Acc = AccOf<T>;
  static constexpr bool kChangesNothing = false;
  static constexpr bool kHasCompanion = false;
  static constexpr bool kHasBits = true;
  const uint8_t* bits;  // bit i % 8 of byte i / 8 belongs to element i of the tensor; or null: all
                        // count
  int64_t bytes;

  bool is_aligned() const { return is_vector_aligned(bits); }

  __device__ __forceinline__ bool is_on() const { return bits != nullptr; }

  __device__ __forceinline__ Acc apply(T v, int64_t element) const {
    if (!is_on()) return Acc(widen(v));
    const unsigned byte = ptx::load_global_input(bits + element / 8);
    return byte >> element % 8 & 1u ? Acc(widen(v)) : Acc(0);
  }

  // Nothing is needed by channel.
  template <int kChannels>
  struct Piece {
    __device__ __forceinline__ Piece(const BitGate&, int32_t /*channel*/, int /*count*/,
                                     bool /*whole*/) {}
    // Bit e belongs to element e.
    template <class Elements>
    __device__ __forceinline__ void apply(Elements& elements, uint32_t counts) const {
      const T zero = narrow_to<T>(Acc(0));
      RNC_UNROLL
      for (int e = 0; e < kChannels; ++e) {
        elements.v[e] = counts >> e & 1u ? elements.v[e] : zero;
      }
    }
  };
};

}  // namespace rnc
