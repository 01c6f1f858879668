// See deitsec/ops/distillation_loss.py for the meaning.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <vector>

#include "check.h"
#include "cpu/clones.h"
#include "math/softmax.h"

namespace deitsec {
namespace {

constexpr int64_t kGrain = 8192;  // logits below which a second thread costs more than it saves

template <class T>
struct Rows {
  const T* student;
  const T* teacher;
  const int64_t* labels;  // null: no cross-entropy with labels
  int64_t classes;
  double temperature;
  double soft_weight;  // alpha
  double hard_weight;  // 1 - alpha, or 0 without labels
  double scale;
  float* loss;
  T* gradient;  // null: not wanted
};

// Room for one row: its logits, then their exponentials.
struct Scratch {
  float* student;  // exp(student / T)
  float* teacher;  // exp(teacher / T)
  float* plain;    // exp(student), or minus the sum of the others at the label
};

struct Sums {
  double student = 0.0;
  double teacher = 0.0;
  double others = 0.0;  // of exp(student) over every class but the label
  double cross = 0.0;   // of exp(teacher / T) * (teacher - student) / T
};

template <bool kWithLabel>
DEITSEC_INLINE Sums soft_exps(const Scratch& exps, int64_t size, float student_max,
                              float teacher_max, float inverse, int64_t label) {
  Sums sums;
  float *student = exps.student, *teacher = exps.teacher, *plain = exps.plain;
  const auto skip = static_cast<int32_t>(label);
  for (int64_t begin = 0; begin < padded(size); begin += kSumBlock) {
    const auto end = static_cast<int32_t>(block_end(begin, padded(size)));
    float student_sum = 0.0f, teacher_sum = 0.0f, others = 0.0f, cross = 0.0f;
#pragma omp simd reduction(+ : student_sum, teacher_sum, others, cross)
    for (auto i = static_cast<int32_t>(begin); i < end; ++i) {
      const float s = student[i] - student_max, t = teacher[i] - teacher_max;
      const float q = exp_nonpositive(s * inverse), p = exp_nonpositive(t * inverse);
      if constexpr (kWithLabel) {
        const float e = exp_nonpositive(s);
        plain[i] = e;
        others += i == skip ? 0.0f : e;
      }
      student[i] = q;
      teacher[i] = p;
      student_sum += q;
      teacher_sum += p;
      cross += p * ((t - s) * inverse);
    }
    sums.student += student_sum;
    sums.teacher += teacher_sum;
    sums.others += others;
    sums.cross += cross;
  }
  return sums;
}

// alpha * T^2 * KL(teacher || student) + (1 - alpha) * CE(student, label)
template <class T, bool kWithLabel>
DEITSEC_CLONES void soft_rows(const Rows<T>& rows, int64_t first, int64_t last,
                              const Scratch& exps) {
  const int64_t classes = rows.classes;
  const double temperature = rows.temperature;
  const double soft = rows.scale * rows.soft_weight * temperature;
  const auto inverse = static_cast<float>(1.0 / temperature);
  for (int64_t row = first; row < last; ++row) {
    const float student_max = load_row(rows.student + row * classes, classes, exps.student);
    const float teacher_max = load_row(rows.teacher + row * classes, classes, exps.teacher);
    const int64_t label = kWithLabel ? rows.labels[row] : 0;
    const double shifted = static_cast<double>(exps.student[label]) - student_max;
    const Sums sums =
        soft_exps<kWithLabel>(exps, classes, student_max, teacher_max, inverse, label);
    const double divergence = sums.cross / sums.teacher + std::log(sums.student / sums.teacher);
    double loss = rows.soft_weight * temperature * temperature * divergence;
    const double plain_total = kWithLabel ? sums.others + exps.plain[label] : 1.0;
    if constexpr (kWithLabel) {
      loss += rows.hard_weight * (std::log(plain_total) - shifted);
      exps.plain[label] = static_cast<float>(-sums.others);
    }
    rows.loss[row] = static_cast<float>(rows.scale * loss);
    if (rows.gradient == nullptr) continue;
    T* gradient = rows.gradient + row * classes;
    const auto of_student = static_cast<float>(soft / sums.student);
    const auto of_teacher = static_cast<float>(soft / sums.teacher);
    const auto of_plain = static_cast<float>(rows.scale * rows.hard_weight / plain_total);
    const float *q = exps.student, *p = exps.teacher, *plain = exps.plain;
#pragma omp simd
    for (int64_t i = 0; i < classes; ++i) {
      float value = of_student * q[i] - of_teacher * p[i];
      if constexpr (kWithLabel) value += of_plain * plain[i];
      gradient[i] = narrow<T>(value);
    }
  }
}

// alpha * CE(student, argmax teacher) + (1 - alpha) * CE(student, label)
template <class T>
DEITSEC_CLONES void hard_rows(const Rows<T>& rows, int64_t first, int64_t last,
                              const Scratch& exps) {
  const int64_t classes = rows.classes;
  float* plain = exps.plain;
  for (int64_t row = first; row < last; ++row) {
    const float teacher_max = load_row(rows.teacher + row * classes, classes, exps.teacher);
    const int64_t choice = row_argmax(exps.teacher, classes, teacher_max);
    const int64_t label = rows.labels != nullptr ? rows.labels[row] : choice;
    const float largest = load_row(rows.student + row * classes, classes, plain);
    const double choice_shifted = static_cast<double>(plain[choice]) - largest;
    const double label_shifted = static_cast<double>(plain[label]) - largest;
    const double beside_choice = exp_row(plain, classes, largest, choice);
    const double total = beside_choice + plain[choice];
    const double beside_label = label == choice ? beside_choice : sum_row(plain, classes, label);
    rows.loss[row] =
        static_cast<float>(rows.scale * (rows.soft_weight * (std::log(total) - choice_shifted) +
                                         rows.hard_weight * (std::log(total) - label_shifted)));
    if (rows.gradient == nullptr) continue;
    T* gradient = rows.gradient + row * classes;
    const double soft = rows.scale * rows.soft_weight / total;
    const double hard = rows.scale * rows.hard_weight / total;
    const auto both = static_cast<float>(soft + hard);
#pragma omp simd
    for (int64_t i = 0; i < classes; ++i) gradient[i] = narrow<T>(both * plain[i]);
    const bool same = label == choice;
    const double at_choice = -soft * beside_choice + hard * (same ? -beside_choice : plain[choice]);
    const double at_label = same ? at_choice : soft * plain[label] - hard * beside_label;
    gradient[choice] = narrow<T>(static_cast<float>(at_choice));
    gradient[label] = narrow<T>(static_cast<float>(at_label));
  }
}

template <class T>
void all_rows(const Rows<T>& rows, bool hard, int64_t first, int64_t last) {
  const int64_t length = padded(rows.classes);
  std::vector<float> room(3 * length);
  const Scratch exps{room.data(), room.data() + length, room.data() + 2 * length};
  if (hard) return hard_rows<T>(rows, first, last, exps);
  if (rows.labels != nullptr) return soft_rows<T, true>(rows, first, last, exps);
  soft_rows<T, false>(rows, first, last, exps);
}

std::tuple<Tensor, Tensor> distillation_rows(const Tensor& student, const Tensor& teacher,
                                             const std::optional<Tensor>& labels,
                                             double temperature, double alpha, bool hard,
                                             double scale, bool with_grad) {
  const char* op = "distillation_loss";
  check_logits(op, student);
  check_like(op, teacher, student);
  check_dtype(op, teacher, student.scalar_type());
  const int64_t count = student.size(0), classes = student.size(1);
  if (labels) check_labels(op, *labels, count, classes);
  const std::array<int64_t, 1> loss_shape{count};
  const std::array<int64_t, 2> gradient_shape{with_grad ? count : 0, classes};
  Tensor loss = torch::stable::new_empty(student, loss_shape, ScalarType::Float);
  Tensor gradient = torch::stable::new_empty(student, gradient_shape);
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, classes));
  with_float_type(op, student.scalar_type(), [&](auto element) {
    using T = decltype(element);
    const Rows<T> rows{input<T>(student),
                       input<T>(teacher),
                       labels ? input<int64_t>(*labels) : nullptr,
                       classes,
                       temperature,
                       alpha,
                       labels ? 1.0 - alpha : 0.0,
                       scale,
                       output<float>(loss),
                       with_grad ? output<T>(gradient) : nullptr};
    torch::stable::parallel_for(
        0, count, grain, [&](int64_t first, int64_t last) { all_rows(rows, hard, first, last); });
  });
  return {loss, gradient};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(deitsec_cpp, CPU, m) {
  m.impl("distillation_rows", TORCH_BOX(&distillation_rows));
}

}  // namespace deitsec
