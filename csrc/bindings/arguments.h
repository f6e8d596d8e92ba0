// What a caller handed to an op: each tensor is checked once, and an error names the op, the
// argument, what it was and what is accepted.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "bindings/stable_abi.h"
#include "common/dtype.h"

namespace rnc::bindings {

using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;
using Sizes = std::vector<int64_t>;
using torch::headeronly::ScalarType;

// The logical sizes of an activation; its memory is NHWC.
struct Shape {
  int32_t N, C, H, W;
  int64_t pixels() const { return int64_t(N) * H * W; }
  int64_t size() const { return pixels() * C; }
  Sizes nchw() const { return {N, C, H, W}; }
};

class Arguments {
 public:
  // `first` fixes the device and the dtype of the call; every other tensor is held against it.
  Arguments(const char* op, const char* name, const Tensor& first);

  DType dtype() const { return dtype_; }
  ScalarType scalar_type() const { return scalar_type_; }
  ScalarType accumulator_type() const;
  bool on_cuda() const { return on_cuda_; }
  int32_t device_index() const { return device_index_; }
  torch::stable::Device device() const { return device_; }
  const char* op() const { return op_; }

  // A 4-D, non-empty, channels_last tensor of the call's dtype; with `expected`, of exactly that
  // shape.
  Shape activation(const char* name, const Tensor& tensor) const;
  void activation(const char* name, const Tensor& tensor, const Shape& expected) const;
  void activation(const char* name, const OptionalTensor& tensor, const Shape& expected) const;

  // Filters [K, C / groups, R, S] in channels_last memory.
  Shape weight(const char* name, const Tensor& tensor) const { return activation(name, tensor); }

  // A contiguous tensor of the accumulator's dtype with exactly these sizes.
  void accumulators(const char* name, const Tensor& tensor, const Sizes& expected) const;
  void accumulators(const char* name, const OptionalTensor& tensor, const Sizes& expected) const;

  // A contiguous float64 tensor with exactly these sizes.
  void doubles(const char* name, const Tensor& tensor, const Sizes& expected) const;
  void doubles(const char* name, const OptionalTensor& tensor, const Sizes& expected) const;

  // A contiguous matrix of the call's dtype.
  void matrix(const char* name, const Tensor& tensor, int64_t rows, int64_t columns) const;

  // A contiguous uint8 [ceil(size / 8)].
  void bit_mask(const char* name, const Tensor& tensor, int64_t size) const;
  void bit_mask(const char* name, const OptionalTensor& tensor, int64_t size) const;

  // A channels_last uint8 tensor of exactly this shape.
  void byte_map(const char* name, const Tensor& tensor, const Shape& expected) const;

  // Both tensors or neither.
  void together(const char* name, const OptionalTensor& tensor, const char* other_name,
                const OptionalTensor& other) const;

  // An int[4] argument [N, C, H, W] as a shape of positive sizes.
  Shape sizes(const char* name, const Sizes& nchw) const;

  // Raises with "<op>: <parts>" unless `condition` holds.
  template <class... Parts>
  void require(bool condition, const Parts&... parts) const {
    if (!condition) fail(parts...);
  }
  template <class... Parts>
  [[noreturn]] void fail(const Parts&... parts) const {
    std::ostringstream message;
    message << "resnet_cuda::_" << op_ << ": ";
    (message << ... << parts);
    throw std::runtime_error(message.str());
  }

  // Uninitialised results on the call's device.
  Tensor new_activation(const Shape& shape) const;
  Tensor new_matrix(int64_t rows, int64_t columns) const;
  Tensor new_bytes(const Shape& shape) const;         // uint8, channels_last
  Tensor new_accumulators(const Sizes& sizes) const;  // contiguous
  Tensor new_bit_mask(int64_t size) const;            // uint8 [ceil(size / 8)]
  Tensor new_doubles(const Sizes& sizes) const;       // contiguous
  // What stands for a result that was not asked for: an empty tensor of shape [0].
  Tensor no_activation() const;
  Tensor no_accumulators() const { return new_accumulators({0}); }
  Tensor no_bytes() const { return new_bit_mask(0); }

 private:
  void check_device(const char* name, const Tensor& tensor) const;
  void check_channels_last(const char* name, const Tensor& tensor) const;
  void check_contiguous(const char* name, const Tensor& tensor, const Sizes& expected,
                        ScalarType scalar_type) const;
  Tensor allocate(const Sizes& sizes, ScalarType scalar_type, bool channels_last) const;

  const char* op_;
  const char* first_name_;
  torch::stable::Device device_;
  ScalarType scalar_type_;
  DType dtype_ = DType::kFloat32;
  bool on_cuda_;
  int32_t device_index_;
};

}  // namespace rnc::bindings
