// See deitsec/ops/cross_entropy_loss.py for the meaning.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "check.h"
#include "cpu/clones.h"
#include "math/softmax.h"

namespace deitsec {
namespace {

constexpr int64_t kGrain = 16384;  // logits below which a second thread costs more than it saves

template <class T>
struct Rows {
  const T* logits;
  const int64_t* labels;
  int64_t classes;
  float* loss;
  T* gradient;
  int64_t* predicted;
};

template <class T>
DEITSEC_CLONES void loss_rows(const Rows<T>& rows, int64_t first, int64_t last, float* exps) {
  const int64_t classes = rows.classes;
  for (int64_t row = first; row < last; ++row) {
    T* gradient = rows.gradient + row * classes;
    const int64_t label = rows.labels[row];
    const float largest = load_row(rows.logits + row * classes, classes, exps);
    rows.predicted[row] = row_argmax(exps, classes, largest);
    const double shifted = static_cast<double>(exps[label]) - largest;
    const double others = exp_row(exps, classes, largest, label);
    const double total = others + exps[label];
    rows.loss[row] = static_cast<float>(std::log(total) - shifted);
    exps[label] = static_cast<float>(-others);
    const auto factor = static_cast<float>(1.0 / total);
#pragma omp simd
    for (int64_t i = 0; i < classes; ++i) gradient[i] = narrow<T>(exps[i] * factor);
  }
}

std::tuple<Tensor, Tensor, Tensor> cross_entropy_loss(const Tensor& logits, const Tensor& labels) {
  const char* op = "cross_entropy_loss";
  check_logits(op, logits);
  const int64_t count = logits.size(0), classes = logits.size(1);
  check_labels(op, labels, count, classes);
  const std::array<int64_t, 1> shape{count};
  Tensor loss = torch::stable::new_empty(logits, shape, ScalarType::Float);
  Tensor gradient = torch::stable::empty_like(logits);
  Tensor predicted = torch::stable::empty_like(labels);
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, classes));
  with_float_type(op, logits.scalar_type(), [&](auto element) {
    using T = decltype(element);
    const Rows<T> rows{input<T>(logits),    input<int64_t>(labels), classes,
                       output<float>(loss), output<T>(gradient),    output<int64_t>(predicted)};
    torch::stable::parallel_for(0, count, grain, [&](int64_t first, int64_t last) {
      std::vector<float> exps(padded(classes));
      loss_rows(rows, first, last, exps.data());
    });
  });
  return {loss, gradient, predicted};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(deitsec_cpp, CPU, m) {
  m.impl("cross_entropy_loss", TORCH_BOX(&cross_entropy_loss));
}

}  // namespace deitsec
