// See deitsec/ops/quantize_uint8.py for the meaning.
#include <torch/csrc/stable/library.h>

#include "check.h"
#include "cpu/clones.h"
#include "math/quantize.h"

namespace deitsec {
namespace {

constexpr int64_t kGrain = 32768;

template <class T>
DEITSEC_CLONES void quantize_range(uint8_t* out, const T* adv, const uint8_t* clean, int64_t size,
                                   int32_t levels) {
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) out[i] = quantize(widen(adv[i]), clean[i], levels);
}

Tensor quantize_uint8(const Tensor& adv, const Tensor& clean, int64_t levels) {
  const char* op = "quantize_uint8";
  check_like(op, adv, adv);
  check_like(op, clean, adv);
  check_dtype(op, clean, ScalarType::Byte);
  Tensor out = torch::stable::empty_like(clean);
  with_float_type(op, adv.scalar_type(), [&](auto element) {
    using T = decltype(element);
    torch::stable::parallel_for(0, adv.numel(), kGrain, [&](int64_t begin, int64_t end) {
      quantize_range(output<uint8_t>(out) + begin, input<T>(adv) + begin,
                     input<uint8_t>(clean) + begin, end - begin, static_cast<int32_t>(levels));
    });
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(deitsec_cpp, CPU, m) {
  m.impl("quantize_uint8", TORCH_BOX(&quantize_uint8));
}

}  // namespace deitsec
