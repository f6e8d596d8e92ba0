// Which bytes of a tensor make up the box that one TMA instruction moves, and where they lie in
// shared memory.
#pragma once

#include <cstddef>
#include <cstdint>

#include "emulator/tensor_map.h"

namespace rnc::emulator {

// One row of a box: its extent along the innermost dimension.
struct BoxRow {
  uint64_t global;  // address of the row's first byte, which need not lie in the tensor
  uint32_t offset;  // in the box, before swizzling
  uint32_t begin;   // the row's bytes [begin, end) lie in the tensor;
  uint32_t end;     //   all others are zero in a load and left out of a store
};

// Visits the rows of a box in the order in which they lie in shared memory.
class BoxWalk {
 public:
  // `offsets` is null for a tile. The walk refers to the map.
  BoxWalk(const TensorMap& map, const int32_t* coordinates, const uint16_t* offsets);

  bool next(BoxRow& row);  // false: there is none left

 private:
  void step_tile();
  void step_im2col();

  const TensorMap& map_;
  uint64_t rows_left_;
  uint32_t offset_ = 0;
  uint32_t begin_;
  uint32_t end_;
  int64_t first_;          // coordinate 0
  int64_t start_[5] = {};  // of a tile, by dimension
  int64_t at_[5] = {};     // of the row, by dimension; im2col: of the base pixel
  int64_t shift_[5] = {};  // im2col: the offsets, by dimension
};

uint32_t row_bytes(const TensorMap& map);
uint64_t box_rows(const TensorMap& map);
uint64_t box_bytes(const TensorMap& map);  // what a load reports to its mbarrier

// Where the byte at a shared-window address before swizzling goes: 16-byte pieces change places by
// their absolute addresses.
uint32_t swizzled(uint32_t address, const TensorMap& map);

}  // namespace rnc::emulator
