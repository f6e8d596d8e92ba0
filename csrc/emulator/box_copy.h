// Moves the boxes of TMA instructions between global and shared memory.
#pragma once

#include <cstdint>

#include "emulator/box_walk.h"
#include "emulator/shared_window.h"
#include "emulator/tensor_map.h"

namespace rnc::emulator {

// A box of a tensor, and where it lies in shared memory.
struct Box {
  const TensorMap& map;
  const int32_t* coordinates;
  const uint16_t* offsets;  // null: a tile
  char* shared;             // the block's window
  uint32_t offset;          // of the box in it
};

// Calls visit(place in shared memory, byte in the row, bytes) for each piece of a row that is
// contiguous on both sides: a swizzle moves pieces of 16 bytes.
template <class Visit>
void for_each_piece(const Box& box, const BoxRow& row, Visit&& visit) {
  constexpr uint32_t kPieceBytes = 16;
  const uint32_t bytes = row_bytes(box.map);
  const uint32_t start = box.offset + row.offset;
  if (box.map.swizzle == 0) {
    visit(box.shared + start, 0u, bytes);
    return;
  }
  for (uint32_t byte = 0; byte < bytes; byte += kPieceBytes) {
    const uint32_t address = swizzled(kSharedBase + start + byte, box.map);
    visit(box.shared + (address - kSharedBase), byte, kPieceBytes);
  }
}

void load_box(const Box& box);

// The two halves of a store: shared memory to `data` of box_bytes(), and from there to the tensor.
void read_source(const Box& box, char* data);
void write_box(const Box& box, const char* data);

}  // namespace rnc::emulator
