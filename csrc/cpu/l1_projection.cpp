// See deitsec/ops/l1_projection.py for the meaning.
#include <torch/csrc/stable/library.h>

#include <algorithm>

#include "check.h"
#include "cpu/clones.h"
#include "cpu/l1_ball.h"
#include "cpu/rows.h"
#include "math/linf_step.h"
#include "math/number.h"

namespace deitsec {
namespace {

template <class T>
DEITSEC_CLONES void load_entries(float* deltas, float* clean, const T* z, const T* x0,
                                 int64_t size) {
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) {
    clean[i] = widen(x0[i]);
    deltas[i] = widen(z[i]) - clean[i];
  }
}

template <class T>
void gather_row(Perturbation& v, const T* z, const T* x0, int64_t elements) {
  float deltas[kEntries], clean[kEntries];
  v.count = 0;
  for (int64_t begin = 0; begin < elements; begin += kEntries) {
    const int64_t size = std::min(kEntries, elements - begin);
    load_entries(deltas, clean, z + begin, x0 + begin, size);
    v.add(deltas, clean, size);
  }
}

template <class T>
DEITSEC_CLONES void project_row(T* out, const T* z, const T* x0, int64_t size, float lambda,
                                float low, float high) {
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) {
    const float clean = widen(x0[i]);
    out[i] = narrow<T>(clamp(project_entry(widen(z[i]) - clean, clean, lambda), low, high));
  }
}

Tensor l1_projection(const Tensor& z, const Tensor& x0, double eps) {
  const char* op = "l1_projection";
  check_like(op, z, z);
  check_like(op, x0, z);
  check_dtype(op, x0, z.scalar_type());
  Tensor out = torch::stable::empty_like(z);
  const Rows rows = rows_of(op, z);
  with_float_type(op, z.scalar_type(), [&](auto element) {
    using T = decltype(element);
    for_rows(rows, [&](int64_t first, int64_t last) {
      Perturbation v(rows.elements);
      for (int64_t row = first; row < last; ++row) {
        const int64_t begin = row * rows.elements;
        const T* point = input<T>(z) + begin;
        const T* clean = input<T>(x0) + begin;
        gather_row(v, point, clean, rows.elements);
        const auto lambda = static_cast<float>(find_lambda(v, eps));
        project_row(output<T>(out) + begin, point, clean, rows.elements, lambda, 0.0f, 1.0f);
      }
    });
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(deitsec_cpp, CPU, m) {
  m.impl("l1_projection", TORCH_BOX(&l1_projection));
}

}  // namespace deitsec
