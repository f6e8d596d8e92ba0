// The one list of element types. A new dtype is one row here (and one conversion pair in
// ptx/numeric_types.h).
#pragma once

#include <cstddef>
#include <cstdint>

#include "ptx/numeric_types.h"

namespace rnc {

//      enumerator  storage   accumulator  name
#define RNC_FOR_EACH_DTYPE(X)               \
  X(kFloat64, double, double, "float64")    \
  X(kFloat32, float, float, "float32")      \
  X(kBFloat16, bfloat16, float, "bfloat16") \
  X(kFloat16, float16, float, "float16")

enum class DType : int32_t {
#define RNC_ENUMERATOR(id, T, Acc, name) id,
  RNC_FOR_EACH_DTYPE(RNC_ENUMERATOR)
#undef RNC_ENUMERATOR
};

// AccOf<T>: the type sums, per-channel vectors (mean, invstd, scale, bias, partial sums) and
// epilogues use for storage type T.
template <class T>
struct AccOfTrait;
#define RNC_ACC(id, T, Acc, name) \
  template <>                     \
  struct AccOfTrait<T> {          \
    using type = Acc;             \
  };
RNC_FOR_EACH_DTYPE(RNC_ACC)
#undef RNC_ACC
template <class T>
using AccOf = typename AccOfTrait<T>::type;

inline size_t size_of(DType dtype) {
  switch (dtype) {
#define RNC_SIZE(id, T, Acc, name) \
  case DType::id:                  \
    return sizeof(T);
    RNC_FOR_EACH_DTYPE(RNC_SIZE)
#undef RNC_SIZE
  }
  return 0;
}

inline size_t size_of_acc(DType dtype) {
  switch (dtype) {
#define RNC_ACC_SIZE(id, T, Acc, name) \
  case DType::id:                      \
    return sizeof(Acc);
    RNC_FOR_EACH_DTYPE(RNC_ACC_SIZE)
#undef RNC_ACC_SIZE
  }
  return 0;
}

inline const char* name_of(DType dtype) {
  switch (dtype) {
#define RNC_NAME(id, T, Acc, name) \
  case DType::id:                  \
    return name;
    RNC_FOR_EACH_DTYPE(RNC_NAME)
#undef RNC_NAME
  }
  return "unknown";
}

// Calls fn(T{}) with the storage type behind `dtype`.
template <class Fn>
auto visit_dtype(DType dtype, Fn&& fn) {
  switch (dtype) {
#define RNC_VISIT(id, T, Acc, name) \
  case DType::id:                   \
    return fn(T{});
    RNC_FOR_EACH_DTYPE(RNC_VISIT)
#undef RNC_VISIT
  }
  return decltype(fn(float{})){};
}

}  // namespace rnc
