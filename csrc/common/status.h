// The result of a launch: a plain C value, so that it can cross a shared-library boundary.
#pragma once

namespace rnc {

// `error` is nullptr on success; otherwise a message that stays valid until the next call on the
// same thread.
struct Status {
  const char* error = nullptr;
  bool ok() const { return error == nullptr; }
};

}  // namespace rnc
