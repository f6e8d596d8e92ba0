// The tensor copies of one cluster that are not complete.
#pragma once

#include <cstdint>
#include <vector>

#include "emulator/box_copy.h"
#include "emulator/synchronisation.h"
#include "emulator/tensor_map.h"

namespace rnc::emulator {

struct Block;
struct Fiber;

// A box on its way between global memory and the shared memory of one block: a multicast load is
// one operation for each block that receives it.
struct TmaOperation {
  TensorMap map;  // a copy: the issuing thread may exit first
  int32_t coordinates[5];
  uint16_t offsets[3];  // im2col
  Fiber* issuer;
  Block* block;
  uint32_t offset;  // of the box in that block's shared memory
  const void* pc;

  bool store;
  BoundPhase bound;        // of a load: the phase that it signals
  uint32_t group;          // of a store: its commit group
  bool was_read;           // of a store: the source is in `data`, and may be overwritten
  std::vector<char> data;  // row by row, not swizzled
};

inline const uint16_t* offsets_of(const TmaOperation& operation) {
  return operation.map.im2col != 0 ? operation.offsets : nullptr;
}

Box box_of(const TmaOperation& operation);

struct TmaQueue {
  std::vector<TmaOperation> operations;  // in the order of issue

  void clear() { operations.clear(); }
};

}  // namespace rnc::emulator
