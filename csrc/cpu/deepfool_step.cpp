// See deitsec/ops/deepfool_step.py for the meaning.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>

#include "check.h"
#include "cpu/clones.h"
#include "cpu/rows.h"
#include "math/linf_step.h"
#include "math/number.h"

namespace deitsec {
namespace {

constexpr double kFurther = 1e-4;  // the authors': how far beyond the plane a step goes

// In double: no square of an fp32 number over- or underflows there.
template <bool squares, class T>
DEITSEC_CLONES double slope_sum(const T* slope, int64_t size) {
  double sum = 0.0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < size; ++i) {
    const double along = std::fabs(widen(slope[i]));
    sum += squares ? along * along : along;
  }
  return sum;
}

// The nearest plane, and the factor of its slope that makes the step; `at` is -1 where none is.
struct Nearest {
  int64_t at = -1;
  double distance = std::numeric_limits<double>::infinity();
  double size = 1.0;
};

template <class T>
Nearest find_nearest(const T* slopes, const float* values, int64_t planes, int64_t size,
                     bool linf) {
  Nearest best;
  for (int64_t j = 0; j < planes; ++j) {
    const T* slope = slopes + j * size;
    const double length =
        linf ? slope_sum<false>(slope, size) : std::sqrt(slope_sum<true>(slope, size));
    const double distance = std::fabs(static_cast<double>(values[j])) / length;
    if (!(length > 0.0) || !std::isfinite(length) || !(distance < best.distance)) continue;
    best = {j, distance, length};
  }
  return best;
}

struct Step {
  double along;  // factor of the slope, or of its sign
  double reach;  // 1 + overshoot
  bool linf;
  float low = 0.0f;
  float high = 1.0f;
};

template <class T>
DEITSEC_CLONES void move_row(T* to, T* image, const T* total, const T* x0, const T* slope,
                             int64_t size, Step step) {
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) {
    const double slant = widen(slope[i]);
    const double sign = slant > 0.0 ? 1.0 : (slant < 0.0 ? -1.0 : 0.0);
    const double sum = widen(total[i]) + step.along * (step.linf ? sign : slant);
    const T kept = narrow<T>(static_cast<float>(sum));
    to[i] = kept;
    const double moved = widen(x0[i]) + step.reach * widen(kept);
    image[i] = narrow<T>(clamp(static_cast<float>(moved), step.low, step.high));
  }
}

std::tuple<Tensor, Tensor> deepfool_step(const Tensor& total, const Tensor& x0,
                                         const Tensor& slopes, const Tensor& values,
                                         const Tensor& held, double overshoot, double p) {
  const char* op = "deepfool_step";
  check_like(op, total, total);
  check_like(op, x0, total);
  for (const Tensor* tensor : {&x0, &slopes}) check_dtype(op, *tensor, total.scalar_type());
  check_dtype(op, values, ScalarType::Float);
  check_dtype(op, held, ScalarType::Bool);
  const Rows rows = rows_of(op, total);
  STD_TORCH_CHECK(
      slopes.is_contiguous() && values.is_contiguous() && held.is_contiguous() && values.dim() == 2,
      op, ": tensors must be contiguous, and values (rows, planes)");
  const int64_t planes = values.size(1);
  STD_TORCH_CHECK(
      rows.count == 0 || (values.numel() == rows.count * planes &&
                          slopes.numel() == planes * total.numel() && held.numel() == rows.count),
      op, ": shapes do not go together");
  Tensor out = torch::stable::empty_like(total), image = torch::stable::empty_like(x0);
  const bool linf = std::isinf(p);
  with_float_type(op, total.scalar_type(), [&](auto element) {
    using T = decltype(element);
    for_rows(rows, [&](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) {
        const int64_t begin = row * rows.elements;
        const T* of_row = input<T>(slopes) + begin * planes;
        Nearest nearest;
        if (!input<bool>(held)[row]) {
          nearest = find_nearest(of_row, input<float>(values) + row * planes, planes, rows.elements,
                                 linf);
        }
        const bool moves = nearest.at >= 0;
        const double length = nearest.distance + kFurther;
        const Step step{moves ? (linf ? length : length / nearest.size) : 0.0, 1.0 + overshoot,
                        linf};
        // a slope that moves nothing has to be finite: the perturbation is
        const T* slope = moves ? of_row + nearest.at * rows.elements : input<T>(total) + begin;
        move_row(output<T>(out) + begin, output<T>(image) + begin, input<T>(total) + begin,
                 input<T>(x0) + begin, slope, rows.elements, step);
      }
    });
  });
  return {out, image};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(deitsec_cpp, CPU, m) {
  m.impl("deepfool_step", TORCH_BOX(&deepfool_step));
}

}  // namespace deitsec
