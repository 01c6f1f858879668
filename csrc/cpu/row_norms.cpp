// See deitsec/ops/row_norms.py for the meaning.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "check.h"
#include "cpu/clones.h"
#include "math/number.h"

namespace deitsec {
namespace {

constexpr int64_t kBlock = 1024;     // elements summed in fp32 lanes before double takes over
constexpr int64_t kSegment = 65536;  // elements of a row that one thread sums
constexpr int64_t kGrain = 32768;

struct Norms {
  float largest = 0.0f;
  double squares = 0.0;
  double sizes = 0.0;
  int64_t changed = 0;

  void add(const Norms& other) {
    largest = std::max(largest, other.largest);
    squares += other.squares;
    sizes += other.sizes;
    changed += other.changed;
  }
};

template <class T>
DEITSEC_CLONES Norms segment_norms(const T* x, const T* x0, int64_t size) {
  Norms norms;
  for (int64_t begin = 0; begin < size; begin += kBlock) {
    const int64_t end = std::min(begin + kBlock, size);
    float largest = 0.0f, squares = 0.0f, sizes = 0.0f;
    int32_t changed = 0;
#pragma omp simd reduction(max : largest) reduction(+ : squares, sizes, changed)
    for (int64_t i = begin; i < end; ++i) {
      const float delta = widen(x[i]) - widen(x0[i]);
      const float magnitude = std::fabs(delta);
      largest = largest > magnitude ? largest : magnitude;
      squares += delta * delta;
      sizes += magnitude;
      changed += delta != 0.0f;
    }
    norms.add({largest, squares, sizes, changed});
  }
  return norms;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> row_norms(const Tensor& x, const Tensor& x0) {
  const char* op = "row_norms";
  check_like(op, x, x);
  check_like(op, x0, x);
  check_dtype(op, x0, x.scalar_type());
  STD_TORCH_CHECK(x.dim() > 0, op, ": expected rows");
  const int64_t rows = x.size(0);
  const std::array<int64_t, 1> shape{rows};
  std::array<Tensor, 4> out;
  for (Tensor& norm : out) norm = torch::stable::new_empty(x, shape, ScalarType::Float);
  if (rows == 0) return {out[0], out[1], out[2], out[3]};

  const int64_t elements = x.numel() / rows;
  const int64_t segments = (elements + kSegment - 1) / kSegment;
  std::vector<Norms> partial(rows * segments);
  const int64_t grain =
      std::max<int64_t>(1, kGrain / std::max<int64_t>(1, std::min(elements, kSegment)));
  with_float_type(op, x.scalar_type(), [&](auto element) {
    using T = decltype(element);
    torch::stable::parallel_for(0, rows * segments, grain, [&](int64_t first, int64_t last) {
      for (int64_t part = first; part < last; ++part) {
        const int64_t begin = part % segments * kSegment;
        const int64_t offset = part / segments * elements + begin;
        partial[part] = segment_norms(input<T>(x) + offset, input<T>(x0) + offset,
                                      std::min(kSegment, elements - begin));
      }
    });
  });
  for (int64_t row = 0; row < rows; ++row) {
    Norms norms;
    for (int64_t part = 0; part < segments; ++part) norms.add(partial[row * segments + part]);
    // comparisons drop a NaN, the sum keeps it
    const bool nan = std::isnan(norms.sizes);
    output<float>(out[0])[row] = nan ? std::numeric_limits<float>::quiet_NaN() : norms.largest;
    output<float>(out[1])[row] = static_cast<float>(std::sqrt(norms.squares));
    output<float>(out[2])[row] = static_cast<float>(norms.sizes);
    output<float>(out[3])[row] = static_cast<float>(norms.changed);
  }
  return {out[0], out[1], out[2], out[3]};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(deitsec_cpp, CPU, m) { m.impl("row_norms", TORCH_BOX(&row_norms)); }

}  // namespace deitsec
