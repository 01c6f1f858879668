// See deitsec/ops/l2_step.py for the meaning.
#include <torch/csrc/stable/library.h>

#include <cmath>

#include "check.h"
#include "cpu/clones.h"
#include "cpu/rows.h"
#include "math/linf_step.h"
#include "math/number.h"

namespace deitsec {
namespace {

struct Products {
  double slopes = 0.0;   // grad . grad
  double mixed = 0.0;    // grad . (x - x0)
  double changes = 0.0;  // (x - x0) . (x - x0)
};

// In double: no square of an fp32 number over- or underflows there, and the norm of the moved
// perturbation follows from these three without another pass.
template <class T>
DEITSEC_CLONES Products row_products(const T* x, const T* grad, const T* x0, int64_t size) {
  double slopes = 0.0, mixed = 0.0, changes = 0.0;
#pragma omp simd reduction(+ : slopes, mixed, changes)
  for (int64_t i = 0; i < size; ++i) {
    const double slope = widen(grad[i]);
    const double change = widen(x[i]) - widen(x0[i]);
    slopes += slope * slope;
    mixed += slope * change;
    changes += change * change;
  }
  return {slopes, mixed, changes};
}

template <class T>
DEITSEC_CLONES void move_row(T* out, const T* x, const T* grad, const T* x0, int64_t size,
                             double along, float shrink, float low, float high) {
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) {
    const float clean = widen(x0[i]);
    const float move = static_cast<float>(along * static_cast<double>(widen(grad[i])));
    const float delta = (widen(x[i]) - clean) + move;
    out[i] = narrow<T>(clamp(clean + delta * shrink, low, high));
  }
}

// The same where the gradient is no direction: 0 times infinity would be NaN.
template <class T>
DEITSEC_CLONES void project_row(T* out, const T* x, const T* x0, int64_t size, float shrink,
                                float low, float high) {
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) {
    const float clean = widen(x0[i]);
    out[i] = narrow<T>(clamp(clean + (widen(x[i]) - clean) * shrink, low, high));
  }
}

template <class T>
void step_row(T* out, const T* x, const T* grad, const T* x0, int64_t size, double alpha,
              double eps) {
  const Products sums = row_products(x, grad, x0, size);
  const double along = scale_to(alpha, std::sqrt(sums.slopes));
  double square = sums.changes;
  if (along != 0.0) square += 2.0 * along * sums.mixed + alpha * alpha;
  const double norm = std::sqrt(std::max(square, 0.0));
  const auto shrink = static_cast<float>(norm > eps ? eps / norm : 1.0);
  if (along != 0.0) {
    move_row(out, x, grad, x0, size, along, shrink, 0.0f, 1.0f);
  } else {
    project_row(out, x, x0, size, shrink, 0.0f, 1.0f);
  }
}

void step_into(const Tensor& out, const Tensor& x, const Tensor& grad, const Tensor& x0,
               double alpha, double eps) {
  const char* op = "l2_step";
  const ScalarType dtype = x.scalar_type();
  for (const Tensor* tensor : {&x, &grad, &x0}) {
    check_like(op, *tensor, x);
    check_dtype(op, *tensor, dtype);
  }
  const Rows rows = rows_of(op, x);
  with_float_type(op, dtype, [&](auto element) {
    using T = decltype(element);
    for_rows(rows, [&](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) {
        const int64_t begin = row * rows.elements;
        step_row(output<T>(out) + begin, input<T>(x) + begin, input<T>(grad) + begin,
                 input<T>(x0) + begin, rows.elements, alpha, eps);
      }
    });
  });
}

Tensor l2_step_out(const Tensor& x, const Tensor& grad, const Tensor& x0, double alpha,
                   double eps) {
  Tensor out = torch::stable::empty_like(x);
  step_into(out, x, grad, x0, alpha, eps);
  return out;
}

void l2_step_inplace(const Tensor& x, const Tensor& grad, const Tensor& x0, double alpha,
                     double eps) {
  step_into(x, x, grad, x0, alpha, eps);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(deitsec_cpp, CPU, m) {
  m.impl("l2_step", TORCH_BOX(&l2_step_out));
  m.impl("l2_step_", TORCH_BOX(&l2_step_inplace));
}

}  // namespace deitsec
