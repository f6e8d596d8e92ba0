#include <cstring>
#include <exception>

#include "check.h"

namespace {
std::string library_path;
}

const std::string& rnc::test::emulated_library_path() { return library_path; }

// rnc_cpp_tests LIBRARY: runs every test against the emulated library at that path.
int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: rnc_cpp_tests path/to/librnc_emulated.so\n";
    return 2;
  }
  library_path = argv[1];
  int failed_tests = 0;
  for (const rnc::test::Test& test : rnc::test::tests()) {
    const int before = rnc::test::failures();
    try {
      test.run();
    } catch (const std::exception& error) {
      rnc::test::report(test.name, 0) << "threw " << error.what() << "\n";
    }
    const bool failed = rnc::test::failures() != before;
    failed_tests += failed;
    std::cout << (failed ? "FAILED " : "passed ") << test.name << "\n";
  }
  std::cout << rnc::test::tests().size() - failed_tests << " of " << rnc::test::tests().size()
            << " tests passed\n";
  return failed_tests || rnc::test::tests().empty() ? 1 : 0;
}
