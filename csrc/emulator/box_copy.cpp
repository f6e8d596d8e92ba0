#include "emulator/box_copy.h"

#include <algorithm>
#include <cstring>

namespace rnc::emulator {

namespace {

const char* host_pointer(uint64_t address) {
  return reinterpret_cast<const char*>(static_cast<uintptr_t>(address));
}

}  // namespace

void load_box(const Box& box) {
  BoxWalk walk(box.map, box.coordinates, box.offsets);
  for (BoxRow row; walk.next(row);) {
    for_each_piece(box, row, [&](char* target, uint32_t byte, uint32_t bytes) {
      if (row.begin <= byte && byte + bytes <= row.end) {
        std::memcpy(target, host_pointer(row.global + byte), bytes);
        return;
      }
      std::memset(target, 0, bytes);
      const uint32_t begin = std::max(row.begin, byte), end = std::min(row.end, byte + bytes);
      if (begin < end) {
        std::memcpy(target + (begin - byte), host_pointer(row.global + begin), end - begin);
      }
    });
  }
}

void read_source(const Box& box, char* data) {
  BoxWalk walk(box.map, box.coordinates, box.offsets);
  for (BoxRow row; walk.next(row);) {
    for_each_piece(box, row, [&](const char* source, uint32_t byte, uint32_t bytes) {
      std::memcpy(data + row.offset + byte, source, bytes);
    });
  }
}

void write_box(const Box& box, const char* data) {
  BoxWalk walk(box.map, box.coordinates, box.offsets);
  for (BoxRow row; walk.next(row);) {
    if (row.begin == row.end) continue;
    std::memcpy(const_cast<char*>(host_pointer(row.global + row.begin)),
                data + row.offset + row.begin, row.end - row.begin);
  }
}

}  // namespace rnc::emulator
