#include <cstdint>
#include <set>

#include "check.h"
#include "tile/smem_descriptor.h"

namespace {

using rnc::k_major_descriptor;
using rnc::mn_major_descriptor;
using rnc::Swizzle;
using rnc::swizzle_offset;

constexpr Swizzle kSwizzles[] = {Swizzle::kNone, Swizzle::k32, Swizzle::k64, Swizzle::k128};

}  // namespace

RNC_TEST(descriptors_have_their_fields_where_the_hardware_reads_them) {
  // Address 0x2400, SBO 1024, 128-byte swizzle; LBO is not used and encoded as one unit.
  EXPECT_EQ(k_major_descriptor(0x2400, Swizzle::k128, 1024), 0x4000004000010240u);
  EXPECT_EQ(k_major_descriptor(0x2400, Swizzle::k64, 512) >> 62, 2u);
  EXPECT_EQ(k_major_descriptor(0x2400, Swizzle::k32, 256) >> 62, 3u);
  EXPECT_EQ(k_major_descriptor(0x2400, Swizzle::kNone, 128, 2048), 0x0000000800800240u);
  EXPECT_EQ(mn_major_descriptor(0x400, Swizzle::k128, 8192, 1024), 0x4000004002000040u);
  // The highest address of shared memory still fits; a step along K is a step of the descriptor.
  EXPECT_EQ(k_major_descriptor(0x3FFF0, Swizzle::kNone, 0, 0), 0x3FFFu);
  EXPECT_EQ(k_major_descriptor(0x2420, Swizzle::k128, 1024),
            k_major_descriptor(0x2400, Swizzle::k128, 1024) + 2);
}

RNC_TEST(descriptors_are_compile_time_constants) {
  static_assert(k_major_descriptor(1024, Swizzle::k128, 1024) == 0x4000004000010040u);
  static_assert(swizzle_offset(128 + 16, Swizzle::k128) == 128);
}

RNC_TEST(swizzles_exchange_chunks_within_lines_of_128_bytes) {
  for (const Swizzle swizzle : kSwizzles) {
    const uint32_t span = rnc::swizzle_bytes(swizzle);
    std::set<uint32_t> seen;
    for (uint32_t offset = 0; offset < 8 * span; ++offset) {
      const uint32_t moved = swizzle_offset(offset, swizzle);
      EXPECT_EQ(moved / 128, offset / 128);
      EXPECT_EQ(moved / span, offset / span);
      EXPECT_EQ(moved % 16, offset % 16);
      seen.insert(moved);
    }
    EXPECT_EQ(seen.size(), size_t{8 * span});
  }
  EXPECT_EQ(swizzle_offset(5 * 128 + 3 * 16 + 7, Swizzle::k128), 5u * 128 + (3 ^ 5) * 16 + 7);
  EXPECT_EQ(swizzle_offset(5 * 128 + 3 * 16, Swizzle::k64), 5u * 128 + (3 ^ 1) * 16);
  EXPECT_EQ(swizzle_offset(5 * 128 + 3 * 16, Swizzle::k32), 5u * 128 + (3 ^ 1) * 16);
  EXPECT_EQ(swizzle_offset(5 * 128 + 3 * 16, Swizzle::kNone), 5u * 128 + 3 * 16);
}
