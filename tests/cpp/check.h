// A test is a function registered by RNC_TEST; EXPECT and EXPECT_EQ report and go on.
#pragma once

#include <iostream>
#include <string>
#include <vector>

namespace rnc::test {

struct Test {
  const char* name;
  void (*run)();
};

inline std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}

inline int& failures() {
  static int count = 0;
  return count;
}

struct Registration {
  Registration(const char* name, void (*run)()) { tests().push_back({name, run}); }
};

inline std::ostream& report(const char* file, int line) {
  ++failures();
  return std::cerr << file << ":" << line << ": ";
}

template <class A, class B>
void expect_eq(const A& actual, const B& expected, const char* text, const char* file, int line) {
  if (actual == expected) return;
  report(file, line) << text << " is " << actual << ", expected " << expected << "\n";
}

// The emulated library under test.
const std::string& emulated_library_path();

}  // namespace rnc::test

#define RNC_TEST(name)                                                      \
  static void name();                                                       \
  static const rnc::test::Registration registration_of_##name(#name, name); \
  static void name()

#define EXPECT(condition)                                                       \
  do {                                                                          \
    if (!(condition)) rnc::test::report(__FILE__, __LINE__) << #condition "\n"; \
  } while (false)

#define EXPECT_EQ(actual, expected) \
  rnc::test::expect_eq(actual, expected, #actual, __FILE__, __LINE__)
