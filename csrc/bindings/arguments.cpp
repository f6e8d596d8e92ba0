#include "bindings/arguments.h"

#include <dlfcn.h>
#include <torch/csrc/stable/ops.h>

#include <array>
#include <climits>

namespace rnc::bindings {
namespace {

// What torch's last refusal said. Asked for by name: torch has it from 2.13 on, and the bindings
// need no more than 2.11.
const char* reason_of_last_refusal() {
  using Reason = const char* (*)();
  static const Reason reason = [] {
    void* const torch = dlopen("libtorch_cpu.so", RTLD_NOW | RTLD_NOLOAD);
    return torch ? Reason(dlsym(torch, "torch_exception_get_what_without_backtrace")) : nullptr;
  }();
  return reason ? reason() : "torch's allocator refused, probably out of memory";
}

using torch::headeronly::MemoryFormat;

std::string text(const Sizes& sizes) {
  std::string out = "[";
  for (size_t i = 0; i < sizes.size(); ++i) {
    out += (i ? ", " : "") + std::to_string(sizes[i]);
  }
  return out + "]";
}

Sizes sizes_of(const Tensor& tensor) {
  const auto sizes = tensor.sizes();
  return Sizes(sizes.begin(), sizes.end());
}

std::string device_name(const Tensor& tensor) {
  if (tensor.is_cpu()) return "cpu";
  const std::string index = std::to_string(tensor.get_device_index());
  return (tensor.is_cuda() ? "cuda:" : "another device:") + index;
}

constexpr struct {
  ScalarType torch_type;
  DType dtype;
} kDTypes[] = {{ScalarType::Double, DType::kFloat64},
               {ScalarType::Float, DType::kFloat32},
               {ScalarType::BFloat16, DType::kBFloat16},
               {ScalarType::Half, DType::kFloat16}};

constexpr char kDTypeNames[] = "float64, float32, bfloat16 or float16";

// As Python spells it; the rarer ones as C++ does.
const char* spelling(ScalarType type) {
  for (const auto& row : kDTypes) {
    if (row.torch_type == type) return name_of(row.dtype);
  }
  if (type == ScalarType::Byte) return "uint8";
  if (type == ScalarType::Bool) return "bool";
  if (type == ScalarType::Int) return "int32";
  if (type == ScalarType::Long) return "int64";
  return torch::headeronly::toString(type);
}

}  // namespace

Arguments::Arguments(const char* op, const char* name, const Tensor& first)
    : op_(op),
      first_name_(name),
      device_(first.device()),
      scalar_type_(first.scalar_type()),
      on_cuda_(first.is_cuda()),
      device_index_(first.get_device_index()) {
  require(on_cuda_ || first.is_cpu(), name, " is on ", device_name(first),
          ", expected cuda or cpu");
  for (const auto& row : kDTypes) {
    if (row.torch_type == scalar_type_) {
      dtype_ = row.dtype;
      return;
    }
  }
  fail(name, " has dtype ", spelling(scalar_type_), ", expected ", kDTypeNames);
}

ScalarType Arguments::accumulator_type() const {
  return dtype_ == DType::kFloat64 ? ScalarType::Double : ScalarType::Float;
}

void Arguments::check_device(const char* name, const Tensor& tensor) const {
  const bool same =
      on_cuda_ ? tensor.is_cuda() && tensor.get_device_index() == device_index_ : tensor.is_cpu();
  require(same, name, " is on ", device_name(tensor), ", expected the device of ", first_name_,
          ", ", on_cuda_ ? "cuda:" + std::to_string(device_index_) : std::string("cpu"));
}

void Arguments::check_channels_last(const char* name, const Tensor& tensor) const {
  require(tensor.dim() == 4, name, " has shape ", text(sizes_of(tensor)),
          ", expected 4 dimensions");
  require(tensor.numel() > 0, name, " has shape ", text(sizes_of(tensor)),
          ", expected no empty dimension");
  // The stride of a dimension of size 1 is never used and may be anything.
  int64_t expected = 1;
  for (const int dim : {1, 3, 2, 0}) {
    const int64_t size = tensor.size(dim);
    require(size <= INT32_MAX, name, " has shape ", text(sizes_of(tensor)),
            ", expected every size below 2^31");
    if (size != 1 && tensor.stride(dim) != expected) {
      const auto strides = tensor.strides();
      fail(name, " has shape ", text(sizes_of(tensor)), " and strides ",
           text(Sizes(strides.begin(), strides.end())),
           ", expected dense channels_last memory (call .contiguous(memory_format="
           "torch.channels_last))");
    }
    expected *= size;
  }
}

Shape Arguments::activation(const char* name, const Tensor& tensor) const {
  check_device(name, tensor);
  require(tensor.scalar_type() == scalar_type_, name, " has dtype ", spelling(tensor.scalar_type()),
          ", expected the dtype of ", first_name_, ", ", spelling(scalar_type_));
  check_channels_last(name, tensor);
  const Shape shape{int32_t(tensor.size(0)), int32_t(tensor.size(1)), int32_t(tensor.size(2)),
                    int32_t(tensor.size(3))};
  require(shape.pixels() <= INT32_MAX, name, " has shape ", text(shape.nchw()),
          ", expected fewer than 2^31 pixels (N H W)");
  return shape;
}

void Arguments::activation(const char* name, const Tensor& tensor, const Shape& expected) const {
  const Shape shape = activation(name, tensor);
  require(shape.nchw() == expected.nchw(), name, " has shape ", text(shape.nchw()), ", expected ",
          text(expected.nchw()));
}

void Arguments::activation(const char* name, const OptionalTensor& tensor,
                           const Shape& expected) const {
  if (tensor) activation(name, *tensor, expected);
}

void Arguments::check_contiguous(const char* name, const Tensor& tensor, const Sizes& expected,
                                 ScalarType scalar_type) const {
  check_device(name, tensor);
  require(tensor.scalar_type() == scalar_type, name, " has dtype ", spelling(tensor.scalar_type()),
          ", expected ", spelling(scalar_type));
  require(sizes_of(tensor) == expected, name, " has shape ", text(sizes_of(tensor)), ", expected ",
          text(expected));
  require(tensor.is_contiguous(), name, " is not contiguous, expected contiguous memory");
}

void Arguments::accumulators(const char* name, const Tensor& tensor, const Sizes& expected) const {
  check_contiguous(name, tensor, expected, accumulator_type());
}

void Arguments::accumulators(const char* name, const OptionalTensor& tensor,
                             const Sizes& expected) const {
  if (tensor) accumulators(name, *tensor, expected);
}

void Arguments::doubles(const char* name, const Tensor& tensor, const Sizes& expected) const {
  check_contiguous(name, tensor, expected, ScalarType::Double);
}

void Arguments::doubles(const char* name, const OptionalTensor& tensor,
                        const Sizes& expected) const {
  if (tensor) doubles(name, *tensor, expected);
}

void Arguments::matrix(const char* name, const Tensor& tensor, int64_t rows,
                       int64_t columns) const {
  check_contiguous(name, tensor, {rows, columns}, scalar_type_);
}

void Arguments::bit_mask(const char* name, const Tensor& tensor, int64_t size) const {
  check_contiguous(name, tensor, {(size + 7) / 8}, ScalarType::Byte);
}

void Arguments::bit_mask(const char* name, const OptionalTensor& tensor, int64_t size) const {
  if (tensor) bit_mask(name, *tensor, size);
}

void Arguments::byte_map(const char* name, const Tensor& tensor, const Shape& expected) const {
  check_device(name, tensor);
  require(tensor.scalar_type() == ScalarType::Byte, name, " has dtype ",
          spelling(tensor.scalar_type()), ", expected uint8");
  require(sizes_of(tensor) == expected.nchw(), name, " has shape ", text(sizes_of(tensor)),
          ", expected ", text(expected.nchw()));
  check_channels_last(name, tensor);
}

void Arguments::together(const char* name, const OptionalTensor& tensor, const char* other_name,
                         const OptionalTensor& other) const {
  require(tensor.has_value() == other.has_value(), tensor ? other_name : name,
          " is None, expected a tensor because ", tensor ? name : other_name, " is given");
}

Shape Arguments::sizes(const char* name, const Sizes& nchw) const {
  bool valid = nchw.size() == 4;
  for (const int64_t size : nchw) valid = valid && size > 0 && size <= INT32_MAX;
  require(valid, name, " is ", text(nchw), ", expected four sizes from 1 to 2^31 - 1");
  const Shape shape{int32_t(nchw[0]), int32_t(nchw[1]), int32_t(nchw[2]), int32_t(nchw[3])};
  require(int64_t(shape.N) * shape.H <= INT32_MAX && shape.pixels() <= INT32_MAX, name, " is ",
          text(nchw), ", expected fewer than 2^31 pixels (N H W)");
  return shape;
}

Tensor Arguments::allocate(const Sizes& sizes, ScalarType scalar_type, bool channels_last) const {
  try {
    return torch::stable::empty(
        sizes, scalar_type, std::nullopt, device_, std::nullopt,
        channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
  } catch (const std::exception&) {
    // What it says is a line of a header and no reason.
    fail("cannot allocate a ", spelling(scalar_type), " tensor of shape ", text(sizes), ": ",
         reason_of_last_refusal());
  }
}

Tensor Arguments::new_activation(const Shape& shape) const {
  return allocate(shape.nchw(), scalar_type_, true);
}

Tensor Arguments::new_matrix(int64_t rows, int64_t columns) const {
  return allocate({rows, columns}, scalar_type_, false);
}

Tensor Arguments::new_bytes(const Shape& shape) const {
  return allocate(shape.nchw(), ScalarType::Byte, true);
}

Tensor Arguments::new_accumulators(const Sizes& sizes) const {
  return allocate(sizes, accumulator_type(), false);
}

Tensor Arguments::new_bit_mask(int64_t size) const {
  return allocate({(size + 7) / 8}, ScalarType::Byte, false);
}

Tensor Arguments::new_doubles(const Sizes& sizes) const {
  return allocate(sizes, ScalarType::Double, false);
}

Tensor Arguments::no_activation() const { return allocate({0}, scalar_type_, false); }

}  // namespace rnc::bindings
