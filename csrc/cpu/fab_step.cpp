// See deitsec/ops/fab_step.py for the meaning.
#include <torch/csrc/stable/library.h>

#include <type_traits>

#include "check.h"
#include "cpu/box_plane.h"
#include "cpu/clones.h"
#include "cpu/rows.h"
#include "math/linf_step.h"
#include "math/number.h"

namespace deitsec {
namespace {

constexpr double kLeastNorm = 1e-8;  // the reference implementation's

// slope . (to - from)
template <class T>
DEITSEC_CLONES double change_along(const T* slope, const T* to, const T* from, int64_t size) {
  double sum = 0.0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < size; ++i) {
    const double change = static_cast<double>(widen(to[i])) - static_cast<double>(widen(from[i]));
    sum += static_cast<double>(widen(slope[i])) * change;
  }
  return sum;
}

template <class T, class Move>
DEITSEC_CLONES double norm_of(const T* x, const T* slope, int64_t size, bool positive, Move move) {
  double length = 0.0;
  for (int64_t i = 0; i < size; ++i) {
    const float along = widen(slope[i]);
    const double room = room_towards(widen(x[i]), along, positive);
    length = Move::gathered(length, move.amount(std::fabs(along), room));
  }
  return std::max(Move::norm(length), kLeastNorm);
}

// How the two projected points are mixed.
struct Mix {
  double eta;
  double alpha;
  float low = 0.0f;
  float high = 1.0f;
};

template <class T, class Move>
DEITSEC_CLONES void mix_row(T* out, const T* x, const T* x0, const T* slope, int64_t size,
                            bool positive, Move move, bool positive0, Move move0, Mix mix) {
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) {
    const float along = widen(slope[i]), at = widen(x[i]), clean = widen(x0[i]);
    const float length = std::fabs(along);
    const double near =
        towards(along, positive) * move.amount(length, room_towards(at, along, positive));
    const double far =
        towards(along, positive0) * move0.amount(length, room_towards(clean, along, positive0));
    const double mixed =
        (at + mix.eta * near) * (1.0 - mix.alpha) + (clean + mix.eta * far) * mix.alpha;
    out[i] = narrow<T>(clamp(static_cast<float>(mixed), mix.low, mix.high));
  }
}

template <class Move, class T>
void step_row(T* out, Plane<T> plane, const T* x0, double eta, double alpha_max) {
  const int64_t size = plane.count;
  Plane<T> plane0 = plane;
  plane0.x = x0;
  plane0.value += change_along(plane.slope, x0, plane.x, size);
  if (!measure(&plane) || !measure(&plane0)) {
    std::copy(plane.x, plane.x + size, out);
    return;
  }
  const bool positive = plane.positive(), positive0 = plane0.positive();
  const Move move(plane), move0(plane0);
  const double norm = norm_of(plane.x, plane.slope, size, positive, move);
  const double norm0 = norm_of(x0, plane.slope, size, positive0, move0);
  const Mix mix{eta, std::min(norm / (norm + norm0), alpha_max)};
  mix_row(out, plane.x, x0, plane.slope, size, positive, move, positive0, move0, mix);
}

Tensor fab_step(const Tensor& x, const Tensor& x0, const Tensor& slope, const Tensor& value,
                double eta, double alpha_max, double p) {
  const char* op = "fab_step";
  for (const Tensor* tensor : {&x, &x0, &slope}) {
    check_like(op, *tensor, x);
    check_dtype(op, *tensor, x.scalar_type());
  }
  Tensor out = torch::stable::empty_like(x);
  const Rows rows = rows_of(op, x);
  const float* values = check_values(op, value, rows.count);
  with_float_type(op, x.scalar_type(), [&](auto element) {
    using T = decltype(element);
    with_norm(op, p, [&](auto* norm) {
      using Move = std::remove_pointer_t<decltype(norm)>;
      for_rows(rows, [&](int64_t first, int64_t last) {
        for (int64_t row = first; row < last; ++row) {
          const int64_t begin = row * rows.elements;
          const Plane<T> plane{input<T>(x) + begin, input<T>(slope) + begin, rows.elements,
                               values[row]};
          step_row<Move>(output<T>(out) + begin, plane, input<T>(x0) + begin, eta, alpha_max);
        }
      });
    });
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(deitsec_cpp, CPU, m) { m.impl("fab_step", TORCH_BOX(&fab_step)); }

}  // namespace deitsec
