// What the row-wise steps share: the rows of a tensor, dealt out to threads.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>

#include "check.h"

namespace deitsec {

constexpr int64_t kRowGrain = 32768;  // elements below which a second thread costs more

struct Rows {
  int64_t count;
  int64_t elements;
};

// The rows of a tensor that has some; (0, 0) where it has no element.
inline Rows rows_of(const char* op, const Tensor& tensor) {
  if (tensor.numel() == 0) return {0, 0};
  STD_TORCH_CHECK(tensor.dim() > 0, op, ": expected rows");
  return {tensor.size(0), tensor.numel() / tensor.size(0)};
}

// Calls `use(first, last)` on ranges of rows.
template <class Use>
void for_rows(const Rows& rows, const Use& use) {
  if (rows.count == 0) return;
  const int64_t grain = std::max<int64_t>(1, kRowGrain / rows.elements);
  torch::stable::parallel_for(0, rows.count, grain, use);
}

// The factor that gives a gradient of this norm the length alpha. A norm of 0, NaN or infinity is
// no direction, and gives 0.
inline double scale_to(double alpha, double norm) {
  return norm > 0.0 && std::isfinite(norm) ? alpha / norm : 0.0;
}

}  // namespace deitsec
