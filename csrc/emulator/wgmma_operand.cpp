#include "emulator/wgmma_operand.h"

#include <cstring>

#include "emulator/errors.h"
#include "emulator/fiber.h"
#include "emulator/shared_pointer.h"
#include "emulator/shared_window.h"

namespace rnc::emulator {

namespace {

constexpr uint32_t kUnswizzledRow = 16;   // bytes
constexpr uint32_t kGroup = 8;            // rows of a piece
constexpr uint32_t kChunk = 16;           // bytes that lie together under every swizzle
constexpr uint32_t kSwizzleRepeat = 128;  // bytes inside which a swizzle moves chunks

uint32_t field(uint64_t descriptor, int first_bit, int bits) {
  return static_cast<uint32_t>(descriptor >> first_bit & ((uint64_t{1} << bits) - 1));
}

[[noreturn, gnu::cold, gnu::noinline]] void illegal(uint64_t descriptor, char name,
                                                    const std::string& what) {
  fail(format("wgmma: descriptor of %c (%016llx): ", name,
              static_cast<unsigned long long>(descriptor)) +
       what);
}

[[noreturn, gnu::cold, gnu::noinline]] void illegal_reserved(uint64_t descriptor, char name) {
  static constexpr struct {
    int first_bit, bits;
  } kReserved[] = {{14, 2}, {30, 2}, {46, 3}, {52, 10}};
  for (const auto& reserved : kReserved) {
    const uint32_t value = field(descriptor, reserved.first_bit, reserved.bits);
    if (value == 0) continue;
    illegal(descriptor, name,
            format("reserved bits %d-%d are %u, they must be 0 (an address beyond 256 KiB, or a "
                   "step that carries out of its field?)",
                   reserved.first_bit, reserved.first_bit + reserved.bits - 1, value));
  }
  illegal(descriptor, name, "reserved bits are not 0");
}

[[noreturn, gnu::cold, gnu::noinline]] void illegal_stride(uint64_t descriptor, char name,
                                                           bool leading, const char* between) {
  illegal(descriptor, name,
          format("%s byte offset (bits %s) is 0, but it separates %s",
                 leading ? "leading" : "stride", leading ? "16-29" : "32-45", between));
}

[[noreturn, gnu::cold, gnu::noinline]] void unaligned_start(uint64_t descriptor, char name,
                                                            uint32_t start, uint32_t row_bytes) {
  illegal(descriptor, name,
          format("start address %u (bits 0-13) lies beyond the first 128 bytes of a %u-byte "
                 "swizzle pattern, which repeats every %u bytes: it needs a base offset, and base "
                 "offsets are not supported",
                 start, row_bytes, kGroup * row_bytes));
}

constexpr uint64_t kReservedBits =
    uint64_t{3} << 14 | uint64_t{3} << 30 | uint64_t{7} << 46 | uint64_t{0x3FF} << 52;

// Both axes of 8 rows of 16-bit elements exchanged, by three perfect shuffles.
inline void transpose(Half8 (&rows)[8]) {
  for (int pass = 0; pass < 3; ++pass) {
    Half8 shuffled[8];
    for (int i = 0; i < 4; ++i) {
      shuffled[2 * i] = __builtin_shufflevector(rows[i], rows[i + 4], 0, 8, 1, 9, 2, 10, 3, 11);
      shuffled[2 * i + 1] =
          __builtin_shufflevector(rows[i], rows[i + 4], 4, 12, 5, 13, 6, 14, 7, 15);
    }
    for (int i = 0; i < 8; ++i) rows[i] = shuffled[i];
  }
}

// 8 rows, 8 elements of K each.
void load_k_major_halves(const WgmmaOperand& operand, const char* window, uint32_t first,
                         uint32_t half, float* out, int64_t stride) {
  Half8 rows[kGroup];
  for (uint32_t i = 0; i < kGroup; ++i) {
    std::memcpy(&rows[i], window + operand.k_major_chunk(first + i, half), kChunk);
  }
  transpose(rows);
  for (uint32_t k = 0; k < kGroup; ++k) {
    *reinterpret_cast<Float8*>(out + k * stride) = widen(rows[k], operand.type);
  }
}

// 8 rows, 4 elements of K each.
void load_k_major_words(const WgmmaOperand& operand, const char* window, uint32_t first,
                        uint32_t half, float* out, int64_t stride) {
  uint32_t rows[kGroup][4];
  for (uint32_t i = 0; i < kGroup; ++i) {
    std::memcpy(rows[i], window + operand.k_major_chunk(first + i, half), kChunk);
  }
  for (uint32_t k = 0; k < 4; ++k) {
    Word8 column;
    for (uint32_t i = 0; i < kGroup; ++i) column[i] = rows[i][k];
    *reinterpret_cast<Float8*>(out + k * stride) = truncate_to_tensor_float32(column);
  }
}

}  // namespace

WgmmaOperand decode_operand(uint64_t descriptor, char name, ElementType type, int32_t extent,
                            bool mn_major) {
  const uint32_t leading = field(descriptor, 16, 14) * 16, stride = field(descriptor, 32, 14) * 16;
  const uint32_t base_offset = field(descriptor, 49, 3), code = field(descriptor, 62, 2);
  const bool swizzled = code != 0;
  WgmmaOperand operand{};
  operand.start = field(descriptor, 0, 14) * 16;
  operand.row_bytes = swizzled ? 256u >> code : kUnswizzledRow;
  operand.swizzle_mask = operand.row_bytes - kUnswizzledRow;
  operand.extent = extent;
  operand.mn_major = mn_major;
  operand.type = type;
  if ((descriptor & kReservedBits) != 0) illegal_reserved(descriptor, name);
  if (base_offset != 0) {
    illegal(
        descriptor, name,
        format("base offset (bits 49-51) is %u; only 0 is supported: align the tile to %u bytes",
               base_offset, kGroup * operand.row_bytes));
  }
  const uint32_t rows_in_pattern = operand.start % (kGroup * operand.row_bytes) / kSwizzleRepeat;
  if (swizzled && rows_in_pattern != 0) {
    unaligned_start(descriptor, name, operand.start, operand.row_bytes);
  }
  if (mn_major) {
    // With a swizzle the leading offset runs along M or N; without, the stride offset does.
    operand.group_stride = swizzled ? leading : stride;
    operand.depth_stride = swizzled ? stride : leading;
    if (operand.group_stride == 0 && 2 * static_cast<uint32_t>(extent) > operand.row_bytes) {
      illegal_stride(descriptor, name, swizzled, "pieces along M or N");
    }
    if (operand.depth_stride == 0) {
      illegal_stride(descriptor, name, !swizzled, "the two groups of 8 along K");
    }
  } else {
    operand.group_stride = stride;
    operand.depth_stride = swizzled ? kChunk : leading;
    if (stride == 0 && static_cast<uint32_t>(extent) > kGroup) {
      illegal_stride(descriptor, name, false, "groups of 8 rows");
    }
    if (operand.depth_stride == 0) {
      illegal_stride(descriptor, name, true, "the two halves of K");
    }
  }
  return operand;
}

void check_bounds(Block& block, const WgmmaOperand& operand, char name) {
  // In most cases the lines that the swizzle stays inside say enough.
  const auto extent = static_cast<uint32_t>(operand.extent);
  const uint32_t groups =
      operand.mn_major ? (2 * extent - 1) / operand.row_bytes : (extent - 1) / 8;
  const uint64_t end = uint64_t{operand.start} + uint64_t{groups} * operand.group_stride +
                       operand.depth_stride + kGroup * operand.row_bytes + kSwizzleRepeat;
  const uint64_t shared_end = kSharedBase + block.worker->launch->request.shared_bytes;
  if (operand.start >= kSharedBase && end <= shared_end) return;
  const char* const what = name == 'A' ? "wgmma: operand A" : "wgmma: operand B";
  for_each_chunk(operand, [&](uint32_t address) {
    (void)shared_pointer(block, address, kChunk, kChunk, what);
  });
}

void load_operand(const WgmmaOperand& operand, const char* window, float* out, int64_t stride) {
  const auto extent = static_cast<uint32_t>(operand.extent);
  if (operand.mn_major) {
    for (uint32_t k = 0; k < 16; ++k) {
      for (uint32_t first = 0; first < extent; first += kGroup) {
        Half8 bits;
        std::memcpy(&bits, window + operand.mn_major_chunk(first, k), kChunk);
        *reinterpret_cast<Float8*>(out + k * stride + first) = widen(bits, operand.type);
      }
    }
    return;
  }
  const bool words = operand.type == ElementType::kTensorFloat32;
  const int64_t chunk_depth = words ? 4 : 8;
  for (uint32_t first = 0; first < extent; first += kGroup) {
    for (uint32_t half = 0; half < 2; ++half) {
      float* const target = out + half * chunk_depth * stride + first;
      if (words) {
        load_k_major_words(operand, window, first, half, target, stride);
      } else {
        load_k_major_halves(operand, window, first, half, target, stride);
      }
    }
  }
}

}  // namespace rnc::emulator
