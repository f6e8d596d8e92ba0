#include "emulator/box_walk.h"

#include <algorithm>

namespace rnc::emulator {

namespace {

// Elements that a box takes along a dimension: a stride leaves out those between.
uint32_t extent(const TensorMap& map, int dimension) {
  const uint32_t stride = map.element_strides[dimension];
  return (map.box[dimension] + stride - 1) / stride;
}

}  // namespace

uint32_t row_bytes(const TensorMap& map) { return uint32_t{map.box[0]} * map.element_bytes; }

uint64_t box_rows(const TensorMap& map) {
  if (map.im2col != 0) return map.pixels;
  uint64_t rows = 1;
  for (int d = 1; d < map.rank; ++d) rows *= extent(map, d);
  return rows;
}

uint64_t box_bytes(const TensorMap& map) { return row_bytes(map) * box_rows(map); }

uint32_t swizzled(uint32_t address, const TensorMap& map) {
  const uint32_t chunks = 1u << map.swizzle;
  return address ^ ((address >> 7 & (chunks - 1)) << 4);
}

BoxWalk::BoxWalk(const TensorMap& map, const int32_t* coordinates, const uint16_t* offsets)
    : map_(map), rows_left_(box_rows(map)), first_(coordinates[0]) {
  const auto dim = static_cast<int64_t>(map.dims[0]);
  const int64_t begin = std::clamp<int64_t>(-first_, 0, map.box[0]);
  const int64_t end = std::clamp<int64_t>(dim - first_, begin, map.box[0]);
  begin_ = static_cast<uint32_t>(begin) * map.element_bytes;
  end_ = static_cast<uint32_t>(end) * map.element_bytes;
  for (int d = 1; d < map.rank; ++d) {
    start_[d] = at_[d] = coordinates[d];
    if (offsets != nullptr && d <= map.rank - 2) shift_[d] = offsets[d - 1];
  }
}

bool BoxWalk::next(BoxRow& row) {
  if (rows_left_ == 0) return false;
  --rows_left_;
  bool inside = begin_ < end_;
  // Wraps around for rows outside, whose address nobody uses.
  uint64_t address = map_.base + static_cast<uint64_t>(first_) * map_.element_bytes;
  for (int d = 1; d < map_.rank; ++d) {
    const int64_t at = at_[d] + shift_[d];
    inside = inside && at >= 0 && at < static_cast<int64_t>(map_.dims[d]);
    address += static_cast<uint64_t>(at) * map_.strides[d - 1];
  }
  row = {address, offset_, inside ? begin_ : 0, inside ? end_ : 0};
  offset_ += row_bytes(map_);
  if (map_.im2col != 0) {
    step_im2col();
  } else {
    step_tile();
  }
  return true;
}

void BoxWalk::step_tile() {
  for (int d = 1; d < map_.rank; ++d) {
    const int64_t stride = map_.element_strides[d];
    at_[d] += stride;
    if (at_[d] < start_[d] + stride * extent(map_, d)) return;
    at_[d] = start_[d];
  }
}

// The base pixel goes along W, then from the box's lower corner along H (and D); images follow one
// another without end.
void BoxWalk::step_im2col() {
  const int images = map_.rank - 1;
  for (int d = 1; d <= images; ++d) {
    at_[d] += map_.element_strides[d];
    if (d == images) return;
    if (at_[d] <= static_cast<int64_t>(map_.dims[d]) - 1 + map_.upper[d - 1]) return;
    at_[d] = map_.lower[d - 1];
  }
}

}  // namespace rnc::emulator
