// See deitsec/ops/momentum_step.py for the meaning.
#include <torch/csrc/stable/library.h>

#include <cmath>
#include <tuple>

#include "check.h"
#include "cpu/clones.h"
#include "cpu/rows.h"
#include "math/linf_step.h"
#include "math/number.h"

namespace deitsec {
namespace {

// In double, where no sum of fp32 numbers overflows.
template <class T>
DEITSEC_CLONES double row_size(const T* grad, int64_t size) {
  double total = 0.0;
#pragma omp simd reduction(+ : total)
  for (int64_t i = 0; i < size; ++i) total += std::fabs(widen(grad[i]));
  return total;
}

struct Pull {
  double along;  // factor of the gradient, 0 where it is no direction
  float decay;
};

template <class T>
DEITSEC_CLONES void move_row(T* out, float* total, const T* x, const T* grad, const float* momentum,
                             const T* x0, int64_t size, Pull pull, LinfStep step) {
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) {
    const auto unit = static_cast<float>(pull.along * static_cast<double>(widen(grad[i])));
    const float sum = pull.decay * momentum[i] + unit;
    total[i] = sum;
    out[i] = narrow<T>(linf_step(widen(x[i]), sum, widen(x0[i]), step));
  }
}

// The same where the gradient is no direction: 0 times infinity would be NaN.
template <class T>
DEITSEC_CLONES void coast_row(T* out, float* total, const T* x, const float* momentum, const T* x0,
                              int64_t size, float decay, LinfStep step) {
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) {
    const float sum = decay * momentum[i];
    total[i] = sum;
    out[i] = narrow<T>(linf_step(widen(x[i]), sum, widen(x0[i]), step));
  }
}

void step_into(const Tensor& out, const Tensor& total, const Tensor& x, const Tensor& grad,
               const Tensor& momentum, const Tensor& x0, double decay, double alpha, double eps) {
  const char* op = "momentum_step";
  const ScalarType dtype = x.scalar_type();
  for (const Tensor* tensor : {&x, &grad, &x0}) {
    check_like(op, *tensor, x);
    check_dtype(op, *tensor, dtype);
  }
  check_like(op, momentum, x);
  check_dtype(op, momentum, ScalarType::Float);
  const Rows rows = rows_of(op, x);
  const LinfStep step{static_cast<float>(alpha), static_cast<float>(eps)};
  const auto fading = static_cast<float>(decay);
  with_float_type(op, dtype, [&](auto element) {
    using T = decltype(element);
    for_rows(rows, [&](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) {
        const int64_t begin = row * rows.elements;
        const T* slope = input<T>(grad) + begin;
        const T* iterate = input<T>(x) + begin;
        const float* earlier = input<float>(momentum) + begin;
        const T* clean = input<T>(x0) + begin;
        T* next = output<T>(out) + begin;
        float* sum = output<float>(total) + begin;
        const double along = scale_to(1.0, row_size(slope, rows.elements));
        if (along != 0.0) {
          move_row(next, sum, iterate, slope, earlier, clean, rows.elements, Pull{along, fading},
                   step);
        } else {
          coast_row(next, sum, iterate, earlier, clean, rows.elements, fading, step);
        }
      }
    });
  });
}

std::tuple<Tensor, Tensor> momentum_step_out(const Tensor& x, const Tensor& grad,
                                             const Tensor& momentum, const Tensor& x0, double decay,
                                             double alpha, double eps) {
  Tensor out = torch::stable::empty_like(x);
  Tensor total = torch::stable::empty_like(momentum);
  step_into(out, total, x, grad, momentum, x0, decay, alpha, eps);
  return {out, total};
}

void momentum_step_inplace(const Tensor& x, const Tensor& grad, const Tensor& momentum,
                           const Tensor& x0, double decay, double alpha, double eps) {
  step_into(x, momentum, x, grad, momentum, x0, decay, alpha, eps);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(deitsec_cpp, CPU, m) {
  m.impl("momentum_step", TORCH_BOX(&momentum_step_out));
  m.impl("momentum_step_", TORCH_BOX(&momentum_step_inplace));
}

}  // namespace deitsec
