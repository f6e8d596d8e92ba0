// The Python module _C: importing it registers the ops with torch. Also the ops that take no
// tensors.
#include <Python.h>

#include <string>

#include "bindings/register.h"
#include "bindings/stage.h"
#include "bindings/tf32_switch.h"
#include "launch/early_start.h"

namespace rnc::bindings {
namespace {

// JSON: what this binary was built with. RNC_CUDA_* and RNC_COMPILER come from CMake.
std::string build_info() {
  const std::string version = RNC_CUDA_VERSION;
  return std::string("{\"cuda_compiled\": ") + (RNC_WITH_CUDA ? "true" : "false") +
         ", \"cuda_version\": " + (version.empty() ? "null" : "\"" + version + "\"") +
         ", \"architectures\": \"" RNC_CUDA_ARCHITECTURES
         "\", \"torch_abi\": \"2.11\""
         ", \"torch_headers\": \"" TORCH_VERSION "\", \"compiler\": \"" RNC_COMPILER "\"}";
}

// Of kernels on GPUs, by all threads.
void start_early(bool on) { early_start_is_on = on; }

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(resnet_cuda, m) {
  m.def("_select_emulator(str path, bool allow_tf32=False, int capability=90) -> ()");
  m.def("_allows_tf32() -> bool");
  m.def("_build_info() -> str");
  m.def("_start_early(bool on) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(resnet_cuda, CompositeExplicitAutograd, m) {
  m.impl("_select_emulator", TORCH_BOX(&select_emulator));
  m.impl("_allows_tf32", TORCH_BOX(&torch_allows_tf32));
  m.impl("_build_info", TORCH_BOX(&build_info));
  m.impl("_start_early", TORCH_BOX(&start_early));
}

}  // namespace rnc::bindings

PyMODINIT_FUNC PyInit__C() {
  static PyModuleDef module = {
      PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&module);
}
