// See deitsec/ops/distillation_loss.py for the meaning.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <array>
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

// Room for the exponentials of one row.
struct Scratch {
  float* student;  // exp(student / T)
  float* teacher;  // exp(teacher / T)
  float* plain;    // exp(student)
};

struct Sums {
  double student = 0.0;
  double teacher = 0.0;
  double cross = 0.0;  // sum of exp(teacher / T) * (teacher - student) / T
};

template <class T>
DEITSEC_INLINE Sums soft_row(const T* student, const T* teacher, int64_t size, float student_max,
                             float teacher_max, float inverse, const Scratch& exps) {
  Sums sums;
  float* student_exps = exps.student;
  float* teacher_exps = exps.teacher;
  for (int64_t begin = 0; begin < size; begin += kSumBlock) {
    float student_sum = 0.0f, teacher_sum = 0.0f, cross = 0.0f;
#pragma omp simd reduction(+ : student_sum, teacher_sum, cross)
    for (int64_t i = begin; i < block_end(begin, size); ++i) {
      const float s = (widen(student[i]) - student_max) * inverse;
      const float t = (widen(teacher[i]) - teacher_max) * inverse;
      const float q = exp_approx(s), p = exp_approx(t);
      student_exps[i] = q;
      teacher_exps[i] = p;
      student_sum += q;
      teacher_sum += p;
      cross += p * (t - s);
    }
    sums.student += student_sum;
    sums.teacher += teacher_sum;
    sums.cross += cross;
  }
  return sums;
}

// alpha * T^2 * KL(teacher || student) + (1 - alpha) * CE(student, label)
template <class T>
DEITSEC_CLONES void soft_rows(const Rows<T>& rows, int64_t first, int64_t last,
                              const Scratch& exps) {
  const int64_t classes = rows.classes;
  const double temperature = rows.temperature;
  for (int64_t row = first; row < last; ++row) {
    const T* student = rows.student + row * classes;
    const T* teacher = rows.teacher + row * classes;
    const float student_max = row_max(student, classes);
    const float teacher_max = row_max(teacher, classes);
    const Sums sums = soft_row(student, teacher, classes, student_max, teacher_max,
                               static_cast<float>(1.0 / temperature), exps);
    const double divergence = sums.cross / sums.teacher + std::log(sums.student / sums.teacher);
    double loss = rows.soft_weight * temperature * temperature * divergence;
    double plain_total = 1.0;
    if (rows.labels != nullptr) {
      const int64_t label = rows.labels[row];
      const double others = exp_row(student, classes, student_max, label, exps.plain);
      plain_total = others + exps.plain[label];
      const double shifted = widen(student[label]) - student_max;
      loss += rows.hard_weight * (std::log(plain_total) - shifted);
      exps.plain[label] = static_cast<float>(-others);
    }
    rows.loss[row] = static_cast<float>(rows.scale * loss);
    if (rows.gradient == nullptr) continue;
    T* gradient = rows.gradient + row * classes;
    const double soft = rows.scale * rows.soft_weight * temperature;
    const auto of_student = static_cast<float>(soft / sums.student);
    const auto of_teacher = static_cast<float>(soft / sums.teacher);
    const auto of_plain = static_cast<float>(rows.scale * rows.hard_weight / plain_total);
    const float *q = exps.student, *p = exps.teacher, *plain = exps.plain;
    if (rows.labels != nullptr) {
#pragma omp simd
      for (int64_t i = 0; i < classes; ++i) {
        gradient[i] = narrow<T>((of_student * q[i] - of_teacher * p[i]) + of_plain * plain[i]);
      }
    } else {
#pragma omp simd
      for (int64_t i = 0; i < classes; ++i) {
        gradient[i] = narrow<T>(of_student * q[i] - of_teacher * p[i]);
      }
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
    const T* student = rows.student + row * classes;
    const T* teacher = rows.teacher + row * classes;
    const int64_t choice = row_argmax(teacher, classes, row_max(teacher, classes));
    const int64_t label = rows.labels != nullptr ? rows.labels[row] : choice;
    const float largest = row_max(student, classes);
    const double beside_choice = exp_row(student, classes, largest, choice, plain);
    const double total = beside_choice + plain[choice];
    const double beside_label =
        label == choice ? beside_choice : exp_row(student, classes, largest, label, plain);
    const double choice_loss = std::log(total) - (widen(student[choice]) - largest);
    const double label_loss = std::log(total) - (widen(student[label]) - largest);
    rows.loss[row] = static_cast<float>(
        rows.scale * (rows.soft_weight * choice_loss + rows.hard_weight * label_loss));
    if (rows.gradient == nullptr) continue;
    T* gradient = rows.gradient + row * classes;
    const double soft = rows.scale * rows.soft_weight / total;
    const double hard = rows.scale * rows.hard_weight / total;
    const auto both = static_cast<float>(soft + hard);
#pragma omp simd
    for (int64_t i = 0; i < classes; ++i) gradient[i] = narrow<T>(both * plain[i]);
    const double at_choice = -soft * beside_choice + (label == choice ? -hard * beside_choice
                                                                      : hard * plain[choice]);
    const double at_label = label == choice ? at_choice : soft * plain[label] - hard * beside_label;
    gradient[choice] = narrow<T>(static_cast<float>(at_choice));
    gradient[label] = narrow<T>(static_cast<float>(at_label));
  }
}

std::tuple<Tensor, Tensor> distillation_rows(const Tensor& student, const Tensor& teacher,
                                             const std::optional<Tensor>& labels,
                                             double temperature, double alpha, bool hard,
                                             double scale, bool with_grad) {
  const char* op = "distillation_loss";
  STD_TORCH_CHECK(student.dim() == 2, op, ": expected (rows, classes)");
  check_like(op, student, student);
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
    torch::stable::parallel_for(0, count, grain, [&](int64_t first, int64_t last) {
      std::vector<float> room(3 * classes);
      const Scratch exps{room.data(), room.data() + classes, room.data() + 2 * classes};
      (hard ? hard_rows<T> : soft_rows<T>)(rows, first, last, exps);
    });
  });
  return {loss, gradient};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(deitsec_cpp, CPU, m) {
  m.impl("distillation_rows", TORCH_BOX(&distillation_rows));
}

}  // namespace deitsec
