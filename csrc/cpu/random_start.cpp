// See deitsec/ops/random_start.py for the meaning.
#include <torch/csrc/stable/library.h>

#include <algorithm>

#include "check.h"
#include "cpu/clones.h"
#include "math/linf_step.h"
#include "math/philox.h"

namespace deitsec {
namespace {

constexpr int64_t kChunk = 512;  // elements whose words are made at once; they stay in the L1 cache
constexpr int64_t kVector = 16;  // counters in one vector
constexpr int64_t kGrain = 16;   // chunks below which a second thread costs more than it saves

struct Draw {
  uint64_t seed;
  uint32_t stream;
  float eps;
};

// Elements [begin, begin + size) of a row; begin is a multiple of 4.
template <class T>
DEITSEC_CLONES void start_chunk(T* out, const T* x0, int64_t begin, int64_t size, uint64_t sample,
                                Draw draw) {
  uint32_t words[kChunk];
  const auto key0 = static_cast<uint32_t>(draw.seed);
  const auto key1 = static_cast<uint32_t>(draw.seed >> 32);
  const auto first = static_cast<uint32_t>(begin / 4);
  const int64_t blocks = (size + 4 * kVector - 1) / (4 * kVector) * kVector;  // no scalar tail
#pragma GCC ivdep  // omp simd would keep the struct in memory, lane by lane
  for (int64_t block = 0; block < blocks; ++block) {
    const PhiloxWords counter{first + static_cast<uint32_t>(block), static_cast<uint32_t>(sample),
                              static_cast<uint32_t>(sample >> 32), draw.stream};
    const PhiloxWords made = philox(counter, key0, key1);
    words[4 * block] = made.w0;
    words[4 * block + 1] = made.w1;
    words[4 * block + 2] = made.w2;
    words[4 * block + 3] = made.w3;
  }
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) {
    const float moved = widen(x0[i]) + draw.eps * symmetric_uniform(words[i]);
    out[i] = narrow<T>(clamp(moved, 0.0f, 1.0f));
  }
}

Tensor random_start(const Tensor& x0, const Tensor& sample_ids, double eps, int64_t seed,
                    int64_t stream) {
  const char* op = "random_start";
  check_like(op, x0, x0);
  check_like(op, sample_ids, sample_ids);
  check_dtype(op, sample_ids, ScalarType::Long);
  Tensor out = torch::stable::empty_like(x0);
  const int64_t rows = sample_ids.numel();
  if (x0.numel() == 0) return out;
  STD_TORCH_CHECK(x0.dim() > 0 && x0.size(0) == rows, op, ": expected one sample id for each row");
  const int64_t elements = x0.numel() / rows;
  const int64_t chunks = (elements + kChunk - 1) / kChunk;
  const Draw draw{static_cast<uint64_t>(seed), static_cast<uint32_t>(stream),
                  static_cast<float>(eps)};
  const auto* ids = input<int64_t>(sample_ids);
  with_float_type(op, x0.scalar_type(), [&](auto element) {
    using T = decltype(element);
    torch::stable::parallel_for(0, rows * chunks, kGrain, [&](int64_t first, int64_t last) {
      for (int64_t chunk = first; chunk < last; ++chunk) {
        const int64_t row = chunk / chunks;
        const int64_t begin = chunk % chunks * kChunk;
        const int64_t offset = row * elements + begin;
        start_chunk(output<T>(out) + offset, input<T>(x0) + offset, begin,
                    std::min(kChunk, elements - begin), static_cast<uint64_t>(ids[row]), draw);
      }
    });
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(deitsec_cpp, CPU, m) { m.impl("random_start", TORCH_BOX(&random_start)); }

}  // namespace deitsec
