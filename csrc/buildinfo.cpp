// Says how the native part was built and what this processor can run.
#include <pybind11/pybind11.h>

namespace {

constexpr const char* kBuildFacts =
#include "build_facts.h"
    ;

// The same test by which the clones of the CPU kernels are picked.
const char* cpu_capability() {
#if defined(__x86_64__) && defined(__GNUC__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    return "avx512";
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return "avx2";
#endif
  return "baseline";
}

pybind11::dict describe() {
  pybind11::dict facts = pybind11::module_::import("json").attr("loads")(kBuildFacts);
  facts["cpu_capability"] = cpu_capability();
  return facts;
}

}  // namespace

PYBIND11_MODULE(_buildinfo, module) {
  module.doc() = "How the native part of deitsec was built.";
  module.def("describe", &describe,
             "Compilers, flags and PyTorch of the build, and what this processor can run.");
}
