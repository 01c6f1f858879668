// See deitsec/ops/apgd_step.py for the meaning.
#include <torch/csrc/stable/library.h>

#include <cstring>
#include <tuple>

#include "check.h"
#include "cpu/clones.h"
#include "cpu/rows.h"
#include "math/linf_step.h"
#include "math/number.h"

namespace deitsec {
namespace {

// How far the gradient step and the momentum go.
struct Shares {
  float ahead;
  float along;
};

// `out` may be `before`: an element is read before it is written.
template <class T>
DEITSEC_CLONES void move_row(T* out, const T* x, const T* grad, const T* x0, const T* before,
                             int64_t size, LinfStep step, Shares shares) {
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) {
    const float start = widen(x[i]), clean = widen(x0[i]);
    const float z = linf_step(start, widen(grad[i]), clean, step);
    const float ahead =
        (start + (z - start) * shares.ahead) + (start - widen(before[i])) * shares.along;
    out[i] = narrow<T>(linf_project(ahead, clean, step));
  }
}

// The tensors that a step reads and changes, in the order of the op.
struct Iterates {
  const Tensor& x_old;
  const Tensor& x;
  const Tensor& x_best;
  const Tensor& grad_best;
};

struct RowChoices {
  const Tensor& better;
  const Tensor& restart;
  const Tensor& step;
};

template <class T>
void copy_row(T* to, const T* from, int64_t elements) {
  if (to != from) std::memcpy(to, from, elements * sizeof(T));
}

void check_arguments(const char* op, const Iterates& in, const Tensor& grad, const Tensor& x0,
                     const RowChoices& choices, const Rows& rows) {
  for (const Tensor* tensor : {&in.x_old, &in.x, &in.x_best, &in.grad_best, &grad, &x0}) {
    check_like(op, *tensor, in.x);
    check_dtype(op, *tensor, in.x.scalar_type());
  }
  check_dtype(op, choices.better, ScalarType::Bool);
  check_dtype(op, choices.restart, ScalarType::Bool);
  check_dtype(op, choices.step, ScalarType::Float);
  for (const Tensor* of_row : {&choices.better, &choices.restart, &choices.step}) {
    STD_TORCH_CHECK(of_row->is_contiguous() && (rows.count == 0 || of_row->numel() == rows.count),
                    op, ": expected ", rows.count, " contiguous values, got ", of_row->numel());
  }
}

// `out` may be `in`, with the next iterate in the place of the old one.
void step_into(const char* op, const Iterates& out, const Iterates& in, const Tensor& grad,
               const Tensor& x0, const RowChoices& choices, double share, double eps) {
  const Rows rows = rows_of(op, in.x);
  check_arguments(op, in, grad, x0, choices, rows);
  const Shares shares{static_cast<float>(share), static_cast<float>(1.0 - share)};
  const bool* better = input<bool>(choices.better);
  const bool* restart = input<bool>(choices.restart);
  const float* sizes = input<float>(choices.step);
  with_float_type(op, in.x.scalar_type(), [&](auto element) {
    using T = decltype(element);
    for_rows(rows, [&](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) {
        const int64_t begin = row * rows.elements;
        const T* iterate = input<T>(in.x) + begin;
        const T* slope = input<T>(grad) + begin;
        T* best = output<T>(out.x_best) + begin;
        T* best_slope = output<T>(out.grad_best) + begin;
        copy_row(best, better[row] ? iterate : input<T>(in.x_best) + begin, rows.elements);
        copy_row(best_slope, better[row] ? slope : input<T>(in.grad_best) + begin, rows.elements);
        const T* origin = restart[row] ? best : iterate;
        const LinfStep step{sizes[row], static_cast<float>(eps)};
        move_row(output<T>(out.x_old) + begin, origin, restart[row] ? best_slope : slope,
                 input<T>(x0) + begin, input<T>(in.x_old) + begin, rows.elements, step, shares);
        copy_row(output<T>(out.x) + begin, origin, rows.elements);
      }
    });
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor> apgd_step_out(
    const Tensor& x_old, const Tensor& x, const Tensor& x_best, const Tensor& grad_best,
    const Tensor& grad, const Tensor& x0, const Tensor& better, const Tensor& restart,
    const Tensor& step, double share, double eps) {
  Tensor next = torch::stable::empty_like(x_old), from = torch::stable::empty_like(x);
  Tensor best = torch::stable::empty_like(x_best), slope = torch::stable::empty_like(grad_best);
  step_into("apgd_step", {next, from, best, slope}, {x_old, x, x_best, grad_best}, grad, x0,
            {better, restart, step}, share, eps);
  return {next, from, best, slope};
}

void apgd_step_inplace(const Tensor& x_old, const Tensor& x, const Tensor& x_best,
                       const Tensor& grad_best, const Tensor& grad, const Tensor& x0,
                       const Tensor& better, const Tensor& restart, const Tensor& step,
                       double share, double eps) {
  const Iterates iterates{x_old, x, x_best, grad_best};
  step_into("apgd_step_", iterates, iterates, grad, x0, {better, restart, step}, share, eps);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(deitsec_cpp, CPU, m) {
  m.impl("apgd_step", TORCH_BOX(&apgd_step_out));
  m.impl("apgd_step_", TORCH_BOX(&apgd_step_inplace));
}

}  // namespace deitsec
