// See deitsec/ops/square_window.py for the meaning.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cstring>

#include "check.h"
#include "cpu/clones.h"
#include "math/linf_step.h"
#include "math/philox.h"

namespace deitsec {
namespace {

constexpr int64_t kGrain = 65536;  // elements below which a second thread costs more than it saves

struct Shape {
  int64_t channels, height, width;
};

// The window of a row, and the signs of its channels.
struct Window {
  int64_t top, left, size;
  uint64_t up;
};

Window draw_window(uint64_t sample, uint64_t step, uint64_t seed, uint32_t stream,
                   const Shape& shape, int64_t size) {
  const PhiloxWords counter{static_cast<uint32_t>(step), static_cast<uint32_t>(sample),
                            static_cast<uint32_t>(sample >> 32), stream};
  const PhiloxWords words =
      philox(counter, static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
  const uint64_t down = shape.height - size + 1, across = shape.width - size + 1;
  return {static_cast<int64_t>(words.w0 * down >> 32),
          static_cast<int64_t>(words.w1 * across >> 32), size,
          words.w2 | static_cast<uint64_t>(words.w3) << 32};
}

// One plane of a row: a copy of x, and the window over it while it is in the cache.
template <class T>
DEITSEC_CLONES void propose_plane(T* out, const T* x, const T* x0, const Shape& shape,
                                  const Window& window, float move) {
  std::memcpy(out, x, shape.height * shape.width * sizeof(T));
  for (int64_t line = window.top; line < window.top + window.size; ++line) {
    T* to = out + line * shape.width + window.left;
    const T* from = x0 + line * shape.width + window.left;
#pragma omp simd
    for (int64_t i = 0; i < window.size; ++i) {
      to[i] = narrow<T>(clamp(widen(from[i]) + move, 0.0f, 1.0f));
    }
  }
}

Tensor square_window(const Tensor& x, const Tensor& x0, const Tensor& sample_ids,
                     const Tensor& step, int64_t size, double eps, int64_t seed, int64_t stream) {
  const char* op = "square_window";
  check_like(op, x, x);
  check_like(op, x0, x);
  check_dtype(op, x0, x.scalar_type());
  STD_TORCH_CHECK(x.dim() == 4, op, ": expected (rows, channels, height, width)");
  const int64_t rows = x.size(0);
  for (const Tensor* of_row : {&sample_ids, &step}) {
    check_dtype(op, *of_row, ScalarType::Long);
    STD_TORCH_CHECK(of_row->is_contiguous() && of_row->numel() == rows, op, ": expected ", rows,
                    " contiguous values, got ", of_row->numel());
  }
  Tensor out = torch::stable::empty_like(x);
  if (x.numel() == 0) return out;
  const Shape shape{x.size(1), x.size(2), x.size(3)};
  STD_TORCH_CHECK(shape.channels <= 64 && size >= 1 && size <= std::min(shape.height, shape.width),
                  op, ": no window of size ", size);
  const auto *ids = input<int64_t>(sample_ids), *steps = input<int64_t>(step);
  const auto radius = static_cast<float>(eps);
  const int64_t plane = shape.height * shape.width;
  const int64_t grain = std::max<int64_t>(1, kGrain / (plane * shape.channels));
  with_float_type(op, x.scalar_type(), [&](auto element) {
    using T = decltype(element);
    torch::stable::parallel_for(0, rows, grain, [&](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) {
        const Window window = draw_window(ids[row], steps[row], seed, stream, shape, size);
        for (int64_t channel = 0; channel < shape.channels; ++channel) {
          const int64_t begin = (row * shape.channels + channel) * plane;
          const float move = window.up >> channel & 1 ? radius : -radius;
          propose_plane(output<T>(out) + begin, input<T>(x) + begin, input<T>(x0) + begin, shape,
                        window, move);
        }
      }
    });
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(deitsec_cpp, CPU, m) {
  m.impl("square_window", TORCH_BOX(&square_window));
}

}  // namespace deitsec
