// See deitsec/ops/adam_tanh_step.py for the meaning.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <tuple>

#include "check.h"
#include "cpu/clones.h"
#include "cpu/rows.h"
#include "math/exp.h"
#include "math/number.h"

namespace deitsec {
namespace {

constexpr float kShrink = 1e-6f, kLargest = 1e18f;
constexpr double kBeta1 = 0.9, kBeta2 = 0.999, kEpsilon = 1e-8;
constexpr int64_t kBlock = 1024;  // elements summed in fp32 lanes before double takes over

// Where a row is: the variable, Adam's moments, and the image of the variable.
template <class T>
struct Place {
  float* w;
  float* m;
  float* v;
  T* x;
};

template <class T>
struct From {
  const float* w;
  const float* m;
  const float* v;
  const T* grad;
  const T* x0;
};

struct Move {
  float rate;   // step size, the corrections of the moments' bias in it
  float floor;  // Adam's epsilon, as much corrected as the root it is added to
  float scale;  // of the gradient
  float pull;   // twice the weight of the squared distance
};

// Twice the way of a clean value to the nearer end of the box, drawn towards grey.
DEITSEC_INLINE float edge_of(float clean) {
  const float other = 1.0f - clean;
  const float edge = 2.0f * (clean < other ? clean : other);
  return edge + kShrink * (1.0f - edge);
}

DEITSEC_INLINE float anchor_of(float clean, float edge) {
  const float dark = 0.5f * edge, bright = 1.0f - dark;
  return clean < 0.5f ? dark : bright;
}

// A gradient whose square is an fp32 number, 0 for NaN.
DEITSEC_INLINE float bounded(float g) {
  const float held = g > kLargest ? kLargest : (g < -kLargest ? -kLargest : g);
  return g == g ? held : 0.0f;
}

// The image of w, from u = exp(-2 |w|).
DEITSEC_INLINE float box(float w, float u) { return (w < 0.0f ? u : 1.0f) / (1.0f + u); }

// Squared distance of the moved image from the clean one; a block at most.
template <class T>
DEITSEC_CLONES float move_block(Place<T> to, From<T> from, int64_t size, Move move) {
  float total = 0.0f;
#pragma omp simd reduction(+ : total)
  for (int64_t i = 0; i < size; ++i) {
    const float w = from.w[i], clean = widen(from.x0[i]);
    const float anchor = anchor_of(clean, edge_of(clean));
    const float u = exp_nonpositive(-2.0f * std::fabs(w));
    const float slope = 2.0f * u / ((1.0f + u) * (1.0f + u));
    const float g =
        bounded(slope * (move.pull * (box(w, u) - anchor) + move.scale * widen(from.grad[i])));
    const float m = static_cast<float>(kBeta1) * from.m[i] + static_cast<float>(1 - kBeta1) * g;
    const float v = static_cast<float>(kBeta2) * from.v[i] + static_cast<float>(1 - kBeta2) * g * g;
    const float next = w - move.rate * m / (std::sqrt(v) + move.floor);
    const float x = box(next, exp_nonpositive(-2.0f * std::fabs(next)));
    to.w[i] = next;
    to.m[i] = m;
    to.v[i] = v;
    to.x[i] = narrow<T>(x);
    total += (x - anchor) * (x - anchor);
  }
  return total;
}

// The same where the row starts anew, which is once in a search.
template <class T>
float start_block(Place<T> to, From<T> from, int64_t size) {
  float total = 0.0f;
  for (int64_t i = 0; i < size; ++i) {
    const float clean = widen(from.x0[i]), edge = edge_of(clean);
    const float w = (clean < 0.5f ? -0.5f : 0.5f) * std::log((2.0f - edge) / edge);
    const float x = box(w, exp_nonpositive(-2.0f * std::fabs(w)));
    const float delta = x - anchor_of(clean, edge);
    to.w[i] = w;
    to.m[i] = to.v[i] = 0.0f;
    to.x[i] = narrow<T>(x);
    total += delta * delta;
  }
  return total;
}

template <class T>
double step_row(Place<T> to, From<T> from, int64_t elements, Move move, bool anew) {
  double total = 0.0;
  for (int64_t begin = 0; begin < elements; begin += kBlock) {
    const int64_t size = std::min(kBlock, elements - begin);
    const Place<T> there{to.w + begin, to.m + begin, to.v + begin, to.x + begin};
    const From<T> here{from.w + begin, from.m + begin, from.v + begin, from.grad + begin,
                       from.x0 + begin};
    total += anew ? start_block(there, here, size) : move_block(there, here, size, move);
  }
  return total;
}

struct Operands {
  const Tensor &w, &m, &v, &grad, &x0, &scale, &step;
};

// Shapes and dtypes; how many rows there are.
Rows check_operands(const char* op, const Operands& in) {
  for (const Tensor* tensor : {&in.w, &in.m, &in.v}) {
    check_like(op, *tensor, in.grad);
    check_dtype(op, *tensor, ScalarType::Float);
  }
  check_like(op, in.grad, in.grad);
  check_like(op, in.x0, in.grad);
  check_dtype(op, in.x0, in.grad.scalar_type());
  check_dtype(op, in.scale, ScalarType::Float);
  check_dtype(op, in.step, ScalarType::Long);
  const Rows rows = rows_of(op, in.grad);
  for (const Tensor* of_row : {&in.scale, &in.step}) {
    STD_TORCH_CHECK(of_row->is_contiguous() && (rows.count == 0 || of_row->numel() == rows.count),
                    op, ": expected ", rows.count, " contiguous values, got ", of_row->numel());
  }
  return rows;
}

// Writes w, m and v to where it is told; the image and its distance are new.
std::tuple<Tensor, Tensor> step_into(const Tensor& w, const Tensor& m, const Tensor& v,
                                     const Operands& in, double lr, double pull) {
  const char* op = "adam_tanh_step";
  const Rows rows = check_operands(op, in);
  Tensor x = torch::stable::empty_like(in.grad);
  Tensor distance = torch::stable::empty_like(in.scale);
  with_float_type(op, in.grad.scalar_type(), [&](auto element) {
    using T = decltype(element);
    for_rows(rows, [&](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) {
        const int64_t at = row * rows.elements, t = input<int64_t>(in.step)[row];
        const auto power = static_cast<double>(std::max<int64_t>(t, 1));
        const double correction = std::sqrt(1.0 - std::pow(kBeta2, power));
        const double rate = lr * correction / (1.0 - std::pow(kBeta1, power));
        const Move move{static_cast<float>(rate), static_cast<float>(kEpsilon * correction),
                        input<float>(in.scale)[row], static_cast<float>(2.0 * pull)};
        const Place<T> to{output<float>(w) + at, output<float>(m) + at, output<float>(v) + at,
                          output<T>(x) + at};
        const From<T> from{input<float>(in.w) + at, input<float>(in.m) + at,
                           input<float>(in.v) + at, input<T>(in.grad) + at, input<T>(in.x0) + at};
        const double square = step_row(to, from, rows.elements, move, t == 0);
        output<float>(distance)[row] = static_cast<float>(square);
      }
    });
  });
  return {x, distance};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> adam_tanh_step(
    const Tensor& w, const Tensor& m, const Tensor& v, const Tensor& grad, const Tensor& x0,
    const Tensor& scale, const Tensor& step, double lr, double pull) {
  Tensor next = torch::stable::empty_like(w);
  Tensor first = torch::stable::empty_like(m);
  Tensor second = torch::stable::empty_like(v);
  const auto [x, distance] =
      step_into(next, first, second, {w, m, v, grad, x0, scale, step}, lr, pull);
  return {next, first, second, x, distance};
}

std::tuple<Tensor, Tensor> adam_tanh_step_inplace(const Tensor& w, const Tensor& m, const Tensor& v,
                                                  const Tensor& grad, const Tensor& x0,
                                                  const Tensor& scale, const Tensor& step,
                                                  double lr, double pull) {
  return step_into(w, m, v, {w, m, v, grad, x0, scale, step}, lr, pull);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(deitsec_cpp, CPU, m) {
  m.impl("adam_tanh_step", TORCH_BOX(&adam_tanh_step));
  m.impl("adam_tanh_step_", TORCH_BOX(&adam_tanh_step_inplace));
}

}  // namespace deitsec
