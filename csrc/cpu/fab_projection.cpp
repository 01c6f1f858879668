// See deitsec/ops/fab_projection.py for the meaning.
#include <torch/csrc/stable/library.h>

#include <type_traits>

#include "check.h"
#include "cpu/box_plane.h"
#include "cpu/clones.h"
#include "cpu/rows.h"
#include "math/number.h"

namespace deitsec {
namespace {

template <class T, class Move>
DEITSEC_CLONES void write_row(T* out, const T* x, const T* slope, int64_t size, bool positive,
                              Move move) {
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) {
    const float along = widen(slope[i]);
    const double room = room_towards(widen(x[i]), along, positive);
    const double most = move.amount(std::fabs(along), room);
    out[i] = narrow<T>(static_cast<float>(towards(along, positive) * most));
  }
}

Tensor fab_projection(const Tensor& x, const Tensor& slope, const Tensor& value, double p) {
  const char* op = "fab_projection";
  check_like(op, x, x);
  check_like(op, slope, x);
  check_dtype(op, slope, x.scalar_type());
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
          Plane<T> plane{input<T>(x) + begin, input<T>(slope) + begin, rows.elements, values[row]};
          T* to = output<T>(out) + begin;
          if (measure(&plane)) {
            write_row(to, plane.x, plane.slope, plane.count, plane.positive(), Move(plane));
          } else {
            std::fill(to, to + rows.elements, narrow<T>(0.0f));
          }
        }
      });
    });
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(deitsec_cpp, CPU, m) {
  m.impl("fab_projection", TORCH_BOX(&fab_projection));
}

}  // namespace deitsec
