// Which kernel a convolution pass takes, for `explain`.
#pragma once

#include <pybind11/pybind11.h>

namespace rnc::host {

void bind_conv_plan(pybind11::module_& m);

}  // namespace rnc::host
