// margin_loss, dlr_loss and targeted_dlr_loss: see deitsec/ops/ for the meaning of each. They need
// the 2, 3 or 4 largest logits of a row; all but a few entries of the gradient are 0.
#include "math/logit_ratio.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <array>
#include <limits>
#include <utility>
#include <vector>

#include "check.h"
#include "cpu/clones.h"
#include "math/softmax.h"

namespace deitsec {
namespace {

constexpr int64_t kGrain = 16384;  // logits below which a second thread costs more than it saves
// Classes up to which one insertion after the other beats sweeps: at 512x10 margin_loss took 12.6
// us and 42 us, at 512x100 both 55 us (one shared x86-64 core).
constexpr int64_t kShort = 64;

template <class T>
struct Rows {
  const T* logits;
  const int64_t* labels;
  const int64_t* targets;  // null: the largest logit but the label's
  int64_t classes;
  float* loss;
  T* gradient;
  int64_t* predicted;
};

DEITSEC_INLINE float row_max(const float* values, int64_t size) {
  float largest = kPadding;
#pragma omp simd reduction(max : largest)
  for (int64_t i = 0; i < padded(size); ++i) largest = largest > values[i] ? largest : values[i];
  return largest;
}

// The largest logits in descending order, the lowest index first among equals, NaN before all.
// Takes them out of `values`.
template <int kCount, class T>
DEITSEC_INLINE std::array<Logit, kCount> largest_logits(const T* row, int64_t size, float* values) {
  std::array<Logit, kCount> top;
  float largest = load_row(row, size, values);
  for (int k = 0; k < kCount; ++k) {
    if (k > 0) largest = row_max(values, size);
    const int64_t index = row_argmax(values, size, largest);
    top[k] = {index, values[index]};
    values[index] = -std::numeric_limits<float>::infinity();
  }
  return top;
}

// The same of a short row, where sweeps cost more than they compare.
template <int kCount, class T>
DEITSEC_INLINE std::array<Logit, kCount> largest_logits(const T* row, int64_t size) {
  std::array<Logit, kCount> top;
  for (Logit& logit : top) logit = {0, -std::numeric_limits<float>::infinity()};
  for (int64_t i = 0; i < size; ++i) {
    Logit next{i, widen(row[i])};
    for (Logit& logit : top) {
      // once it has found its place, what it displaces goes down
      const bool placed = next.index < i;
      const bool nan = next.value != next.value && logit.value == logit.value;
      if (placed || nan || next.value > logit.value) std::swap(next, logit);
    }
  }
  return top;
}

template <int kLow, class T>
DEITSEC_CLONES void loss_rows(const Rows<T>& rows, int64_t begin, int64_t end, float* values) {
  const int64_t classes = rows.classes;
  for (int64_t i = begin; i < end; ++i) {
    const T* row = rows.logits + i * classes;
    T* gradient = rows.gradient + i * classes;
    const auto top = classes <= kShort ? largest_logits<2 + kLow>(row, classes)
                                       : largest_logits<2 + kLow>(row, classes, values);
    const int64_t label = rows.labels[i];
    const Logit down{label, widen(row[label])};
    Logit up = top[0].index == label ? top[1] : top[0];
    if (rows.targets != nullptr) up = {rows.targets[i], widen(row[rows.targets[i]])};
    rows.predicted[i] = top[0].index;
    std::fill_n(gradient, classes, T{});
    if constexpr (kLow == 0) {
      rows.loss[i] = up.value - down.value;
      gradient[up.index] = narrow<T>(1.0f);
      gradient[down.index] = narrow<T>(-1.0f);
    } else {
      const auto ratio = logit_ratio<kLow>(top[0], &top[2], up, down);
      rows.loss[i] = ratio.loss;
      if (up.index == down.index) continue;
      gradient[up.index] = narrow<T>(ratio.up);
      gradient[down.index] = narrow<T>(ratio.down);
      for (int j = 0; j < kLow; ++j) gradient[top[2 + j].index] = narrow<T>(ratio.low[j]);
      gradient[top[0].index] = narrow<T>(ratio.first);
    }
  }
}

using Losses = std::tuple<Tensor, Tensor, Tensor>;

template <int kLow>
Losses loss_of_largest(const char* op, const Tensor& logits, const Tensor& labels,
                       const Tensor* targets) {
  check_logits(op, logits);
  const int64_t count = logits.size(0), classes = logits.size(1);
  STD_TORCH_CHECK(classes >= 2 + kLow, op, ": expected at least ", 2 + kLow, " classes, got ",
                  classes);
  check_labels(op, labels, count, classes);
  if (targets != nullptr) check_labels(op, *targets, count, classes, "target");
  const std::array<int64_t, 1> shape{count};
  Tensor loss = torch::stable::new_empty(logits, shape, ScalarType::Float);
  Tensor gradient = torch::stable::empty_like(logits);
  Tensor predicted = torch::stable::empty_like(labels);
  const int64_t grain = std::max<int64_t>(1, kGrain / classes);
  with_float_type(op, logits.scalar_type(), [&](auto element) {
    using T = decltype(element);
    const Rows<T> rows{input<T>(logits),
                       input<int64_t>(labels),
                       targets == nullptr ? nullptr : input<int64_t>(*targets),
                       classes,
                       output<float>(loss),
                       output<T>(gradient),
                       output<int64_t>(predicted)};
    torch::stable::parallel_for(0, count, grain, [&](int64_t first, int64_t last) {
      std::vector<float> values(padded(classes));
      loss_rows<kLow>(rows, first, last, values.data());
    });
  });
  return {loss, gradient, predicted};
}

Losses margin_loss(const Tensor& logits, const Tensor& labels) {
  return loss_of_largest<0>("margin_loss", logits, labels, nullptr);
}

Losses dlr_loss(const Tensor& logits, const Tensor& labels) {
  return loss_of_largest<1>("dlr_loss", logits, labels, nullptr);
}

Losses targeted_dlr_loss(const Tensor& logits, const Tensor& labels, const Tensor& targets) {
  return loss_of_largest<2>("targeted_dlr_loss", logits, labels, &targets);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(deitsec_cpp, CPU, m) {
  m.impl("margin_loss", TORCH_BOX(&margin_loss));
  m.impl("dlr_loss", TORCH_BOX(&dlr_loss));
  m.impl("targeted_dlr_loss", TORCH_BOX(&targeted_dlr_loss));
}

}  // namespace deitsec
