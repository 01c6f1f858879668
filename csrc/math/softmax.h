// Passes over one row of logits on the CPU, from which the fused losses are made. A row is widened
// once into fp32 and padded to whole vectors, so that short rows run no scalar tail. Sums run in
// fp32 lanes over blocks, the blocks into double: a row of 100,000 classes keeps its digits.
#pragma once

#include <cfloat>
#include <cstdint>

#include "math/exp.h"
#include "math/number.h"

namespace deitsec {

constexpr int64_t kLanes = 16;
constexpr int64_t kSumBlock = 1024;   // a multiple of kLanes
constexpr float kPadding = -FLT_MAX;  // its exponential is 0; unlike -inf, it minus itself is 0

DEITSEC_INLINE int64_t padded(int64_t size) { return (size + kLanes - 1) / kLanes * kLanes; }

DEITSEC_INLINE int64_t block_end(int64_t begin, int64_t size) {
  return begin + kSumBlock < size ? begin + kSumBlock : size;
}

// Widens a row into `values`, pads it, and gives its largest value; what that is for a row with a
// NaN is not specified.
template <class T>
DEITSEC_INLINE float load_row(const T* row, int64_t size, float* values) {
  float largest = kPadding;
#pragma omp simd reduction(max : largest)
  for (int64_t i = 0; i < size; ++i) {
    const float value = widen(row[i]);
    values[i] = value;
    largest = largest > value ? largest : value;
  }
  for (int64_t i = size; i < padded(size); ++i) values[i] = kPadding;
  return largest;
}

// First index of the largest value, or of the first NaN where there is one, as torch.argmax.
DEITSEC_INLINE int64_t row_argmax(const float* values, int64_t size, float largest) {
  const auto none = static_cast<int32_t>(size);
  int32_t first = none, first_nan = none;
#pragma omp simd reduction(min : first, first_nan)
  for (int32_t i = 0; i < static_cast<int32_t>(padded(size)); ++i) {
    const int32_t here = values[i] == largest ? i : none;
    const int32_t here_nan = values[i] != values[i] ? i : none;
    first = first < here ? first : here;
    first_nan = first_nan < here_nan ? first_nan : here_nan;
  }
  if (first_nan < none) return first_nan;
  return first < none ? first : 0;  // a row of -inf alone is below the padding
}

// Turns a loaded row into exp(value - largest); gives the sum over every class but `label`. The
// label's own gradient is minus this sum: 1 - softmax would cancel where the model is sure.
DEITSEC_INLINE double exp_row(float* values, int64_t size, float largest, int64_t label) {
  const auto skip = static_cast<int32_t>(label);
  double others = 0.0;
  for (int64_t begin = 0; begin < padded(size); begin += kSumBlock) {
    const auto end = static_cast<int32_t>(block_end(begin, padded(size)));
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (auto i = static_cast<int32_t>(begin); i < end; ++i) {
      const float e = exp_nonpositive(values[i] - largest);
      values[i] = e;
      sum += i == skip ? 0.0f : e;
    }
    others += sum;
  }
  return others;
}

// Sum of a row of exponentials over every class but `label`.
DEITSEC_INLINE double sum_row(const float* exps, int64_t size, int64_t label) {
  const auto skip = static_cast<int32_t>(label);
  double others = 0.0;
  for (int64_t begin = 0; begin < padded(size); begin += kSumBlock) {
    const auto end = static_cast<int32_t>(block_end(begin, padded(size)));
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (auto i = static_cast<int32_t>(begin); i < end; ++i) sum += i == skip ? 0.0f : exps[i];
    others += sum;
  }
  return others;
}

}  // namespace deitsec
