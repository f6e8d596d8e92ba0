#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "check.h"
#include "common/dtype.h"
#include "kernels/fusion/activation.cuh"

namespace {

using rnc::bfloat16;
using rnc::DType;
using rnc::float16;

template <class T>
float rounded(float value) {
  return rnc::widen(rnc::narrow_to<T>(value));
}

}  // namespace

RNC_TEST(every_dtype_has_a_name_a_size_and_an_accumulator) {
#define RNC_CHECK_ROW(id, T, Acc, text)                  \
  EXPECT_EQ(std::string(rnc::name_of(DType::id)), text); \
  EXPECT_EQ(rnc::size_of(DType::id), sizeof(T));         \
  EXPECT_EQ(rnc::size_of_acc(DType::id), sizeof(Acc));   \
  EXPECT((std::is_same_v<rnc::AccOf<T>, Acc>));          \
  EXPECT(sizeof(Acc) >= sizeof(T) && sizeof(Acc) >= 4);  \
  EXPECT_EQ(rnc::visit_dtype(DType::id, [](auto value) { return sizeof(value); }), sizeof(T));
  RNC_FOR_EACH_DTYPE(RNC_CHECK_ROW)
#undef RNC_CHECK_ROW
}

RNC_TEST(narrow_rounds_to_nearest_even) {
  // 1 + 2^-8 lies half-way between two bfloat16; the even one is 1. 1 + 3 * 2^-8 goes up.
  EXPECT_EQ(rounded<bfloat16>(1.0f + 0x1p-8f), 1.0f);
  EXPECT_EQ(rounded<bfloat16>(1.0f + 3 * 0x1p-8f), 1.0f + 0x1p-6f);
  EXPECT_EQ(rounded<bfloat16>(std::nextafter(1.0f + 0x1p-8f, 2.0f)), 1.0f + 0x1p-7f);
  EXPECT_EQ(rounded<float16>(1.0f + 0x1p-11f), 1.0f);
  EXPECT_EQ(rounded<float16>(1.0f + 3 * 0x1p-11f), 1.0f + 0x1p-9f);
}

RNC_TEST(narrow_keeps_infinities_nans_and_signed_zeros) {
  const float infinity = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(rounded<bfloat16>(-infinity), -infinity);
  EXPECT_EQ(rounded<float16>(infinity), infinity);
  EXPECT_EQ(rounded<float16>(65536.0f), infinity);
  EXPECT_EQ(rounded<bfloat16>(std::numeric_limits<float>::max()), infinity);
  EXPECT(std::isnan(rounded<bfloat16>(nan)));
  EXPECT(std::isnan(rounded<float16>(nan)));
  EXPECT(std::signbit(rounded<bfloat16>(-0.0f)));
  EXPECT(std::signbit(rounded<float16>(-0.0f)));
  EXPECT_EQ(rounded<float16>(0x1p-24f), 0x1p-24f);  // the smallest subnormal
}

RNC_TEST(every_16_bit_pattern_survives_a_round_trip) {
  int wrong = 0;
  for (uint32_t bits = 0; bits <= 0xFFFF; ++bits) {
    const bfloat16 b{uint16_t(bits)};
    const float16 h{uint16_t(bits)};
    if (!std::isnan(rnc::widen(b))) {
      wrong += rnc::narrow_to<bfloat16>(rnc::widen(b)).bits != bits;
    }
    if (!std::isnan(rnc::widen(h))) {
      wrong += rnc::narrow_to<float16>(rnc::widen(h)).bits != bits;
    }
  }
  EXPECT_EQ(wrong, 0);
}

RNC_TEST(two_are_narrowed_as_each_alone) {
  for (const float value : {1.0f + 0x1p-8f, -3.1415927f, 65520.0f, 0x1p-25f, 0.0f}) {
    bfloat16 b[2];
    float16 h[2];
    rnc::narrow_two(value, -value, b);
    rnc::narrow_two(value, -value, h);
    EXPECT_EQ(rnc::widen(b[0]), rounded<bfloat16>(value));
    EXPECT_EQ(rnc::widen(b[1]), rounded<bfloat16>(-value));
    EXPECT_EQ(rnc::widen(h[0]), rounded<float16>(value));
    EXPECT_EQ(rnc::widen(h[1]), rounded<float16>(-value));
  }
}

RNC_TEST(a_relu_s_gate_is_judged_on_the_value_as_it_is_stored) {
  const auto check = [](auto element) {
    using T = decltype(element);
    const auto passes = [](float v) { return !(rounded<T>(v) <= 0.0f); };
    for (const float smallest : {0x1p-24f, 0x1p-133f}) {  // of float16, of bfloat16
      for (const float v : {smallest / 4, smallest / 2, smallest, 3 * smallest}) {
        for (const float near : {std::nextafter(v, 0.0f), v, std::nextafter(v, 1.0f)}) {
          EXPECT_EQ(rnc::relu_passes<T>(near), passes(near));
          EXPECT_EQ(rnc::relu_passes<T>(-near), false);
        }
      }
    }
    EXPECT_EQ(rnc::relu_passes<T>(0.0f), false);
    EXPECT(rnc::relu_passes<T>(std::numeric_limits<float>::quiet_NaN()));
    EXPECT(rnc::relu_passes<T>(std::numeric_limits<float>::infinity()));
  };
  check(float16{});
  check(bfloat16{});
  check(float{});
}
