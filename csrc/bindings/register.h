// Registration of the ops. Each op's file holds its schema beside its implementation:
//   STABLE_TORCH_LIBRARY_FRAGMENT(resnet_cuda, m) { m.def("_name(Tensor x) -> Tensor"); }
//   RNC_IMPLEMENT_OPS(m) { m.impl("_name", TORCH_BOX(&name)); }
#pragma once

#include <torch/csrc/stable/library.h>

#include "bindings/stable_abi.h"

// One function serves CUDA tensors (on the GPU) and CPU tensors (on the emulator): Stage tells them
// apart.
#define RNC_IMPLEMENT_OPS(m)                                            \
  static void implement_ops(torch::stable::detail::StableLibrary& m);   \
  STABLE_TORCH_LIBRARY_IMPL(resnet_cuda, CPU, m) { implement_ops(m); }  \
  STABLE_TORCH_LIBRARY_IMPL(resnet_cuda, CUDA, m) { implement_ops(m); } \
  static void implement_ops(torch::stable::detail::StableLibrary& m)
