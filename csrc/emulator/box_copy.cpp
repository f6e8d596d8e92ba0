#include "emulator/box_copy.h"

#include <algorithm>
#include <cstring>

namespace rnc::emulator {

namespace {

const char* host_pointer(uint64_t address) {
  return reinterpret_cast<const char*>(static_cast<uintptr_t>(address));
}

// To nearest, a tie to even; infinities and NaN stay as they are.
uint32_t rounded_to_tensor_float32(uint32_t bits) {
  const bool is_finite = (bits & 0x7FFFFFFFu) < 0x7F800000u;
  return is_finite ? (bits + 0xFFFu + (bits >> 13 & 1u)) & ~0x1FFFu : bits;
}

void round_words(char* words, uint32_t bytes) {
  for (uint32_t byte = 0; byte < bytes; byte += 4) {
    uint32_t word;
    std::memcpy(&word, words + byte, 4);
    word = rounded_to_tensor_float32(word);
    std::memcpy(words + byte, &word, 4);
  }
}

// `bytes` of the row from `byte` on; what lies outside of the tensor is zero.
void load_piece(const BoxRow& row, char* target, uint32_t byte, uint32_t bytes) {
  if (row.begin <= byte && byte + bytes <= row.end) {
    std::memcpy(target, host_pointer(row.global + byte), bytes);
    return;
  }
  std::memset(target, 0, bytes);
  const uint32_t begin = std::max(row.begin, byte), end = std::min(row.end, byte + bytes);
  if (begin < end) {
    std::memcpy(target + (begin - byte), host_pointer(row.global + begin), end - begin);
  }
}

}  // namespace

void load_box(const Box& box) {
  BoxWalk walk(box.map, box.coordinates, box.offsets);
  for (BoxRow row; walk.next(row);) {
    for_each_piece(box, row, [&](char* target, uint32_t byte, uint32_t bytes) {
      load_piece(row, target, byte, bytes);
      if (box.map.rounds) round_words(target, bytes);
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
