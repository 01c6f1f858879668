// Passes over one row of logits, from which the fused losses are made. Sums run in fp32 lanes over
// blocks, the blocks into double: a row of 100,000 classes loses no digits that one of 100 keeps.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "math/exp.h"
#include "math/number.h"

namespace deitsec {

constexpr int64_t kSumBlock = 1024;

DEITSEC_INLINE int64_t block_end(int64_t begin, int64_t size) {
  return begin + kSumBlock < size ? begin + kSumBlock : size;
}

// Largest value of a row; what it gives for a row with a NaN is not specified.
template <class T>
DEITSEC_INLINE float row_max(const T* row, int64_t size) {
  float largest = -std::numeric_limits<float>::infinity();
#pragma omp simd reduction(max : largest)
  for (int64_t i = 0; i < size; ++i) {
    const float value = widen(row[i]);
    largest = largest > value ? largest : value;
  }
  return largest;
}

// First index of the largest value, or of the first NaN where there is one, as torch.argmax.
template <class T>
DEITSEC_INLINE int64_t row_argmax(const T* row, int64_t size, float largest) {
  const auto none = static_cast<int32_t>(size);
  int32_t first = none, first_nan = none;
#pragma omp simd reduction(min : first, first_nan)
  for (int32_t i = 0; i < none; ++i) {
    const float value = widen(row[i]);
    const int32_t here = value == largest ? i : none;
    const int32_t here_nan = value != value ? i : none;
    first = first < here ? first : here;
    first_nan = first_nan < here_nan ? first_nan : here_nan;
  }
  return first_nan < none ? first_nan : first;
}

// exp(row - largest) into `exps`; the sum over every class but `label`. The label's own gradient is
// minus this sum: 1 - softmax would cancel where the model is sure.
template <class T>
DEITSEC_INLINE double exp_row(const T* row, int64_t size, float largest, int64_t label,
                              float* exps) {
  const auto skip = static_cast<int32_t>(label);
  double others = 0.0;
  for (int64_t begin = 0; begin < size; begin += kSumBlock) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (auto i = static_cast<int32_t>(begin); i < static_cast<int32_t>(block_end(begin, size));
         ++i) {
      const float e = exp_approx(widen(row[i]) - largest);
      exps[i] = e;
      sum += i == skip ? 0.0f : e;
    }
    others += sum;
  }
  return others;
}

}  // namespace deitsec
