// See deitsec/ops/linf_step.py for the meaning.
#include "math/linf_step.h"

#include <torch/csrc/stable/library.h>

#include "check.h"
#include "cpu/clones.h"

namespace deitsec {
namespace {

constexpr int64_t kGrain = 32768;  // below this a second thread costs more than it saves

template <class T, class Clean>
DEITSEC_CLONES void step_range(T* out, const T* x, const T* grad, const Clean* x0, int64_t size,
                               LinfStep step) {
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) {
    out[i] = narrow<T>(linf_step(widen(x[i]), widen(grad[i]), clean_value(x0[i]), step));
  }
}

void step_into(const Tensor& out, const Tensor& x, const Tensor& grad, const Tensor& x0,
               double alpha, double eps) {
  const LinfStep step{static_cast<float>(alpha), static_cast<float>(eps)};
  const char* op = "linf_step";
  const ScalarType dtype = x.scalar_type();
  check_like(op, x, x);
  check_like(op, grad, x);
  check_like(op, x0, x);
  check_dtype(op, grad, dtype);
  with_float_type(op, dtype, [&](auto element) {
    using T = decltype(element);
    with_clean_type<T>(op, x0, dtype, [&](auto clean) {
      using Clean = decltype(clean);
      torch::stable::parallel_for(0, x.numel(), kGrain, [&](int64_t begin, int64_t end) {
        step_range(output<T>(out) + begin, input<T>(x) + begin, input<T>(grad) + begin,
                   input<Clean>(x0) + begin, end - begin, step);
      });
    });
  });
}

Tensor linf_step_out(const Tensor& x, const Tensor& grad, const Tensor& x0, double alpha,
                     double eps) {
  Tensor out = torch::stable::empty_like(x);
  step_into(out, x, grad, x0, alpha, eps);
  return out;
}

void linf_step_inplace(const Tensor& x, const Tensor& grad, const Tensor& x0, double alpha,
                       double eps) {
  step_into(x, x, grad, x0, alpha, eps);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(deitsec_cpp, CPU, m) {
  m.impl("linf_step", TORCH_BOX(&linf_step_out));
  m.impl("linf_step_", TORCH_BOX(&linf_step_inplace));
}

}  // namespace deitsec
