// Pieces of 8 neighbouring channels of an operand, straight from memory through its prologue: what
// main loops without shared memory between multiply.
#pragma once

#include "kernels/conv/operands.cuh"
#include "tile/element_group.cuh"

namespace rnc {

template <class Operand>
struct ActivatedPieces {
  using T = typename Operand::Element;
  using Prologue = typename Operand::Prologue;
  const typename Prologue::template Piece<kGroupElements> prologue;
  const int count;
  const bool whole;

  // Those of channels channel .. channel + count - 1; whole: the operand is in pieces.
  __device__ __forceinline__ ActivatedPieces(const Operand& operand, int32_t channel, int count,
                                             bool whole)
      : prologue(operand.prologue, channel, count, whole), count(count), whole(whole) {}

  __device__ __forceinline__ ElementGroup<T> load(const T* source) const {
    ElementGroup<T> piece;
    piece.load(source, 0, count, whole);
    prologue.apply(piece);  // also to elements that are not there, which mean nothing
    return piece;
  }
};

}  // namespace rnc
