// The Python module _host: introspection that needs neither torch nor a GPU.
#include <pybind11/pybind11.h>

#include <string>

#include "host/conv_plan.h"
#include "host/emulator.h"
#include "launch/kernel_library.h"

#if RNC_WITH_CUDA
#include <cuda_runtime_api.h>
#endif

namespace py = pybind11;

namespace {

// GPUs that this build could run on: 0 without CUDA kernels, a driver or a device.
int device_count() {
  int count = 0;
#if RNC_WITH_CUDA
  if (cudaGetDeviceCount(&count) != cudaSuccess) count = 0;
#endif
  return count;
}

py::tuple passes() {
  py::list names;
#define RNC_APPEND_NAME(stem, Params) names.append(#stem);
  RNC_FOR_EACH_PASS(RNC_APPEND_NAME)
#undef RNC_APPEND_NAME
  return py::tuple(names);
}

}  // namespace

PYBIND11_MODULE(_host, m) {
  m.doc() = "Torch-free introspection: the emulator's options and records, plans, what was built.";
  const std::string version = RNC_CUDA_VERSION;
  m.attr("cuda_compiled") = bool(RNC_WITH_CUDA);
  m.attr("cuda_version") = version.empty() ? py::object(py::none()) : py::object(py::str(version));
  m.attr("passes") = passes();
  m.def("device_count", &device_count, "GPUs that this build could run on.");
  rnc::host::bind_emulator(m);
  rnc::host::bind_conv_plan(m);
}
