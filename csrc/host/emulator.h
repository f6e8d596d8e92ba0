// Python's handle on an emulated library: options, launch records, counters.
#pragma once

#include <pybind11/pybind11.h>

namespace rnc::host {

void bind_emulator(pybind11::module_& m);

}  // namespace rnc::host
