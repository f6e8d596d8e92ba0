// The library of passes, opened and launched as the bindings do it, on the emulator.
#include <vector>

#include "check.h"
#include "emulated_device.h"

namespace {

using rnc::bfloat16;
using rnc::DType;
using rnc::float16;
using rnc::Status;
using rnc::test::api;
using rnc::test::DeviceArray;
using rnc::test::kernels;

// relu(x + residual) of the first integers around zero, which every dtype holds exactly.
template <class T>
void check_add_relu(DType dtype) {
  using Acc = rnc::AccOf<T>;
  constexpr int kSize = 333;
  std::vector<T> x(kSize), residual(kSize);
  for (int i = 0; i < kSize; ++i) {
    x[i] = rnc::narrow_to<T>(Acc(i % 17 - 8));
    residual[i] = rnc::narrow_to<T>(Acc(i % 5 - 2));
  }
  DeviceArray<T> device_x("x", x), device_residual("residual", residual), z("z", kSize);
  DeviceArray<uint8_t> mask("mask", (kSize + 7) / 8);
  rnc::AddReluForwardParams params{};
  params.size = kSize;
  params.x = device_x.data();
  params.residual = device_residual.data();
  params.z = z.data();
  params.mask = mask.data();
  const Status status = kernels().add_relu_forward(dtype, params, nullptr);
  EXPECT_EQ(std::string(status.ok() ? "" : status.error), "");
  int wrong_values = 0, wrong_bits = 0;
  for (int i = 0; i < kSize; ++i) {
    const int sum = i % 17 - 8 + i % 5 - 2;
    wrong_values += rnc::widen(z[i]) != Acc(sum > 0 ? sum : 0);
    wrong_bits += ((mask[i / 8] >> (i % 8)) & 1) != (sum > 0);
  }
  EXPECT_EQ(wrong_values, 0);
  EXPECT_EQ(wrong_bits, 0);
}

}  // namespace

RNC_TEST(every_pass_has_an_entry) {
#define RNC_CHECK_ENTRY(stem, Params) EXPECT(kernels().stem != nullptr);
  RNC_FOR_EACH_PASS(RNC_CHECK_ENTRY)
#undef RNC_CHECK_ENTRY
}

RNC_TEST(a_pass_computes_in_every_dtype) {
#define RNC_CHECK_DTYPE(id, T, Acc, name) check_add_relu<T>(DType::id);
  RNC_FOR_EACH_DTYPE(RNC_CHECK_DTYPE)
#undef RNC_CHECK_DTYPE
}

RNC_TEST(a_launch_is_recorded_with_its_name_and_shape) {
  api().clear_launches();
  EXPECT_EQ(api().launch_count(), 0u);
  check_add_relu<float>(DType::kFloat32);
  EXPECT_EQ(api().launch_count(), 1u);
  rnc::emulator::LaunchRecord record{};
  api().launch_record(0, &record);
  EXPECT_EQ(std::string(record.kernel), "add_relu_forward");
  EXPECT(record.grid[0] * record.block[0] >= 1u);
}

RNC_TEST(an_impossible_problem_is_refused_with_a_message) {
  rnc::MaxPoolForwardParams params{};
  params.geometry = {
      .N = 1, .H = 32, .W = 32, .C = 1, .P = 1, .Q = 1, .kernel = 16, .stride = 1, .pad = 0};
  const Status status = kernels().max_pool_forward(DType::kFloat32, params, nullptr);
  EXPECT(!status.ok());
  EXPECT(!status.ok() && std::string(status.error).find("max_pool") != std::string::npos);
}
