// The stable ABI does not know the switch. Python does, and whoever has loaded this module runs it.
#include "bindings/tf32_switch.h"

#include <Python.h>

#include <stdexcept>

namespace rnc::bindings {
namespace {

// Ops run without the interpreter's lock, autograd's on threads of their own.
struct InterpreterLock {
  PyGILState_STATE state = PyGILState_Ensure();
  ~InterpreterLock() { PyGILState_Release(state); }
};

// A new reference, or null with Python's error set.
struct Reference {
  PyObject* object;
  ~Reference() { Py_XDECREF(object); }
};

// torch.backends.cudnn.conv: looked for once, and never released.
PyObject* cudnn_conv() {
  static PyObject* conv = nullptr;
  if (!conv) {
    const Reference cudnn{PyImport_ImportModule("torch.backends.cudnn")};
    conv = cudnn.object ? PyObject_GetAttrString(cudnn.object, "conv") : nullptr;
  }
  return conv;
}

}  // namespace

bool torch_allows_tf32() {
  const InterpreterLock lock;
  PyObject* const conv = cudnn_conv();
  const Reference precision{conv ? PyObject_GetAttrString(conv, "fp32_precision") : nullptr};
  if (!precision.object || !PyUnicode_Check(precision.object)) {
    PyErr_Clear();
    throw std::runtime_error(
        "resnet_cuda: torch.backends.cudnn.conv.fp32_precision cannot be read, expected a string "
        "as in torch >= 2.11");
  }
  return PyUnicode_CompareWithASCIIString(precision.object, "tf32") == 0;
}

}  // namespace rnc::bindings
